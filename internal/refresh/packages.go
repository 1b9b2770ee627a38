package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/proc"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// Packages is what packages reach of a Manager by snapctl.
type Packages struct {
	m       *Manager
	version string
}

var _ hook.Host = Packages{}

// Packages is m as packages reach it.
func (m *Manager) Packages(version string) Packages { return Packages{m, version} }

// Version is the version of Tenure.
func (p Packages) Version() string { return p.version }

// UnitOf is the unit that a process belongs to.
func (p Packages) UnitOf(h *proc.Handle) (tenure.UnitID, error) {
	locator, ok := p.m.cfg.Supervisor.(supervise.Locator)
	if !ok {
		return tenure.UnitID{}, fmt.Errorf("see who calls: %w", errors.ErrUnsupported)
	}
	unit, found, err := locator.UnitOfProcess(h)
	if err != nil {
		return tenure.UnitID{}, err
	}
	if !found {
		return tenure.UnitID{}, errors.New("snapctl is for snaps: the process that calls it is of no unit")
	}
	return unit, nil
}

// Conf is the configuration of the caller's snap.
func (p Packages) Conf(c hook.Caller) (hook.Document, error) {
	document, err := p.m.confs.of(c.Unit.Snap)
	if err != nil || c.Unit.Kind != tenure.HookRun {
		return document, err
	}
	run, _, err := p.m.confs.runs.Get(c.Unit.String())
	if err != nil || run.Committed {
		return document, err
	}
	return document.With(c.Unit.Snap, run.Patch)
}

// SetConf changes the configuration of the caller's snap.
func (p Packages) SetConf(c hook.Caller, patch hook.Patch) error {
	if err := patch.Check(); err != nil { // Before others have to wait for it.
		return fmt.Errorf("snap %q: %w", c.Unit.Snap, err)
	}
	if c.Unit.Kind != tenure.HookRun {
		return p.m.confs.change(c.Unit.Snap, patch)
	}
	before, err := p.m.confs.of(c.Unit.Snap)
	if err != nil {
		return err
	}
	return p.m.confs.amend(c.Unit, func(run *hookRun) error {
		merged := run.Patch.Then(patch)
		if _, err := before.With(c.Unit.Snap, merged); err != nil {
			return err
		}
		run.Patch = merged
		return nil
	})
}

// Services are the caller's own, and such as it has started of other snaps.
func (p Packages) Services(ctx context.Context, c hook.Caller, named []string) ([]hook.Service, error) {
	for _, name := range named {
		if err := p.m.mayControl(c.Unit.Snap, "", name); err != nil {
			return nil, err
		}
	}
	if len(named) == 0 {
		named = []string{string(c.Unit.Snap)}
	}
	infos, err := p.m.Services(ctx, named)
	if err != nil {
		return nil, err
	}
	list := make([]hook.Service, 0, len(infos))
	for i := range infos {
		list = append(list, hook.Service{Name: infos[i].Unit.String(), Enabled: infos[i].Enabled, Active: infos[i].Active})
	}
	return list, nil
}

// Control starts, stops or restarts the caller's own services, or instances of other
// snaps as it may: for a hook, whose change works on the snap, when it has ended well.
func (p Packages) Control(ctx context.Context, c hook.Caller, control hook.Control) (change.ID, error) {
	if c.Unit.Kind == tenure.HookRun {
		return 0, p.controlAfter(c, control)
	}
	var by tenure.Instance
	for _, name := range control.Names {
		if err := p.m.mayControl(c.Unit.Snap, control.Action, name); err != nil {
			return 0, err
		}
		if owner, _, _ := strings.Cut(name, "."); owner != string(c.Unit.Snap) {
			by = c.Unit.Snap
		}
	}
	return p.m.controlFor(ctx, c, Request{
		By: by, FromSnap: true, Action: Action(control.Action), Names: control.Names, Args: control.Args, Permanent: control.Permanent, Reload: control.Reload,
	})
}

// Await waits for a change of services.
func (p Packages) Await(ctx context.Context, id change.ID) error {
	done, err := p.m.engine.WaitFor(ctx, id)
	if err == nil && done.Err != "" {
		err = errors.New(done.Err) //nolint:err113 // The change has said it.
	}
	return err
}

// AwaitEnd waits for the end of a change, whatever comes of it.
func (p Packages) AwaitEnd(ctx context.Context, id change.ID) error {
	_, err := p.m.engine.WaitFor(ctx, id)
	return err
}

// controlAfter notes what a hook wants of its snap's services, to be done when it has ended
// well. Instances may be another snap's, and to wait for its change within a change of one's
// own may be to wait for ever. What no step would ever do is refused.
func (p Packages) controlAfter(c hook.Caller, control hook.Control) error {
	for _, name := range control.Names {
		if strings.Contains(name, "@") {
			return fmt.Errorf("%s: instances cannot be controlled from a hook; an app or a service can", name)
		}
		if err := p.m.mayControl(c.Unit.Snap, control.Action, name); err != nil {
			return err
		}
	}
	switch name := hook.Name(c.Unit.App); {
	case name == hook.GateAutoRefresh, name == hook.Remove && control.Action != string(ActionStop):
		return fmt.Errorf("services cannot be controlled from the hook %q", name)
	}
	return p.m.confs.amend(c.Unit, func(run *hookRun) error {
		run.Controls = append(run.Controls, control)
		return nil
	})
}

// wish is what a hook wants of a service.
type wish struct {
	action    string
	permanent bool
}

// wishes are what controls come to for services; the last one counts.
func wishes(snap tenure.Instance, services []tenure.App, controls []hook.Control) map[tenure.App]wish {
	found := map[tenure.App]wish{}
	for _, control := range controls {
		for _, app := range services {
			unit := tenure.ServiceUnit(snap, app)
			if slices.Contains(control.Names, string(snap)) || slices.Contains(control.Names, unit.String()) {
				found[app] = wish{control.Action, control.Permanent || found[app].permanent}
			}
		}
	}
	return found
}

// services are the names of the services of a snap, in the order of their starts,
// without templates.
func services(info *snapfile.Snap) []tenure.App {
	var names []tenure.App
	for _, app := range info.StartOrder() {
		if !app.Lifecycle.Instances {
			names = append(names, app.Name)
		}
	}
	return names
}

// apply is state as wishes want it.
func (s *snapState) apply(all map[tenure.App]wish) *snapState {
	after := s.with(s.Line)
	after.Stopped, after.Disabled = slices.Clone(s.Stopped), slices.Clone(s.Disabled)
	for app, w := range all {
		is := func(other tenure.App) bool { return other == app }
		if w.action == string(ActionRestart) {
			continue
		}
		after.Stopped = slices.DeleteFunc(after.Stopped, is)
		if w.action == string(ActionStop) {
			after.Stopped = append(after.Stopped, app)
		}
		if w.permanent {
			after.Disabled = slices.DeleteFunc(after.Disabled, is)
			if w.action == string(ActionStop) {
				after.Disabled = append(after.Disabled, app)
			}
		}
	}
	return after
}
