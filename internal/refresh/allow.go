package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/journal"
)

// Allowance is the administrator's word that one snap may start instances of
// a template of another.
type Allowance struct {
	Manager tenure.Instance `json:"manager"`
	Snap    tenure.Instance `json:"snap"`
	App     tenure.App      `json:"app"`
}

// allowances are those that have been given. They hold until they are taken back, or one
// of both snaps is removed.
type allowances struct {
	docs *journal.Collection[Allowance]
}

func (a Allowance) key() string { return string(a.Manager) + " " + a.template().String() }

func (a Allowance) template() tenure.UnitID { return tenure.ServiceUnit(a.Snap, a.App) }

// all are in the order of their managers.
func (a *allowances) all() ([]Allowance, error) {
	all, err := a.docs.All()
	if err != nil {
		return nil, fmt.Errorf("read what is allowed: %w", err)
	}
	list := make([]Allowance, 0, len(all))
	for _, allowance := range all {
		list = append(list, allowance)
	}
	slices.SortFunc(list, func(a, b Allowance) int { return cmp.Compare(a.key(), b.key()) })
	return list, nil
}

// drop takes back what has to do with a snap that is gone.
func (a *allowances) drop(snap tenure.Instance) error {
	all, err := a.all()
	for _, allowance := range all {
		if allowance.Manager == snap || allowance.Snap == snap {
			err = errors.Join(err, a.docs.Delete(allowance.key()))
		}
	}
	return err
}

// Allowances are all that have been given.
func (m *Manager) Allowances() ([]Allowance, error) { return m.allowances.all() }

// Allow lets a snap start instances of a template of another ("qemu.vm"), from now on
// and over restarts. Both must be there.
func (m *Manager) Allow(ctx context.Context, manager, template string) error {
	allowance, err := readAllowance("allow", manager, template)
	if err != nil {
		return err
	}
	release, err := m.claims.take(ctx, allowance.Manager, allowance.Snap)
	if err != nil {
		return err
	}
	defer release()
	if _, err := m.installedSnap("allow", allowance.Manager); err != nil {
		return err
	}
	state, err := m.installedSnap("allow", allowance.Snap)
	if err != nil {
		return err
	}
	any := tenure.InstanceUnit(allowance.Snap, allowance.App, "NAME")
	if _, err := declared(state.Kept[state.Line.Current].Info, any); err != nil {
		return &Error{Kind: KindApp, Op: "allow the start of", Object: template, Hint: "see tenure services " + string(allowance.Snap), Err: err}
	}
	return m.allowances.docs.Put(allowance.key(), allowance)
}

// Disallow takes back what Allow gave. What has been started goes on.
func (m *Manager) Disallow(_ context.Context, manager, template string) error {
	allowance, err := readAllowance("disallow", manager, template)
	if err != nil {
		return err
	}
	_, found, err := m.allowances.docs.Get(allowance.key())
	if err == nil && !found {
		err = &Error{Kind: KindNotFound, Op: "disallow", Object: manager, Hint: "see tenure allow --list", Err: fmt.Errorf("it may not start %s anyway", template)}
	}
	if err != nil {
		return err
	}
	return m.allowances.docs.Delete(allowance.key())
}

func readAllowance(op, manager, template string) (Allowance, error) {
	name, err := tenure.ParseInstance(manager)
	unit, unitErr := tenure.ParseUnit(template)
	if err = errors.Join(err, unitErr); err == nil && (unit.Kind != tenure.Service || unit.At != "") {
		err = fmt.Errorf("%w: %q is no template (want SNAP.APP)", tenure.ErrName, template)
	}
	if err == nil && unit.Snap == name {
		err = errors.New("a snap may start its own instances anyway")
	}
	if err != nil {
		return Allowance{}, &Error{Kind: KindBad, Op: op, Object: manager, Err: err}
	}
	return Allowance{Manager: name, Snap: unit.Snap, App: unit.App}, nil
}

// managed reports whether the snap that has started an instance, if one has, is there
// and may still do so.
func (m *Manager) managed(unit tenure.UnitID, kept instance) (bool, error) {
	if kept.By == "" {
		return true, nil
	}
	state, err := m.snaps.Get(kept.By)
	if err != nil || state == nil || !state.Line.Installed() || !state.Line.Active {
		return false, err
	}
	_, allowed, err := m.allowances.docs.Get(Allowance{kept.By, unit.Snap, unit.App}.key())
	return allowed, err
}

// startedBy are the snaps that have started instances of others, and are there.
func (m *Manager) startedBy() (map[tenure.UnitID]tenure.Instance, error) {
	all, err := m.instances.docs.All()
	if err != nil {
		return nil, fmt.Errorf("see who has started instances: %w", err)
	}
	by := map[tenure.UnitID]tenure.Instance{}
	for name, kept := range all {
		unit, err := tenure.ParseUnit(name)
		if err != nil || kept.By == "" {
			continue
		}
		state, err := m.snaps.Get(kept.By)
		if err != nil {
			return nil, err
		}
		if state != nil {
			by[unit] = kept.By
		}
	}
	return by, nil
}

// mayControl is nil if a snap may do to a service, of its own or of another, what it
// asks for: start instances where it is allowed to, and end those that it has started.
func (m *Manager) mayControl(snap tenure.Instance, action, name string) error {
	if owner, _, _ := strings.Cut(name, "."); owner == string(snap) {
		return nil
	}
	unit, err := tenure.ParseUnit(name)
	if err != nil || unit.Kind != tenure.Service || unit.At == "" {
		return fmt.Errorf("unknown service: %q (of other snaps, only instances of their templates can be named: SNAP.APP@NAME)", name)
	}
	kept, found, err := m.instances.docs.Get(unit.String())
	if err != nil {
		return err
	}
	_, allowed, err := m.allowances.docs.Get(Allowance{snap, unit.Snap, unit.App}.key())
	switch {
	case err != nil:
		return err
	case found && kept.By != snap, !found && action != string(ActionStart) && action != "":
		return fmt.Errorf("%s was not started by %s", unit, snap)
	case action != string(ActionStart) && action != string(ActionRestart):
	case !allowed:
		template := tenure.ServiceUnit(unit.Snap, unit.App)
		return fmt.Errorf("%s may not start %s; ask the administrator for: tenure allow %s to start %s", snap, unit, snap, template)
	}
	return nil
}

// controlFor carries out what a snap asks for. Where it is about another snap, a change
// that works on that one has to end before, unless it works on the caller's too: it may
// wait for the caller.
func (m *Manager) controlFor(ctx context.Context, c hook.Caller, req Request) (change.ID, error) {
	id, err := m.Do(ctx, req)
	busy, conflicts := errors.AsType[*change.ConflictError](err)
	if !conflicts || req.By == "" {
		return id, err
	}
	running, lookErr := m.engine.Get(busy.ID)
	if lookErr != nil || slices.Contains(running.Snaps, c.Unit.Snap) || running.Status == change.Wait {
		return id, err
	}
	return 0, &hook.BusyError{Change: busy.ID}
}
