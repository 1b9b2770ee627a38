package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/revision"
	"tenure/internal/supervise"
)

// Snaps are the installed snaps by name; with all every revision that is kept,
// also of snaps that are removed and still in use.
func (m *Manager) Snaps(_ context.Context, all bool) ([]Snap, error) {
	states, err := m.snaps.All()
	if err != nil {
		return nil, err
	}
	staged := m.staged()
	var snaps []Snap
	for i := range states {
		for _, rev := range states[i].Line.Kept() {
			current := rev == states[i].Line.Current
			if current || all {
				described := states[i].describe(rev)
				described.Staged = staged[described.Ref]
				if described.Health, err = m.health(described.Ref); err != nil {
					return nil, err
				}
				if described.Held, err = m.generalHold(described.Ref.Snap, m.cfg.Now()); err != nil {
					return nil, err
				}
				snaps = append(snaps, described)
			}
		}
	}
	return snaps, nil
}

func (s *snapState) describe(rev tenure.Revision) Snap {
	kept := s.Kept[rev]
	current := rev == s.Line.Current
	return Snap{
		Ref: tenure.Ref{Snap: s.Instance, Revision: rev}, Info: kept.Info,
		Current: current, Active: current && s.Line.Active,
		Options: s.Options, Size: kept.Size, Installed: kept.Installed, Digest: kept.Digest,
		Tracking: s.Tracking, Origin: kept.Origin,
	}
}

// Services are the services of the named snaps or services; of all when none is
// named.
func (m *Manager) Services(ctx context.Context, named []string) ([]ServiceInfo, error) {
	states, err := m.snaps.All()
	if err != nil {
		return nil, err
	}
	statuses, err := m.statuses(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	var services []ServiceInfo
	for i := range states {
		state := &states[i]
		if !state.Line.Installed() {
			continue
		}
		found[string(state.Instance)] = true
		all, err := m.servicesOf(state, statuses)
		if err != nil {
			return nil, err
		}
		for j := range all {
			found[all[j].Unit.String()] = true
			if wantsService(named, all[j].Unit) {
				services = append(services, all[j])
			}
		}
	}
	for _, name := range named {
		if !found[name] {
			return nil, &Error{Kind: KindApp, Op: "find", Object: name, Hint: "see tenure services", Err: errors.New("there is no snap or service of that name")}
		}
		if !slices.ContainsFunc(services, func(s ServiceInfo) bool { return wantsService([]string{name}, s.Unit) }) {
			return nil, &Error{Kind: KindApp, Op: "find services of", Object: name, Err: fmt.Errorf("snap %q has no services", name)}
		}
	}
	return services, nil
}

// servicesOf are the services of a snap, templates among them, and their instances.
func (m *Manager) servicesOf(state *snapState, statuses map[tenure.UnitID]supervise.Status) ([]ServiceInfo, error) {
	var services []ServiceInfo
	info := state.Kept[state.Line.Current].Info
	for i := range info.Apps {
		app := &info.Apps[i]
		if !app.IsService() {
			continue
		}
		unit := tenure.ServiceUnit(state.Instance, app.Name)
		services = append(services, ServiceInfo{
			Unit: unit, App: app, Status: statuses[unit], Active: statuses[unit].State.Alive(),
			Enabled: state.Line.Active && !app.Lifecycle.Instances && !slices.Contains(state.Disabled, app.Name),
		})
	}
	instances, err := m.serviceInstances(state, statuses)
	return append(services, instances...), err
}

// wantsService reports whether names are about a service: by its own, its snap's or its
// template's.
func wantsService(names []string, unit tenure.UnitID) bool {
	template := tenure.ServiceUnit(unit.Snap, unit.App).String()
	return len(names) == 0 || slices.ContainsFunc(names, func(name string) bool {
		return name == string(unit.Snap) || name == unit.String() || name == template
	})
}

func (m *Manager) statuses(ctx context.Context) (map[tenure.UnitID]supervise.Status, error) {
	list, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return nil, fmt.Errorf("see units: %w", err)
	}
	statuses := make(map[tenure.UnitID]supervise.Status, len(list))
	for _, status := range list {
		statuses[status.Unit] = status
	}
	return statuses, nil
}

// Units are all units that are alive or armed, with their processes.
func (m *Manager) Units(ctx context.Context) ([]UnitInfo, error) {
	list, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return nil, fmt.Errorf("see units: %w", err)
	}
	states, err := m.snaps.All()
	if err != nil {
		return nil, err
	}
	current := map[tenure.Instance]tenure.Revision{}
	for i := range states {
		current[states[i].Instance] = states[i].Line.Current
	}
	staged := map[tenure.Instance]tenure.Revision{}
	for ref := range m.staged() {
		staged[ref.Snap] = ref.Revision
	}
	processesOf, err := m.glance(ctx)
	if err != nil {
		return nil, err
	}
	var units []UnitInfo
	for _, status := range list {
		if idle(status) {
			continue
		}
		processes, err := processesOf(status.Unit)
		if err != nil {
			return nil, err
		}
		if len(processes) == 0 && status.Unit.Kind != tenure.Service {
			continue
		}
		unit := UnitInfo{Status: status, Processes: processes, Current: current[status.Unit.Snap], Staged: staged[status.Unit.Snap]}
		if status.Spec != nil && !status.Spec.Base.IsZero() {
			unit.StaleBase = current[status.Spec.Base.Snap] != status.Spec.Base.Revision
		}
		unit.Stale = status.Revision != unit.Current || unit.StaleBase
		units = append(units, unit)
	}
	m.date(units, states)
	slices.SortFunc(units, func(a, b UnitInfo) int { return strings.Compare(a.Unit.String(), b.Unit.String()) })
	return units, nil
}

// glance gives the processes of units, to be shown: all are looked at together by a supervisor
// that can do that.
func (m *Manager) glance(ctx context.Context) (of func(tenure.UnitID) ([]proc.Info, error), err error) {
	onlooker, can := m.cfg.Supervisor.(supervise.Onlooker)
	if !can {
		return func(unit tenure.UnitID) ([]proc.Info, error) { return m.processes(ctx, unit) }, nil
	}
	seen, err := onlooker.Glance(ctx)
	if err != nil {
		return nil, fmt.Errorf("see processes: %w", err)
	}
	return func(unit tenure.UnitID) ([]proc.Info, error) { return seen[unit], nil }, nil
}

// Pins are the reasons to keep one revision.
func (m *Manager) Pins(ctx context.Context, ref tenure.Ref) ([]revision.Pin, error) {
	state, err := m.snaps.Get(ref.Snap)
	if err != nil {
		return nil, err
	}
	if state == nil || !state.Line.Has(ref.Revision) {
		return nil, &Error{Kind: KindNotFound, Op: "say why " + ref.String() + " is kept", Err: fmt.Errorf("there is no revision %s of %q here", ref.Revision, ref.Snap)}
	}
	pins, err := m.pins(ctx, state)
	if err != nil {
		return nil, err
	}
	return pins[ref.Revision], nil
}

// Paths are the places that m works with.
func (m *Manager) Paths() Paths { return m.cfg.Paths }
