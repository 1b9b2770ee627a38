package refresh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/journal"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// instance is what is kept of an instance of a service template. It is kept while the
// instance is enabled, or the supervisor knows of it.
type instance struct {
	// Args follow the command of the template.
	Args []string `json:"args,omitempty"`
	// Enabled is that it starts with the machine.
	Enabled bool `json:"enabled,omitempty"`
	// By is the snap that has started it, if that is another one.
	By tenure.Instance `json:"by,omitempty"`
}

// The bounds of what is kept of the arguments of an instance.
const maxArgs, maxArgBytes = 1024, 64 << 10

// instances are what is kept of each, by their units.
type instances struct {
	docs *journal.Collection[instance]
}

// of are the instances of a snap, in the order of their names.
func (i *instances) of(snap tenure.Instance) ([]tenure.UnitID, map[tenure.UnitID]instance, error) {
	all, err := i.docs.All()
	if err != nil {
		return nil, nil, fmt.Errorf("read instances of %s: %w", snap, err)
	}
	var units []tenure.UnitID
	kept := map[tenure.UnitID]instance{}
	for name, known := range all {
		if unit, err := tenure.ParseUnit(name); err == nil && unit.Snap == snap {
			units, kept[unit] = append(units, unit), known
		}
	}
	slices.SortFunc(units, func(a, b tenure.UnitID) int { return cmp.Compare(a.String(), b.String()) })
	return units, kept, nil
}

// put keeps what there is to be kept of an instance; nil is nothing.
func (i *instances) put(unit tenure.UnitID, known *instance) error {
	var err error
	if known == nil {
		err = i.docs.Delete(unit.String())
	} else {
		err = i.docs.Put(unit.String(), *known)
	}
	if err != nil {
		return fmt.Errorf("keep instance %s: %w", unit, err)
	}
	return nil
}

// drop forgets the instances of a snap that is gone.
func (i *instances) drop(snap tenure.Instance) error {
	units, _, err := i.of(snap)
	for _, unit := range units {
		err = errors.Join(err, i.put(unit, nil))
	}
	return err
}

// declared is the app of a service, or of an instance of a template, in a revision.
func declared(info *snapfile.Snap, unit tenure.UnitID) (*snapfile.App, error) {
	app := info.App(unit.App)
	switch {
	case app == nil || !app.IsService():
		return nil, fmt.Errorf("snap %q has no service %q", unit.Snap, unit.App)
	case app.Lifecycle.Instances && unit.At == "":
		return nil, fmt.Errorf("%s is a template; name an instance of it: %s@NAME", unit, unit)
	case !app.Lifecycle.Instances && unit.At != "":
		return nil, fmt.Errorf("%s.%s is no template, so that it has no instances", unit.Snap, unit.App)
	}
	return app, nil
}

// spec is how a service, or an instance of a template, is started from r.
func (m *Manager) spec(r *installed, unit tenure.UnitID, kept map[tenure.UnitID]instance) (supervise.Spec, error) {
	app, err := declared(r.Info, unit)
	if err != nil {
		return supervise.Spec{}, err
	}
	return m.launch.instance(r, app, unit.At, kept[unit].Args), nil
}

// keepInstancesStep makes durable what is kept of instances.
type keepInstancesStep struct{ m *Manager }

// keepInstancesParams are instances by their units; nil is that nothing is kept.
type keepInstancesParams struct {
	Before map[tenure.UnitID]*instance `json:"before"`
	After  map[tenure.UnitID]*instance `json:"after"`
}

func (s keepInstancesStep) Do(_ context.Context, p keepInstancesParams) (nothing, error) {
	return nothing{}, s.put(p.After)
}

func (s keepInstancesStep) Undo(_ context.Context, p keepInstancesParams, _ nothing) error {
	return s.put(p.Before)
}

func (s keepInstancesStep) put(all map[tenure.UnitID]*instance) error {
	var failures []error
	for unit, known := range all {
		failures = append(failures, s.m.instances.put(unit, known))
	}
	return errors.Join(failures...)
}

// asked are the instances that a request is about, and what is to be kept of them.
type asked struct {
	units []tenure.UnitID
	// kept is what is kept of all instances of the snap, with what the request changes.
	kept map[tenure.UnitID]instance
	keep keepInstancesParams
}

// instancesAsked finds the instances that a request means, beside those that it names,
// and what it changes of what is kept of them.
func (m *Manager) instancesAsked(ctx context.Context, req Request, c *controlled, info *snapfile.Snap) error {
	var err error
	if c.asked.kept, err = m.instancesOf(c.state.Instance); err != nil {
		return err
	}
	known, err := m.statuses(ctx)
	if err != nil {
		return err
	}
	op := string(req.Action)
	for _, unit := range c.asked.units {
		if _, err := declared(info, unit); err != nil && req.Action != ActionStop {
			return &Error{Kind: KindApp, Op: op, Object: unit.String(), Hint: "see tenure services " + string(unit.Snap), Err: err}
		}
		if _, kept := c.asked.kept[unit]; !kept && known[unit].Spec == nil && req.Action != ActionStart {
			return &Error{Kind: KindNotFound, Op: op, Object: unit.String(), Hint: "see tenure services " + string(unit.Snap), Err: errors.New("there is no such instance")}
		}
	}
	if req.Action == ActionStart {
		if err := roomFor(c.state.Instance, known, c.asked.kept, c.asked.units...); err != nil {
			return &Error{Kind: KindBad, Op: op, Object: string(c.state.Instance), Hint: "see tenure ps " + string(c.state.Instance), Err: err}
		}
	}
	for unit := range known {
		if c.means(req, unit) && !slices.Contains(c.asked.units, unit) {
			c.asked.units = append(c.asked.units, unit)
		}
	}
	for unit := range c.asked.kept {
		if c.means(req, unit) && !slices.Contains(c.asked.units, unit) {
			c.asked.units = append(c.asked.units, unit)
		}
	}
	slices.SortFunc(c.asked.units, func(a, b tenure.UnitID) int { return strings.Compare(a.String(), b.String()) })
	return c.asked.change(req, known)
}

// means reports whether a request is about an instance that it does not name. Which are
// restarted with the whole snap is up to its plan.
func (c *controlled) means(req Request, unit tenure.UnitID) bool {
	if unit.Snap != c.state.Instance || unit.Kind != tenure.Service || unit.At == "" {
		return false
	}
	template := slices.Contains(c.templates, tenure.ServiceUnit(unit.Snap, unit.App))
	starts := c.whole && req.Action == ActionStart && c.asked.kept[unit].Enabled
	return template || starts || c.whole && req.Action == ActionStop
}

// change notes what a request changes of what is kept.
func (a *asked) change(req Request, known map[tenure.UnitID]supervise.Status) error {
	a.keep = keepInstancesParams{Before: map[tenure.UnitID]*instance{}, After: map[tenure.UnitID]*instance{}}
	for _, unit := range a.units {
		before, kept := a.kept[unit]
		after, err := a.after(req, unit, known[unit].State.Alive())
		if err != nil {
			return &Error{Kind: KindBad, Op: string(req.Action), Object: unit.String(), Err: err}
		}
		if kept && after.equal(before) || !kept && req.Action != ActionStart {
			continue
		}
		a.keep.Before[unit], a.keep.After[unit] = nil, &after
		if kept {
			a.keep.Before[unit] = &before
		}
		a.kept[unit] = after
	}
	return nil
}

// after is what a request makes of an instance.
func (a *asked) after(req Request, unit tenure.UnitID, alive bool) (instance, error) {
	after, kept := a.kept[unit]
	if req.By != "" && req.By != unit.Snap {
		if kept && after.By != req.By {
			return after, fmt.Errorf("it was not started by %s", req.By)
		}
		if !kept && alive {
			return after, fmt.Errorf("it runs, and was not started by %s", req.By)
		}
		after.By = req.By
	}
	if req.Args != nil {
		if alive && !slices.Equal(req.Args, after.Args) {
			return after, errors.New("it runs with other arguments; stop it first")
		}
		after.Args = req.Args
	}
	if req.Permanent {
		after.Enabled = req.Action == ActionStart
	}
	return after, nil
}

func (i instance) equal(other instance) bool {
	return i.Enabled == other.Enabled && i.By == other.By && slices.Equal(i.Args, other.Args)
}

// instancesOf is what is kept of the instances of a snap.
func (m *Manager) instancesOf(snap tenure.Instance) (map[tenure.UnitID]instance, error) {
	_, kept, err := m.instances.of(snap)
	return kept, err
}

// checkArgs refuses arguments that no instance can have.
func checkArgs(req Request) error {
	if req.Args == nil {
		return nil
	}
	bad := func(err error) error {
		return &Error{Kind: KindBad, Op: string(req.Action), Object: strings.Join(req.Names, ", "), Err: err}
	}
	var unit tenure.UnitID
	if len(req.Names) == 1 {
		unit, _ = tenure.ParseUnit(req.Names[0]) // What is no unit is no instance.
	}
	if req.Action != ActionStart || unit.Kind != tenure.Service || unit.At == "" {
		return bad(errors.New("arguments are for the start of a single instance (SNAP.APP@NAME -- ARGUMENT...)"))
	}
	size := 0
	for _, arg := range req.Args {
		size += len(arg) + 1
		if strings.ContainsRune(arg, 0) {
			return bad(errors.New("an argument has a NUL byte"))
		}
	}
	if len(req.Args) > maxArgs || size > maxArgBytes {
		return bad(fmt.Errorf("there are more than %d arguments, or than %d bytes of them", maxArgs, maxArgBytes))
	}
	return nil
}

// instanceSpecs are the instances that a request starts: those that it means, and those
// that it stops in order to restart them. What runs already goes on as it does.
func (m *Manager) instanceSpecs(ctx context.Context, req Request, c *controlled, r *installed, sw *switching) ([]supervise.Spec, error) {
	known, err := m.statuses(ctx)
	if err != nil {
		return nil, err
	}
	units := slices.Clone(c.asked.units)
	for _, w := range sw.Stop {
		if w.Unit.At != "" && !slices.Contains(units, w.Unit) {
			units = append(units, w.Unit)
		}
	}
	var specs []supervise.Spec
	for _, unit := range units {
		if req.Action == ActionStart && known[unit].State.Alive() {
			continue
		}
		spec, err := m.spec(r, unit, c.asked.kept)
		if err != nil {
			return nil, &Error{Kind: KindApp, Op: string(req.Action), Object: unit.String(), Err: err}
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// startInstances are the instances that a switch of j starts: those that it has
// stopped, and those that are enabled where the snap is.
func (m *Manager) startInstances(j *job, sw *switching) ([]supervise.Spec, error) {
	if j.to().IsZero() || j.Reason == tenure.ReasonRemove {
		return nil, nil
	}
	units, kept, err := m.instances.of(j.snap())
	if err != nil {
		return nil, err
	}
	r, err := m.runnable(j.After, j.to())
	if err != nil {
		return nil, err
	}
	enables := j.Before != nil && !j.Before.Line.Active
	for _, w := range sw.Stop {
		if w.Unit.At != "" && !slices.Contains(units, w.Unit) {
			units = append(units, w.Unit)
		}
	}
	var specs []supervise.Spec
	for _, unit := range units {
		stops := slices.ContainsFunc(sw.Stop, func(w stopping) bool { return w.Unit == unit })
		managed, err := m.managed(unit, kept[unit])
		if err != nil {
			return nil, err
		}
		if _, err := declared(r.Info, unit); err != nil || !stops && (!enables || !managed || !kept[unit].Enabled) {
			continue
		}
		spec, err := m.spec(r, unit, kept)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// missingInstances are the enabled instances of a snap that are not known.
func (m *Manager) missingInstances(r *installed, known map[tenure.UnitID]supervise.Status) ([]supervise.Spec, error) {
	units, kept, err := m.instances.of(r.Ref.Snap)
	if err != nil {
		return nil, err
	}
	var specs []supervise.Spec
	for _, unit := range units {
		_, exists := known[unit]
		if _, err := declared(r.Info, unit); exists || err != nil || !kept[unit].Enabled {
			continue
		}
		if managed, err := m.managed(unit, kept[unit]); err != nil || !managed {
			continue
		}
		spec, err := m.spec(r, unit, kept)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// serviceInstances are the instances of a snap that are kept or known, as services.
func (m *Manager) serviceInstances(state *snapState, statuses map[tenure.UnitID]supervise.Status) ([]ServiceInfo, error) {
	units, kept, err := m.instances.of(state.Instance)
	if err != nil {
		return nil, err
	}
	for unit := range statuses {
		if _, there := kept[unit]; !there && unit.Snap == state.Instance && unit.Kind == tenure.Service && unit.At != "" {
			units = append(units, unit)
		}
	}
	slices.SortFunc(units, func(a, b tenure.UnitID) int { return strings.Compare(a.String(), b.String()) })
	var services []ServiceInfo
	for _, unit := range units {
		app := state.Kept[state.Line.Current].Info.App(unit.App)
		if app == nil {
			app = &snapfile.App{Name: unit.App}
		}
		services = append(services, ServiceInfo{
			Unit: unit, App: app, Status: statuses[unit], Active: statuses[unit].State.Alive(), Enabled: state.Line.Active && kept[unit].Enabled,
			By: kept[unit].By,
		})
	}
	return services, nil
}

// forgetInstances drops what is kept of instances that are not enabled, and of which the
// supervisor knows nothing any more, and of those that another snap had started which
// is gone.
func (m *Manager) forgetInstances(ctx context.Context, snap tenure.Instance) error {
	units, kept, err := m.instances.of(snap)
	if err != nil || len(units) == 0 {
		return err
	}
	known, err := m.statuses(ctx)
	if err != nil {
		return err
	}
	var failures []error
	for _, unit := range units {
		manager := &snapState{}
		if by := kept[unit].By; by != "" {
			if manager, err = m.snaps.Get(by); err != nil {
				return err
			}
		}
		gone := manager == nil && !known[unit].State.Alive()
		if _, exists := known[unit]; gone || !exists && !kept[unit].Enabled {
			failures = append(failures, m.instances.put(unit, nil))
		}
	}
	return errors.Join(failures...)
}
