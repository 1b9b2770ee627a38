package refresh

import (
	"cmp"
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

// The kinds of tasks, by snapd's names where it has one.
const (
	taskPrepare = "prepare-snap"
	taskMount   = "mount-snap"
	taskAside   = "set-aside-snap-data"
	taskSwitch  = "switch-snap-channel"
	taskHold    = "hold-snap"
	taskAlias   = "alias"
	taskGate    = "ask-gate-auto-refresh"
	taskCopy    = "copy-snap-data"
	taskDecide  = "decide"
	taskStop    = "stop-snap-services"
	taskAwait   = "await-snap-services"
	taskUpdate  = "update-snap-data"
	taskLink    = "link-snap"
	taskStart   = "start-snap-services"
	taskReload  = "reload-snap-services"
	taskCommit  = "commit-snap"
	taskCompare = "compare-plan"
	taskObserve = "observe-snap-services"
	taskCollect = "collect-revisions"

	// Telling workloads of another revision, and what its undo goes by.
	taskRecall = "remember-snap-workloads"
	taskTell   = "reload-snap-workloads"

	// Following another revision by a reload, and what its undo goes by.
	taskRemember = "remember-snap-services"
	taskFollow   = "move-snap-services"

	// Handing over to the next generation.
	taskSucceed  = "start-next-snap-services"
	taskHandOver = "hand-over-snap-services"

	taskConfigure = "configure-system"
	taskHook      = "run-hook"
	taskHookInGap = "run-hook-in-gap"
	taskKeepConf  = "keep-configuration"
	taskInstances = "keep-instances"
)

// tasks prepare all of the jobs, and then decide each, which brings the tasks of its switch. As long as
// they prepare nothing that runs is touched.
func (m *Manager) tasks(jobs []job) ([]change.TaskSpec, error) {
	tasks := m.preparations(jobs)
	for i := range jobs {
		hooks, err := m.hooks(&jobs[i], beforeDecision)
		if err != nil {
			return nil, err
		}
		tasks = append(append(tasks, hooks...), m.decideTask(decideParams{Jobs: jobs[i : i+1], More: i+1 < len(jobs)}))
	}
	return tasks, nil
}

func (m *Manager) decideTask(p decideParams) change.TaskSpec {
	return change.NewTask(taskDecide, fmt.Sprintf("Decide what becomes of the processes of %q", p.Jobs[0].snap()), p)
}

// ref is a revision of the job's snap; no revision is the zero Ref.
func (j *job) ref(rev tenure.Revision) tenure.Ref {
	if rev.IsZero() {
		return tenure.Ref{}
	}
	return tenure.Ref{Snap: j.snap(), Revision: rev}
}

// switching is a plan, compiled: what is ended, in what order, and what is
// started. It is part of the durable intent of the switch.
type switching struct {
	// Stop are the services that are told to stop.
	Stop []stopping
	// Split are the services out of which workloads of End have not come yet.
	Split []tenure.UnitID
	// End are workloads and runs of apps that end after the services.
	End []tenure.UnitID
	// Start are the services that are started.
	Start []supervise.Spec
	// Idle are the others, which a hook of the change may ask to be started.
	Idle []supervise.Spec
	// Follow are the services that are told of the new revision and go on.
	Follow []following
	// Tell are the workloads that are told of the new revision and live on.
	Tell []telling
	// Blocks is that a unit of the snap must not be killed, so that its stop may have to
	// be waited for.
	Blocks bool
	// Terms are those on which rules say that units of the plan are stopped.
	Terms map[tenure.UnitID]supervise.Terms
	// HandOver are the services that hand over to their next generation.
	HandOver []succession
	// Old are the workloads on the revision of those services, of an earlier time.
	Old []tenure.UnitID
}

// switchTasks carry out a compiled plan for j, and record it.
func (m *Manager) switchTasks(j *job, sw switching) ([]change.TaskSpec, error) {
	snap := j.snap()
	var tasks []change.TaskSpec
	var failures []error
	add := func(kind change.TaskSpec) { tasks = append(tasks, kind) }
	hooks := func(at moment) {
		more, err := m.hooks(j, at)
		tasks, failures = append(tasks, more...), append(failures, err)
	}
	tasks = append(tasks, keepConfTasks(j)...)
	follow := followParams{Change: j.change(), Services: sw.Follow}
	if len(sw.Follow) > 0 {
		add(change.NewTask(taskRemember, fmt.Sprintf("Remember services of %q that go on", snap), follow).InGap())
	}
	tell := tellParams{Change: j.change(), Workloads: sw.Tell}
	if len(sw.Tell) > 0 {
		add(change.NewTask(taskRecall, fmt.Sprintf("Remember workloads of %q that are reloaded", snap), tell).InGap())
	}
	if len(sw.Stop)+len(sw.End) > 0 || j.ends() {
		tasks = append(tasks, stopTasks(snap, stopParams{
			Change: j.change(), Stop: sw.Stop, End: sw.End, Hold: names(sw.Start), Kill: j.Options.Kill,
			Strays: j.ends(), Patient: sw.Blocks && !j.Options.Kill, Terms: sw.Terms,
		})...)
	}
	saving, err := m.autoSave(j)
	tasks, failures = append(tasks, saving...), append(failures, err)
	hooks(stopped)
	if j.Copy {
		add(change.NewTask(taskUpdate, fmt.Sprintf("Bring data of %s up to date", j.target()), copyParams{
			From: j.ref(j.from()), To: j.target(), Copy: true,
		}).InGap())
	}
	handOver := handOverParams{Change: j.change(), Services: sw.HandOver, Before: sw.Old, Terms: sw.Terms}
	if len(sw.HandOver) > 0 {
		add(change.NewTask(taskSucceed, fmt.Sprintf("Start next services of %q beside those that run", snap), handOver).InGap())
	}
	if link := m.linkOf(j); link.changes() {
		add(change.NewTask(taskLink, linkSummary(link), link).InGap())
	}
	hooks(linked)
	if len(sw.Follow) > 0 {
		add(change.NewTask(taskFollow, fmt.Sprintf("Reload services of %q", snap), follow).InGap())
	}
	if len(sw.Start)+len(sw.Idle) > 0 {
		add(change.NewTask(taskStart, fmt.Sprintf("Start services of %q", snap), startParams{
			Change: j.change(), Specs: sw.Start, Idle: sw.Idle, Before: sw.Old, Stopped: sw.Stop,
		}).InGap())
	}
	if len(sw.Tell) > 0 {
		add(change.NewTask(taskTell, fmt.Sprintf("Reload workloads of %q", snap), tell))
	}
	if len(sw.HandOver) > 0 {
		add(change.NewTask(taskHandOver, fmt.Sprintf("Hand over services of %q", snap), handOver))
	}
	add(change.NewTask(taskCommit, fmt.Sprintf("Record %q", snap), commitParams{Snap: snap, Before: j.Before, After: j.After}))
	hooks(committed)
	return tasks, errors.Join(failures...)
}

// keepConfTasks keep the configuration with a revision that ceases to be current, also while the snap is disabled.
func keepConfTasks(j *job) []change.TaskSpec {
	why := j.change()
	if why.To = j.becomes(); why.From.IsZero() || why.To.IsZero() || why.From == why.To {
		return nil
	}
	return []change.TaskSpec{
		change.NewTask(taskKeepConf, fmt.Sprintf("Keep the configuration of %q", j.snap()), keepConfParams{Change: why}).JoinedOn(),
	}
}

// stopTasks stop units, and wait for those that must not be killed.
func stopTasks(snap tenure.Instance, p stopParams) []change.TaskSpec {
	tasks := []change.TaskSpec{change.NewTask(taskStop, fmt.Sprintf("Stop services of %q", snap), p).InGap()}
	if p.Patient {
		tasks = append(tasks, change.NewTask(taskAwait, fmt.Sprintf("Wait for services of %q to end", snap), p).InGap())
	}
	return tasks
}

// lastTasks end a change: as long as it may be undone, nothing is collected.
func lastTasks(plans []policy.Plan, services []observed) []change.TaskSpec {
	tasks := []change.TaskSpec{compareTask()}
	if len(services) > 0 {
		tasks = append(tasks, observeTask(services))
	}
	snaps := make([]tenure.Instance, 0, len(plans))
	for i := range plans {
		snaps = append(snaps, plans[i].Change.Snap)
	}
	return append(tasks, collectTask(snaps...))
}

func collectTask(snaps ...tenure.Instance) change.TaskSpec {
	of := fmt.Sprintf("%d snaps", len(snaps))
	if len(snaps) == 1 {
		of = fmt.Sprintf("%q", snaps[0])
	}
	return change.NewTask(taskCollect, fmt.Sprintf("Collect revisions of %s that nothing needs", of), collectParams{Snaps: snaps}).AtTheEnd()
}

func compareTask() change.TaskSpec {
	return change.NewTask(taskCompare, "Compare what happened with the plan", nothing{})
}

// ends reports whether nothing of the snap is to run afterwards.
func (j *job) ends() bool {
	return j.Reason == tenure.ReasonRemove && !j.prunes() || j.Reason == tenure.ReasonDisable
}

// compile turns the verdicts of plan into who is stopped and what is started.
func (m *Manager) compile(ctx context.Context, j *job, plan policy.Plan) (switching, error) {
	var sw switching
	statuses, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return sw, fmt.Errorf("compile the plan: %w", err)
	}
	sw.Blocks = mayBlock(j.snap(), statuses) || m.mayForbidKill()
	sw.Terms = m.termsOf(plan)
	status := make(map[tenure.UnitID]supervise.Status, len(statuses))
	for _, s := range statuses {
		status[s.Unit] = s
		if offspring(&s, j.change()) {
			sw.Old = append(sw.Old, s.Unit)
		}
	}
	stays := map[tenure.UnitID]bool{}
	for _, item := range plan.Items {
		known, exists := status[item.Unit]
		if item.Unit.Snap != j.snap() {
			// It uses this snap, and the administrator wants that to end.
			if item.Verdict == tenure.Stop && exists {
				sw.End = append(sw.End, item.Unit)
			}
			continue
		}
		switch item.Verdict {
		case tenure.Restart, tenure.Stop:
			if item.Unit.Kind != tenure.Service {
				sw.end(item.Unit, exists, plan.Change)
				continue
			}
			sw.Stop = append(sw.Stop, stopping{
				Unit: item.Unit, Revision: known.Revision, Generation: known.Generation, Spec: known.Spec,
			})
		case tenure.Endure:
			stays[item.Unit] = true
		case tenure.Reload, tenure.HandOver:
			if err := m.renew(j, &sw, known, item); err != nil {
				return sw, err
			}
			stays[item.Unit] = true
		case tenure.Defer, tenure.Refuse:
			return sw, fmt.Errorf("the verdict %q on %s cannot be carried out", item.Verdict, item.Unit)
		}
	}
	return sw, m.fillStart(j, &sw, stays)
}

// renew notes a service that becomes another revision without being stopped first, or a
// workload that is told of it.
func (m *Manager) renew(j *job, sw *switching, known supervise.Status, item policy.Item) error {
	if item.Unit.Kind == tenure.Workload {
		sw.Tell = append(sw.Tell, telling{
			Unit: item.Unit, Revision: item.Revision, Process: cmp.Or(item.Main, item.Processes[0]), Signal: item.Signal, Rule: item.Rule,
		})
		return nil
	}
	if item.Verdict == tenure.Reload {
		f, err := m.follow(j, known)
		sw.Follow = append(sw.Follow, f)
		return err
	}
	s, err := m.succession(j, known, item.Drain)
	sw.HandOver = append(sw.HandOver, s)
	return err
}

// end notes a unit that ends and is no service. One that will only come out of
// its service when that is stopped is found then, unless it was named.
func (sw *switching) end(unit tenure.UnitID, exists bool, why policy.Change) {
	named := slices.Contains(why.Units, unit)
	if exists || named {
		sw.End = append(sw.End, unit)
	}
	if service := unit.Service(); !exists && named && !slices.Contains(sw.Split, service) {
		sw.Split = append(sw.Split, service)
	}
}

// fillStart notes who is started when all that is stopped is known.
func (m *Manager) fillStart(j *job, sw *switching, stays map[tenure.UnitID]bool) (err error) {
	if sw.Start, sw.Idle, err = m.toStart(j, stays); err != nil {
		return err
	}
	instances, err := m.startInstances(j, sw)
	sw.Start = append(sw.Start, instances...)
	return err
}

// toStart are the services of j's target that are started in its switch: all
// that are enabled, but those that endure and those that the administrator has
// stopped. idle are the latter and the disabled ones, where a hook that runs before
// may ask for them.
func (m *Manager) toStart(j *job, stays map[tenure.UnitID]bool) (start, idle []supervise.Spec, err error) {
	if j.to().IsZero() || j.Reason == tenure.ReasonRemove {
		return nil, nil, nil
	}
	r, err := m.runnable(j.After, j.to())
	if err != nil {
		return nil, nil, err
	}
	asked := j.asksHooks()
	for _, app := range r.Info.StartOrder() {
		switch {
		case stays[tenure.ServiceUnit(j.snap(), app.Name)] || app.Lifecycle.Instances:
		case !slices.Contains(j.After.Disabled, app.Name) && !slices.Contains(j.After.Stopped, app.Name):
			start = append(start, m.launch.service(r, app))
		case asked:
			idle = append(idle, m.launch.service(r, app))
		}
	}
	return start, idle, nil
}

// asksHooks reports whether a hook runs in the course of j before its services start.
func (j *job) asksHooks() bool {
	has := func(state *snapState, rev tenure.Revision, names ...hook.Name) bool {
		return slices.ContainsFunc(names, func(name hook.Name) bool { return state.Kept[rev].Info.Hook(string(name)) != nil })
	}
	switch {
	case j.Reason == tenure.ReasonRevert:
		return has(j.Before, j.from(), hook.Evacuate)
	case j.Reason != tenure.ReasonRefresh:
		return false
	case j.installs():
		return has(j.After, j.to(), hook.Install, hook.DefaultConfigure)
	}
	return has(j.Before, j.from(), hook.PreRefresh, hook.Evacuate) || has(j.After, j.to(), hook.PostRefresh)
}

// runnable is a revision with the base that it runs on.
func (m *Manager) runnable(state *snapState, rev tenure.Revision) (*installed, error) {
	r := state.revision(rev)
	if !needsBase(r.Info) {
		return &r, nil
	}
	base := tenure.Instance(r.Info.EffectiveBase())
	found, err := m.snaps.Get(base)
	if err != nil {
		return nil, err
	}
	if found != nil && found.Line.Installed() && !found.Line.Active {
		return nil, &Error{
			Kind: KindBase, Op: "run", Object: r.Ref.String(), Hint: "enable it with tenure enable " + string(base),
			Err: fmt.Errorf("its base %q is disabled", base),
		}
	}
	if found == nil || !found.Line.Installed() {
		return nil, &Error{
			Kind: KindBase, Op: "run", Object: r.Ref.String(), Hint: "install " + string(base),
			Err: fmt.Errorf("its base %q is not installed", base),
		}
	}
	r.Base = tenure.Ref{Snap: base, Revision: found.Line.Current}
	return &r, nil
}

func (m *Manager) linkOf(j *job) linkParams {
	link := linkParams{Snap: j.snap(), To: j.to()}
	if j.Before != nil && j.Before.Line.Active {
		link.From = j.from()
		info := j.Before.Kept[j.from()].Info
		link.FromApps, link.FromCompleted = commands(info), completed(info)
	}
	if !link.To.IsZero() {
		info := j.After.Kept[link.To].Info
		link.ToApps, link.ToCompleted = commands(info), completed(info)
	}
	return link
}

func linkSummary(link linkParams) string {
	if link.To.IsZero() {
		return fmt.Sprintf("Make %q unavailable to the system", link.Snap)
	}
	return fmt.Sprintf("Make %s current", tenure.Ref{Snap: link.Snap, Revision: link.To})
}

// commands are the apps of a snap that people run, by name.
func commands(info *snapfile.Snap) []tenure.App {
	var apps []tenure.App
	for i := range info.Apps {
		if !info.Apps[i].IsService() {
			apps = append(apps, info.Apps[i].Name)
		}
	}
	return apps
}

func names(specs []supervise.Spec) []tenure.UnitID {
	units := make([]tenure.UnitID, 0, len(specs))
	for i := range specs {
		units = append(units, specs[i].Unit)
	}
	return units
}

// next is what the service of known is on j's target: its app there, and the Spec
// that it goes on with, for who goes on without being stopped first. A process that stays
// the same stays on the revision of the base that it has.
func (m *Manager) next(j *job, known supervise.Status, stays bool) (*snapfile.App, supervise.Spec, error) {
	r, err := m.runnable(j.After, j.to())
	if err != nil {
		return nil, supervise.Spec{}, err
	}
	if stays && known.Spec != nil && known.Spec.Base.Snap == r.Base.Snap {
		r.Base = known.Spec.Base
	}
	kept, err := m.instancesOf(j.snap())
	if err != nil {
		return nil, supervise.Spec{}, err
	}
	spec, err := m.spec(r, known.Unit, kept)
	if err != nil || known.Spec == nil {
		return nil, supervise.Spec{}, errors.Join(fmt.Errorf("it is not known how %s goes on with %s", known.Unit, j.to()), err)
	}
	return r.Info.App(known.Unit.App), spec, nil
}
