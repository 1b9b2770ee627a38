package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/policy"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// hookParams are one run of a hook.
type hookParams struct {
	Change policy.Change `json:"change"`
	Hook   hook.Name     `json:"hook"`
	// Spec is how the hook is run; the run is named when its change is known.
	Spec supervise.Spec `json:"spec"`
	// Patch are values that the hook sees as if it had set them itself.
	Patch hook.Patch `json:"patch,omitempty"`
	// Ignore is that a failure is told and counts for nothing.
	Ignore bool `json:"ignore,omitempty"`
}

// hookStep runs a hook in a gap. What a hook has done is the package's own to take
// back: its data goes back by the other steps.
type hookStep struct{ m *Manager }

// outsideHookStep runs a hook outside of a gap. After a crash it is simply done again,
// which goes on with a run that has begun, for as long as it takes, unless the change is
// aborted.
type outsideHookStep struct{ in hookStep }

func (s outsideHookStep) Do(ctx context.Context, p hookParams) (hookDone, error) {
	c, err := s.in.m.engine.Get(change.IDFrom(ctx))
	if err == nil && c.Status == change.Abort {
		// It was aborted before the daemon died.
		var abort context.CancelCauseFunc
		ctx, abort = context.WithCancelCause(ctx)
		abort(change.ErrAborted)
	}
	return s.in.Do(ctx, p)
}

func (s outsideHookStep) Undo(ctx context.Context, p hookParams, done hookDone) error {
	return s.in.Undo(ctx, p, done)
}

// hookDone is what a hook has changed beside its snap's data.
type hookDone struct {
	// Configured is that the configuration is another, and was Before.
	Configured bool          `json:"configured,omitempty"`
	Before     hook.Document `json:"before,omitempty"`
}

func (s hookStep) Do(ctx context.Context, p hookParams) (hookDone, error) {
	spec := p.Hook.Spec(p.Spec, change.IDFrom(ctx))
	if len(p.Patch) > 0 {
		if err := s.ask(spec.Unit, p.Patch); err != nil {
			return hookDone{}, err
		}
	}
	report := change.ReporterFrom(ctx)
	defer s.m.voices.hear(spec.Unit, report)()
	err := s.outcome(ctx, &spec, hook.Run(ctx, s.m.cfg.Supervisor, spec))
	if err != nil && (ctx.Err() == nil || errors.Is(err, change.ErrAborted)) {
		err = errors.Join(err, s.m.confs.discard(spec.Unit))
	}
	if err != nil && ctx.Err() == nil && p.Ignore {
		report.Logf("ignoring failure in hook %q: %v", p.Hook, err)
		return hookDone{}, nil
	}
	if err != nil {
		return hookDone{}, err
	}
	for _, line := range hook.Output(ctx, s.m.cfg.Supervisor, spec.Unit) {
		report.Logf("%s", line)
	}
	run, err := s.m.confs.commit(spec.Unit)
	if err != nil {
		return hookDone{}, err
	}
	done := hookDone{Configured: run.Committed, Before: run.Before}
	if p.Hook == hook.Configure || p.Hook == hook.CheckHealth {
		if err := s.control(ctx, p, run.Controls); err != nil {
			return done, change.Partial(err)
		}
	}
	return done, nil
}

// ask lets a hook see values as if it had set them itself.
func (s hookStep) ask(unit tenure.UnitID, patch hook.Patch) error {
	_, found, err := s.m.confs.runs.Get(unit.String())
	if err == nil && !found {
		err = s.m.confs.amend(unit, func(run *hookRun) error {
			run.Patch = patch
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}

// outcome is what a run that ended with err comes to: the snap may have said that it
// failed.
func (s hookStep) outcome(ctx context.Context, spec *supervise.Spec, err error) error {
	if ctx.Err() != nil {
		return err
	}
	name, unit := hook.Name(spec.Unit.App), spec.Unit
	run, _, readErr := s.m.confs.runs.Get(unit.String())
	switch {
	case readErr != nil:
		return errors.Join(err, fmt.Errorf("see what the hook %q has asked for: %w", name, readErr))
	case run.Failure != "":
		err = &hook.FailedError{Hook: name, Output: []string{run.Failure}, Err: err}
	case err == nil:
		err = s.well(name, unit, spec.Revision)
	}
	return held(name, err)
}

// well is asked when check-health has ended: the snap may have said that it is not.
func (s hookStep) well(name hook.Name, unit tenure.UnitID, rev tenure.Revision) error {
	if name != hook.CheckHealth {
		return nil
	}
	said, _, err := s.m.confs.health.Get(tenure.Ref{Snap: unit.Snap, Revision: rev}.String())
	if err != nil {
		return fmt.Errorf("see the health of %s: %w", unit.Snap, err)
	}
	if said.Unit == unit && said.Status == "error" {
		return fmt.Errorf("run hook %q: the snap says that it is not well: %s", name, said.Message)
	}
	return nil
}

// control does to services what a hook that runs beside them has asked for.
func (s hookStep) control(ctx context.Context, p hookParams, controls []hook.Control) error {
	if len(controls) == 0 {
		return nil
	}
	state, err := s.m.snaps.Get(p.Change.Snap)
	if err != nil || state == nil {
		return err
	}
	r, err := s.m.runnable(state, state.Line.Current)
	if err != nil {
		return err
	}
	known, err := s.m.statuses(ctx)
	if err != nil {
		return err
	}
	all := wishes(p.Change.Snap, services(r.Info), controls)
	if err := s.m.snaps.Put(p.Change.Snap, state.apply(all)); err != nil {
		return err
	}
	for _, app := range r.Info.StartOrder() {
		status, running := known[tenure.ServiceUnit(p.Change.Snap, app.Name)]
		running = running && !idle(status)
		w, wanted := all[app.Name]
		if !wanted || w.action == string(ActionRestart) && !running {
			continue
		}
		if err := s.fulfil(ctx, w, s.m.launch.service(r, app)); err != nil {
			return fmt.Errorf("%s as the hook %q wants: %w", w.action, p.Hook, err)
		}
	}
	return nil
}

// fulfil does to one service what is wished.
func (s hookStep) fulfil(ctx context.Context, w wish, spec supervise.Spec) error {
	stop := supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}, Reason: tenure.ReasonStop, Limit: s.m.limits().MaxStopTimeout}
	switch Action(w.action) {
	case ActionStart:
		return s.m.cfg.Supervisor.Start(ctx, spec)
	case ActionRestart:
		stop.Reason, stop.HoldSockets = tenure.ReasonRestart, true
		if _, err := s.m.halt(ctx, stop); err != nil {
			return err
		}
		return s.m.cfg.Supervisor.Start(ctx, spec)
	case ActionStop, ActionInstall, ActionRefresh, ActionRevert, ActionRemove, ActionEnable, ActionDisable, ActionSwitch:
	}
	_, err := s.m.halt(ctx, stop)
	return err
}

// wanted are the wishes of the hooks of a change that have run before its services
// start.
func (m *Manager) wanted(ctx context.Context, snap tenure.Instance, apps []tenure.App) (map[tenure.App]wish, error) {
	runs, err := m.confs.runs.All()
	if err != nil {
		return nil, fmt.Errorf("see what hooks of %s want: %w", snap, err)
	}
	var controls []hook.Control
	for _, name := range []hook.Name{hook.PreRefresh, hook.Evacuate, hook.Install, hook.DefaultConfigure, hook.PostRefresh} {
		unit := name.Spec(supervise.Spec{Unit: tenure.UnitID{Snap: snap}}, change.IDFrom(ctx)).Unit
		controls = append(controls, runs[unit.String()].Controls...)
	}
	return wishes(snap, apps, controls), nil
}

// Undo restores the configuration.
func (s hookStep) Undo(_ context.Context, p hookParams, done hookDone) error {
	if !done.Configured {
		return nil
	}
	return s.m.confs.restore(p.Change.Snap, done.Before)
}

// Probe goes on with a run that has begun.
func (s hookStep) Probe(ctx context.Context, p hookParams) (hookDone, bool, error) {
	state, _, err := hook.Look(ctx, s.m.cfg.Supervisor, p.Hook.Spec(p.Spec, change.IDFrom(ctx)))
	if err != nil || state == hook.Fresh {
		return hookDone{}, false, err
	}
	done, err := s.Do(ctx, p)
	return done, err == nil, err
}

// hookTask runs a hook of a revision in the course of j; none where the revision
// has no such hook.
func (m *Manager) hookTask(j *job, state *snapState, rev tenure.Revision, name hook.Name, patch hook.Patch) ([]change.TaskSpec, error) {
	declared := state.Kept[rev].Info.Hook(string(name))
	if declared == nil {
		return nil, nil
	}
	r, err := m.runnable(state, rev)
	if err != nil {
		return nil, err
	}
	params := hookParams{Change: j.change(), Hook: name, Spec: m.launch.hook(r, declared, j.change()), Patch: patch}
	// A snap that is to go goes, and one that says that it is not well from the
	// first moment is told of: there is nothing to go back to.
	params.Ignore = name == hook.Remove || name == hook.CheckHealth && j.installs()
	if name == hook.Evacuate {
		params.Spec.StartTimeout = m.maxEvacuation()
	}
	summary := fmt.Sprintf("Run %s hook of %q snap", name, j.snap())
	return []change.TaskSpec{change.NewTask(taskHook, summary, params)}, nil
}

// installs reports whether the snap was not there before.
func (j *job) installs() bool { return j.Before == nil || !j.Before.Line.Installed() }

// refreshes reports whether a revision that runs gives way to a later one.
func (j *job) refreshes() bool {
	return j.Reason == tenure.ReasonRefresh && !j.installs() && !j.to().IsZero()
}

// moment is a place in a change at which hooks run.
type moment int

const (
	// beforeDecision is when nothing of what runs has been touched.
	beforeDecision moment = iota
	// linked is when another revision is current, and none of its services runs.
	linked
	// stopped is when everything of a snap that goes has ended.
	stopped
	// committed is when the services run.
	committed
)

// hooks are the tasks that run the hooks of j at a moment.
func (m *Manager) hooks(j *job, at moment) ([]change.TaskSpec, error) {
	state, rev := j.After, j.to()
	var names []hook.Name
	switch {
	case at == beforeDecision && j.refreshes() && j.Before.Line.Active:
		state, rev, names = j.Before, j.from(), []hook.Name{hook.PreRefresh}
	case at == linked && j.installs() && j.Reason == tenure.ReasonRefresh:
		names = []hook.Name{hook.Install, hook.DefaultConfigure}
	case at == linked && j.refreshes():
		names = []hook.Name{hook.PostRefresh}
	case at == committed && j.Reason == tenure.ReasonRefresh && !rev.IsZero():
		names = []hook.Name{hook.Configure, hook.CheckHealth}
	case at == stopped && j.Reason == tenure.ReasonRemove && !j.prunes() && j.Before.Line.Active:
		state, rev, names = j.Before, j.from(), []hook.Name{hook.Remove}
	}
	var tasks []change.TaskSpec
	for _, name := range names {
		task, err := m.hookTask(j, state, rev, name, nil)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, task...)
	}
	if at == linked || at == stopped {
		for i := range tasks {
			tasks[i] = tasks[i].InGap()
			tasks[i].Kind = taskHookInGap
		}
	}
	return tasks, nil
}

// hook is the Spec of a hook of r, confined as an app with its plugs is. The unit
// gets its number when it is run.
func (l launcher) hook(r *installed, declared *snapfile.Hook, c policy.Change) supervise.Spec {
	app := hookApp(declared)
	spec := supervise.Spec{
		Unit:     tenure.UnitID{Snap: r.Ref.Snap, Kind: tenure.HookRun, App: app.Name, Serial: 1},
		Revision: r.Ref.Revision,
		Base:     r.Base,
		Command:  *l.commands(r, app)(hook.Name(declared.Name).Command()),
		Profile:  l.profile(r, app),
	}
	spec.Command.Env = append(slices.Clip(spec.Command.Env),
		"SNAP_LIFECYCLE_REASON="+string(c.Reason),
		"SNAP_LIFECYCLE_FROM="+revisionText(c.From), "SNAP_LIFECYCLE_TO="+revisionText(c.To))
	return spec
}

// hookApp is a hook as an app: with what both have.
func hookApp(declared *snapfile.Hook) *snapfile.App {
	return &snapfile.App{
		Name: tenure.App(declared.Name), Plugs: declared.Plugs,
		CommandChain: declared.CommandChain, Environment: declared.Environment,
	}
}

// revisionText is empty for no revision.
func revisionText(r tenure.Revision) string {
	if r.IsZero() {
		return ""
	}
	return r.String()
}

// forgetHooks drops what is known of the runs of hooks of changes that have ended,
// or that this change has made durable.
func (m *Manager) forgetHooks(ctx context.Context, snap tenure.Instance) error {
	statuses, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return fmt.Errorf("forget hooks of %s: %w", snap, err)
	}
	own := change.IDFrom(ctx)
	running := map[change.ID]bool{}
	for _, c := range m.engine.List(change.Filter{Select: change.Unfinished, Snap: snap}) {
		running[c.ID] = c.ID != own
	}
	var units []tenure.UnitID
	for _, status := range statuses {
		id := change.ID(status.Unit.Serial) //nolint:gosec // It was made of one.
		if status.Unit.Kind == tenure.HookRun && status.Unit.Snap == snap && idle(status) && !running[id] {
			units = append(units, status.Unit)
		}
	}
	runs, err := m.confs.runs.Keys()
	if err != nil {
		return fmt.Errorf("forget hooks of %s: %w", snap, err)
	}
	var failures []error
	for _, name := range runs {
		unit, err := tenure.ParseUnit(name)
		if err == nil && unit.Snap == snap && !running[change.ID(unit.Serial)] { //nolint:gosec // It was made of one.
			failures = append(failures, m.confs.runs.Delete(name))
		}
	}
	if len(units) > 0 {
		failures = append(failures, m.cfg.Supervisor.Forget(ctx, units...))
	}
	return errors.Join(failures...)
}
