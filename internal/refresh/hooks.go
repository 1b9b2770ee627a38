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
	// Ignore is that a failure is told and counts for nothing.
	Ignore bool `json:"ignore,omitempty"`
}

// hookStep runs a hook. What a hook has done is the package's own to take back:
// its data goes back by the other steps.
type hookStep struct{ m *Manager }

func (s hookStep) Do(ctx context.Context, p hookParams) (nothing, error) {
	spec := p.Hook.Spec(p.Spec, change.IDFrom(ctx))
	err := hook.Run(ctx, s.m.cfg.Supervisor, spec)
	report := change.ReporterFrom(ctx)
	if failed, ok := errors.AsType[*hook.FailedError](err); ok && p.Ignore {
		report.Logf("ignoring failure in hook %q: %v", p.Hook, failed)
		return nothing{}, nil
	}
	if err != nil {
		return nothing{}, err
	}
	for _, line := range hook.Output(ctx, s.m.cfg.Supervisor, spec.Unit) {
		report.Logf("%s", line)
	}
	return nothing{}, nil
}

func (hookStep) Undo(context.Context, hookParams, nothing) error { return nil }

// Probe goes on with a run that has begun.
func (s hookStep) Probe(ctx context.Context, p hookParams) (nothing, bool, error) {
	state, _, err := hook.Look(ctx, s.m.cfg.Supervisor, p.Hook.Spec(p.Spec, change.IDFrom(ctx)))
	if err != nil || state == hook.Fresh {
		return nothing{}, false, err
	}
	_, err = s.Do(ctx, p)
	return nothing{}, err == nil, err
}

// hookTask runs a hook of a revision in the course of j; none where the revision
// has no such hook.
func (m *Manager) hookTask(j *job, state *snapState, rev tenure.Revision, name hook.Name) ([]change.TaskSpec, error) {
	declared := state.Kept[rev].Info.Hook(string(name))
	if declared == nil {
		return nil, nil
	}
	r, err := m.runnable(state, rev)
	if err != nil {
		return nil, err
	}
	params := hookParams{Change: j.change(), Hook: name, Spec: m.launch.hook(r, declared, j.change())}
	// A snap that is to go goes, and one that says that it is not well from the
	// first moment is told of: there is nothing to go back to.
	params.Ignore = name == hook.Remove || name == hook.CheckHealth && j.installs()
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
		task, err := m.hookTask(j, state, rev, name)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, task...)
	}
	if at == linked || at == stopped {
		for i := range tasks {
			tasks[i] = tasks[i].InGap()
		}
	}
	return tasks, nil
}

// hook is the Spec of a hook of r, confined as an app with its plugs is. The unit
// gets its number when it is run.
func (l launcher) hook(r *installed, declared *snapfile.Hook, c policy.Change) supervise.Spec {
	app := &snapfile.App{
		Name: tenure.App(declared.Name), Plugs: declared.Plugs,
		CommandChain: declared.CommandChain, Environment: declared.Environment,
	}
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
	for _, c := range m.engine.List(change.Filter{Snap: snap}) {
		running[c.ID] = !c.Status.Ready() && c.ID != own
	}
	var units []tenure.UnitID
	for _, status := range statuses {
		id := change.ID(status.Unit.Serial) //nolint:gosec // It was made of one.
		if status.Unit.Kind == tenure.HookRun && status.Unit.Snap == snap && idle(status) && !running[id] {
			units = append(units, status.Unit)
		}
	}
	if len(units) == 0 {
		return nil
	}
	return m.cfg.Supervisor.Forget(ctx, units...)
}
