package refresh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// control starts, stops and restarts services, and ends single units.
func (m *Manager) control(ctx context.Context, req Request) (change.ID, error) {
	if id, err := m.hurriedBy(ctx, req); err != nil || id != 0 {
		return id, err
	}
	if id, err := m.killBlocker(ctx, req); err != nil || id != 0 {
		return id, err
	}
	controls, release, err := m.controls(ctx, req)
	if err != nil {
		return 0, err
	}
	defer release()
	var tasks []change.TaskSpec
	var plans []policy.Plan
	var snaps []tenure.Instance
	for _, c := range controls {
		if c.plan.Refusal != nil {
			return 0, refused(string(req.Action), c.plan)
		}
		more, err := m.controlTasks(ctx, req, c)
		if err != nil {
			return 0, err
		}
		tasks = append(tasks, more...)
		plans = append(plans, c.plan)
		snaps = append(snaps, c.state.Instance)
	}
	if err := m.vacate(ctx, string(req.Action), snaps); err != nil {
		return 0, err
	}
	tasks = append(tasks, compareTask())
	raw, err := json.Marshal(plans)
	if err != nil {
		return 0, fmt.Errorf("%s: store the plan: %w", req.Action, err)
	}
	id, err := m.engine.Start(ctx, change.NewChange{
		Kind:    "service-control",
		Summary: controlSummary(req),
		Snaps:   snaps, Tasks: tasks, Plan: raw,
	})
	if err != nil {
		return 0, conflict(string(req.Action), strings.Join(req.Names, ", "), err)
	}
	return id, nil
}

func controlSummary(req Request) string {
	text := fmt.Sprintf("%s %s", capitalise(string(req.Action)), strings.Join(req.Names, ", "))
	if req.Because != "" {
		text += ": " + req.Because
	}
	return text
}

func capitalise(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func (m *Manager) planControl(ctx context.Context, req Request) ([]policy.Plan, error) {
	controls, release, err := m.controls(ctx, req)
	if err != nil {
		return nil, err
	}
	defer release()
	plans := make([]policy.Plan, 0, len(controls))
	for _, c := range controls {
		plans = append(plans, c.plan)
	}
	return plans, nil
}

// controlled is what a request for services means for one snap.
type controlled struct {
	state *snapState
	// whole is that the snap was named, not single services of it.
	whole bool
	// services are the named services, in start order; others are the named units
	// that are no services of the current revision.
	services []*snapfile.App
	others   []tenure.UnitID
	// templates are the service templates that were named.
	templates []tenure.UnitID
	asked     asked
	plan      policy.Plan
}

func (c *controlled) units() []tenure.UnitID {
	units := make([]tenure.UnitID, 0, len(c.services)+len(c.others))
	for _, app := range c.services {
		units = append(units, tenure.ServiceUnit(c.state.Instance, app.Name))
	}
	return slices.Concat(units, c.asked.units, c.others)
}

func (m *Manager) controls(ctx context.Context, req Request) ([]*controlled, func(), error) {
	if len(req.Names) == 0 {
		return nil, nil, &Error{Kind: KindBad, Op: string(req.Action), Hint: "name a snap, a service (SNAP.APP) or a unit (see tenure ps)", Err: errors.New("nothing was named")}
	}
	bySnap := map[tenure.Instance][]string{}
	var snaps []tenure.Instance
	for _, name := range req.Names {
		snap, err := tenure.ParseInstance(strings.SplitN(name, ".", 2)[0])
		if err != nil {
			return nil, nil, &Error{Kind: KindBad, Op: string(req.Action), Object: name, Err: err}
		}
		if bySnap[snap] == nil {
			snaps = append(snaps, snap)
		}
		bySnap[snap] = append(bySnap[snap], name)
	}
	if err := checkArgs(req); err != nil {
		return nil, nil, err
	}
	release, err := m.claims.take(ctx, snaps...)
	if err != nil {
		return nil, nil, err
	}
	var all []*controlled
	for _, snap := range snaps {
		c, err := m.controlled(ctx, req, snap, bySnap[snap])
		if err != nil {
			release()
			return nil, nil, err
		}
		all = append(all, c)
	}
	return all, release, nil
}

func (m *Manager) controlled(ctx context.Context, req Request, snap tenure.Instance, named []string) (*controlled, error) {
	op := string(req.Action)
	state, err := m.installedSnap(op, snap)
	if err != nil {
		return nil, err
	}
	c := &controlled{state: state}
	info := state.Kept[state.Line.Current].Info
	wanted := map[tenure.App]bool{}
	for _, name := range named {
		if err := c.name(req, info, name, wanted); err != nil {
			return nil, err
		}
	}
	if err := c.pick(req, info, wanted); err != nil {
		return nil, err
	}
	if err := m.instancesAsked(ctx, req, c, info); err != nil {
		return nil, err
	}
	question := policy.Change{
		Reason: tenure.ReasonRestart, Snap: snap, From: state.Line.Current, To: state.Line.Current,
		Kill: req.Options.Kill, Force: req.Options.Force, Overdue: req.Overdue, Auto: req.Overdue,
	}
	if req.Action == ActionStop {
		question.Reason = tenure.ReasonStop
	}
	if req.Action == ActionStart || req.Action == ActionRestart && req.Reload {
		c.plan = policy.Plan{Change: question, Summary: op + " " + strings.Join(named, ", ")}
		return c, nil
	}
	if !c.whole || len(c.others) > 0 {
		question.Units = c.units()
	}
	if !c.whole && len(question.Units) == 0 {
		c.plan = policy.Plan{Change: question, Summary: "there is no instance of " + strings.Join(named, ", ")}
		return c, nil
	}
	facts, err := m.facts(ctx, question)
	if err != nil {
		return nil, err
	}
	if facts.Estimates, err = m.estimates.of(question.Snap, question.Reason); err != nil {
		return nil, err
	}
	facts.Supported = slices.DeleteFunc(supported(), func(v tenure.Verdict) bool { return v == tenure.Defer })
	c.plan = policy.Decide(facts)
	if c.whole && req.Action == ActionRestart {
		c.restarted(info)
	}
	return c, c.found(op)
}

// restarted adds the services that run although they are disabled to those that are
// started again when the whole snap is restarted, for its plan stops them.
func (c *controlled) restarted(info *snapfile.Snap) {
	c.services = slices.DeleteFunc(info.StartOrder(), func(app *snapfile.App) bool {
		unit := tenure.ServiceUnit(c.state.Instance, app.Name)
		return !slices.Contains(c.services, app) &&
			!slices.ContainsFunc(c.plan.Items, func(item policy.Item) bool { return item.Unit == unit && item.Verdict == tenure.Restart })
	})
}

// found reports a unit that was named and is not there.
func (c *controlled) found(op string) error {
	for _, unit := range c.others {
		switch {
		case slices.ContainsFunc(c.plan.Items, func(item policy.Item) bool { return item.Unit == unit }):
		case unit.Kind == tenure.Service:
			return noService(op, unit)
		default:
			return &Error{Kind: KindNotFound, Op: op, Object: unit.String(), Hint: "see tenure ps " + string(unit.Snap), Err: errors.New("there is no such unit")}
		}
	}
	return nil
}

// pick notes the services that the request means, in start order.
func (c *controlled) pick(req Request, info *snapfile.Snap, wanted map[tenure.App]bool) error {
	op := string(req.Action)
	if !c.state.Line.Active && (c.whole || len(wanted)+len(c.asked.units)+len(c.templates) > 0) {
		return &Error{Kind: KindBad, Op: op, Object: string(c.state.Instance), Hint: "enable it with tenure enable " + string(c.state.Instance), Err: fmt.Errorf("snap %q is disabled", c.state.Instance)}
	}
	services := info.StartOrder()
	if c.whole && len(services) == 0 {
		return &Error{Kind: KindApp, Op: op, Object: string(c.state.Instance), Err: fmt.Errorf("snap %q has no services", c.state.Instance)}
	}
	for _, app := range services {
		if wanted[app.Name] || c.whole && !app.Lifecycle.Instances && c.concerns(req, app.Name) {
			c.services = append(c.services, app)
		}
	}
	return nil
}

// concerns reports whether a request that names the whole snap means app, whether it runs
// or not: what does not start by itself is not started, unless it is named. A disabled
// service that runs is restarted, too (restarted). What is stopped has nothing to load anew.
func (c *controlled) concerns(req Request, app tenure.App) bool {
	disabled, stopped := slices.Contains(c.state.Disabled, app), slices.Contains(c.state.Stopped, app)
	switch req.Action {
	case ActionStart:
		return req.Permanent || !disabled
	case ActionRestart:
		return !disabled && (!stopped || !req.Reload)
	case ActionInstall, ActionRefresh, ActionRevert, ActionRemove, ActionEnable, ActionDisable, ActionStop, ActionSwitch:
	}
	return true
}

func noService(op string, unit tenure.UnitID) error {
	return &Error{Kind: KindApp, Op: op, Object: unit.String(), Hint: "see tenure services " + string(unit.Snap), Err: fmt.Errorf("snap %q has no service %q", unit.Snap, unit.App)}
}

// name notes one name of a request: the snap, a service, or another unit. A service of an
// old revision that the current one has not can only be stopped.
func (c *controlled) name(req Request, info *snapfile.Snap, name string, wanted map[tenure.App]bool) error {
	op := string(req.Action)
	if name == string(c.state.Instance) {
		c.whole = true
		return nil
	}
	unit, err := tenure.ParseUnit(name)
	if err != nil {
		return &Error{Kind: KindBad, Op: op, Object: name, Err: err}
	}
	if unit.Kind != tenure.Service {
		if op != string(ActionStop) {
			return &Error{Kind: KindBad, Op: op, Object: name, Err: errors.New("it is not a service; such a unit can only be stopped")}
		}
		c.others = append(c.others, unit)
		return nil
	}
	app := info.App(unit.App)
	is := app != nil && app.IsService()
	template := is && app.Lifecycle.Instances
	switch {
	case unit.At != "":
		c.asked.units = append(c.asked.units, unit)
		return nil
	case req.Action == ActionStop && (!is || template && req.Exact):
		c.others = append(c.others, unit)
		return nil
	case template && req.Action == ActionStart:
		_, err := declared(info, unit)
		return &Error{Kind: KindBad, Op: op, Object: name, Err: err}
	case template:
		c.templates = append(c.templates, unit)
		return nil
	case !is:
		return noService(op, unit)
	}
	wanted[app.Name] = true
	return nil
}

func (m *Manager) controlTasks(ctx context.Context, req Request, c *controlled) ([]change.TaskSpec, error) {
	j := &job{Before: c.state, After: c.after(req), Options: req.Options}
	j.Reason = c.plan.Change.Reason
	var sw switching
	var err error
	if req.Action != ActionStart {
		if sw, err = m.compile(ctx, j, c.plan); err != nil {
			return nil, err
		}
		sw.Start = nil
	}
	if req.Action != ActionStop {
		r, err := m.runnable(c.state, c.state.Line.Current)
		if err != nil {
			return nil, err
		}
		for _, app := range c.services {
			sw.Start = append(sw.Start, m.launch.service(r, app))
		}
		instances, err := m.instanceSpecs(ctx, req, c, r, &sw)
		if err != nil {
			return nil, err
		}
		sw.Start = append(sw.Start, instances...)
	}
	var stay []tenure.UnitID
	if req.Action == ActionStart {
		if sw.Start, stay, err = m.startable(ctx, sw.Start); err != nil {
			return nil, err
		}
	}
	snap := c.state.Instance
	var tasks []change.TaskSpec
	if len(c.asked.keep.After) > 0 {
		tasks = append(tasks, change.NewTask(taskInstances, fmt.Sprintf("Keep instances of %q", snap), c.asked.keep))
	}
	if req.Action == ActionRestart && req.Reload {
		return []change.TaskSpec{change.NewTask(taskReload, fmt.Sprintf("Reload services of %q", snap), reloadParams{Specs: sw.Start})}, nil
	}
	if len(sw.Stop)+len(sw.End) > 0 {
		tasks = append(tasks, stopTasks(snap, stopParams{
			Change: c.plan.Change, Split: sw.Split, Stop: sw.Stop, End: sw.End, Hold: names(sw.Start), Kill: req.Options.Kill,
			Patient: sw.Blocks && !req.Options.Kill, Terms: sw.Terms,
		})...)
	}
	if len(sw.Start) > 0 {
		tasks = append(tasks, change.NewTask(taskStart, fmt.Sprintf("Start services of %q", snap), startParams{
			Change: c.plan.Change, Specs: sw.Start, Stay: stay, Stopped: sw.Stop,
		}).InGap())
	}
	return append(tasks, change.NewTask(taskCommit, fmt.Sprintf("Record %q", snap),
		commitParams{Snap: snap, Before: c.state, After: j.After})), nil
}

// startable are those of specs that can be asked to start, and which of them run already:
// who gives up the start of others leaves those alone. What runs otherwise than it would
// now, from an older revision or on an older base, runs, and that is all that was asked for.
func (m *Manager) startable(ctx context.Context, specs []supervise.Spec) (start []supervise.Spec, stay []tenure.UnitID, err error) {
	statuses, err := m.statuses(ctx)
	if err != nil {
		return nil, nil, err
	}
	for i := range specs {
		status := statuses[specs[i].Unit]
		switch status.State {
		case supervise.Running, supervise.Reloading, supervise.Starting:
			if status.Spec == nil || !sameSpec(status.Spec, &specs[i]) {
				continue
			}
			stay = append(stay, specs[i].Unit)
		case supervise.Inactive, supervise.Listening, supervise.Waiting, supervise.Stopping, supervise.Backoff, supervise.Failed:
		}
		start = append(start, specs[i])
	}
	return start, stay, nil
}

// sameSpec compares as a supervisor does: as they are stored.
func sameSpec(a, b *supervise.Spec) bool {
	textA, errA := json.Marshal(a)
	textB, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(textA, textB)
}

// after is the state that a request leads to: which services are stopped or
// disabled.
func (c *controlled) after(req Request) *snapState {
	after := c.state.with(c.state.Line)
	after.Stopped, after.Disabled = slices.Clone(after.Stopped), slices.Clone(after.Disabled)
	for _, app := range c.services {
		is := func(other tenure.App) bool { return other == app.Name }
		after.Stopped = slices.DeleteFunc(after.Stopped, is)
		if req.Action == ActionStop {
			after.Stopped = append(after.Stopped, app.Name)
		}
		if !req.Permanent {
			continue
		}
		after.Disabled = slices.DeleteFunc(after.Disabled, is)
		if req.Action == ActionStop {
			after.Disabled = append(after.Disabled, app.Name)
		}
	}
	return after
}

// reloadStep reloads services where they say how, and restarts the others.
type reloadStep struct{ m *Manager }

type reloadParams struct {
	Specs []supervise.Spec `json:"specs"`
}

func (s reloadStep) Do(ctx context.Context, p reloadParams) (nothing, error) {
	for i := range p.Specs {
		spec := &p.Specs[i]
		if spec.Reload != nil {
			if err := s.m.cfg.Supervisor.Reload(ctx, supervise.ReloadRequest{Spec: *spec}); err != nil {
				return nothing{}, fmt.Errorf("reload: %w", err)
			}
			continue
		}
		change.ReporterFrom(ctx).Logf("%s has no reload-command and is restarted", spec.Unit)
		stop := supervise.StopRequest{
			Units: []tenure.UnitID{spec.Unit}, Reason: tenure.ReasonRestart, HoldSockets: true, Limit: s.m.limits().MaxStopTimeout,
		}
		if _, err := s.m.halt(ctx, stop); err != nil {
			if errors.Is(err, supervise.ErrStopTimeout) {
				// It must not be killed, and cannot be un-told: it starts again when it has ended.
				err = errors.Join(err, s.m.startAgain(ctx, *spec))
			}
			return nothing{}, fmt.Errorf("restart: %w", err)
		}
		if err := s.m.startAgain(ctx, *spec); err != nil {
			return nothing{}, fmt.Errorf("restart: %w", err)
		}
	}
	return nothing{}, nil
}

func (reloadStep) Undo(context.Context, reloadParams, nothing) error { return nil }
