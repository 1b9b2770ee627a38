package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/revision"
	"tenure/internal/snapfile"
)

// job is what is to become of one snap. It is decided while the snap is claimed,
// and is stored with the tasks that carry it out.
type job struct {
	Reason tenure.Reason `json:"reason"`
	// Before is the state that the job starts from; nil for a first install.
	// After is the state that it leads to; nil when nothing is to be left.
	Before *snapState `json:"before,omitempty"`
	After  *snapState `json:"after,omitempty"`
	// Staged is the file that becomes the new revision; empty when it is there.
	Staged string `json:"staged,omitempty"`
	// Auto is that nobody has asked for it.
	Auto bool `json:"auto,omitempty"`
	// Present is that the new revision is on disk already, from an earlier time.
	Present bool `json:"present,omitempty"`
	// Copy is that the data of the old revision is copied to the new one.
	Copy bool `json:"copy,omitempty"`
	// Purge is that the data is not saved before it is removed.
	Purge bool `json:"purge,omitempty"`
	// Only are the units that the administrator named, for stop and restart.
	Only []tenure.UnitID `json:"only,omitempty"`
	// With are the snaps that the same command disables or removes.
	With    []tenure.Instance `json:"with,omitempty"`
	Options Options           `json:"options"`
}

// snap is the instance that the job is about.
func (j *job) snap() tenure.Instance {
	if j.After != nil {
		return j.After.Instance
	}
	return j.Before.Instance
}

// from and to are the current revisions before and after; zero when there is none.
func (j *job) from() tenure.Revision {
	if j.Before == nil {
		return tenure.Revision{}
	}
	return j.Before.Line.Current
}

// becomes is the revision that is current afterwards, also where the snap is disabled and nothing of it is.
func (j *job) becomes() tenure.Revision {
	if j.After == nil {
		return tenure.Revision{}
	}
	return j.After.Line.Current
}

func (j *job) to() tenure.Revision {
	if j.After == nil || !j.After.Line.Active {
		return tenure.Revision{}
	}
	return j.After.Line.Current
}

// prunes reports whether the job only drops revisions that nothing uses, from a
// snap that stays as it is.
func (j *job) prunes() bool {
	return j.Reason == tenure.ReasonRemove && j.After != nil && j.After.Line.Installed()
}

func (j *job) target() tenure.Ref {
	return tenure.Ref{Snap: j.snap(), Revision: j.becomes()}
}

// change is the question that the job puts to policy.
func (j *job) change() policy.Change {
	return policy.Change{
		Reason:        j.Reason,
		Snap:          j.snap(),
		From:          j.from(),
		To:            j.to(),
		Units:         j.Only,
		With:          j.With,
		Auto:          j.Auto,
		IgnoreRunning: j.Options.IgnoreRunning,
		Force:         j.Options.Force,
		Now:           j.Options.Now,
		Leave:         j.Options.Leave,
		Kill:          j.Options.Kill,
	}
}

// Do checks a request, decides, and starts the change that carries it out. What
// is refused has changed nothing.
func (m *Manager) Do(ctx context.Context, req Request) (change.ID, error) {
	if req.Hold != nil {
		return m.Hold(ctx, *req.Hold)
	}
	if err := m.enoughToRun(req); err != nil {
		return 0, err
	}
	for {
		id, err := m.begin(ctx, req)
		if KindOf(err) == KindNoUpdate && m.tracksOther(req) {
			return m.switchChannel(ctx, req)
		}
		// The change in the way of what a process of a snap asks may wait for that process.
		if !errors.Is(err, errStale) && (req.FromSnap || !m.letLook(ctx, err)) {
			return id, err
		}
	}
}

// errStale is that what a request was decided on has changed before it could begin.
var errStale = errors.New("the snap has changed meanwhile")

func (m *Manager) begin(ctx context.Context, req Request) (change.ID, error) {
	if req.Action == ActionStart || req.Action == ActionStop || req.Action == ActionRestart {
		return m.afterApplied(ctx, func() (change.ID, error) { return m.control(ctx, req) })
	}
	if req.Action == ActionSwitch {
		return m.switchChannel(ctx, req)
	}
	if req.Action == ActionRefresh && len(req.Files) == 0 && req.Options.Now {
		if id, err := m.hurrySnap(ctx, req); id != 0 || err != nil {
			return id, err
		}
	}
	req, done, err := m.resolve(ctx, req)
	if err != nil {
		return 0, err
	}
	defer done()
	if id, err := m.stagedAlready(ctx, req); id != 0 || err != nil {
		return id, err
	}
	prepared, err := m.prepareAlone(ctx, req)
	if err != nil {
		return 0, err
	}
	defer prepared.release()
	op := string(req.Action)
	clear := m.vacate
	if req.Auto {
		clear = m.undisturbed
	}
	if err := clear(ctx, op, jobSnaps(prepared.jobs)); err != nil {
		return 0, err
	}
	if err := m.stageAll(ctx, op, prepared); err != nil {
		return 0, err
	}
	plans, err := json.Marshal(prepared.plans)
	if err != nil {
		return 0, fmt.Errorf("%s: store the plan: %w", op, err)
	}
	tasks, err := m.tasks(prepared.jobs)
	if err != nil {
		m.unstage(prepared.jobs, prepared.files)
		return 0, err
	}
	snaps := jobSnaps(prepared.jobs)
	id, err := m.engine.Start(ctx, change.NewChange{
		Kind:    kindOf(prepared.jobs[0]),
		Summary: summary(prepared.jobs),
		Snaps:   snaps,
		Tasks:   tasks,
		Plan:    plans,
	})
	if err != nil {
		m.unstage(prepared.jobs, prepared.files)
		return 0, conflict(op, join(snaps), err)
	}
	return id, nil
}

// prepareAlone is prepare for what is to be carried out: it refuses what the plans
// refuse, and ends changes that wait for what the request makes pointless.
func (m *Manager) prepareAlone(ctx context.Context, req Request) (*prepared, error) {
	for {
		p, err := m.prepare(ctx, req)
		if err != nil {
			return nil, err
		}
		var ended []change.ID
		if err = acceptable(string(req.Action), p.plans); err == nil {
			ended, err = m.supersede(ctx, req, p.jobs)
		}
		if err == nil && len(ended) == 0 {
			return p, nil
		}
		p.release()
		if err != nil {
			return nil, err
		}
		for _, id := range ended {
			if _, err := m.engine.WaitFor(ctx, id); err != nil {
				return nil, err
			}
		}
	}
}

// acceptable is nil if all plans can be carried out together.
func acceptable(op string, plans []policy.Plan) error {
	for _, plan := range plans {
		if plan.Refusal != nil {
			return refused(op, plan)
		}
	}
	for _, plan := range plans {
		if err := alone(plans, plan); err != nil {
			return err
		}
	}
	return nil
}

// Plan decides a request without carrying it out.
func (m *Manager) Plan(ctx context.Context, req Request) ([]policy.Plan, error) {
	if req.Action == ActionStart || req.Action == ActionStop || req.Action == ActionRestart {
		return m.planControl(ctx, req)
	}
	if req.OfAll() {
		return m.planAll(ctx, req)
	}
	req, done, err := m.resolve(ctx, req)
	if err != nil {
		return nil, err
	}
	defer done()
	prepared, err := m.prepare(ctx, req)
	if err != nil {
		return nil, err
	}
	defer prepared.release()
	return prepared.plans, nil
}

// prepared is a request that has been checked and decided; its snaps are
// claimed until it is released.
type prepared struct {
	jobs    []job
	plans   []policy.Plan
	files   map[tenure.Instance]string
	release func()
}

func (m *Manager) prepare(ctx context.Context, req Request) (*prepared, error) {
	candidates, err := m.inspectAll(ctx, req.Files)
	if err != nil {
		return nil, err
	}
	names := slices.Clone(req.Snaps)
	files := make(map[tenure.Instance]string, len(candidates))
	for _, c := range candidates {
		if files[c.Name] != "" {
			return nil, &Error{
				Kind: KindBad, Op: string(req.Action), Object: string(c.Name), Hint: "leave one out, or install it under another name",
				Err: fmt.Errorf("two files of one command are this snap, %s the second of them", c.File.Label),
			}
		}
		files[c.Name] = c.File.Path
		names = append(names, c.Name)
	}
	if len(names) == 0 {
		return nil, &Error{Kind: KindBad, Op: string(req.Action), Err: fmt.Errorf("no snap was named")}
	}
	release, err := m.claims.take(ctx, names...)
	if err != nil {
		return nil, err
	}
	p := &prepared{files: files, release: release}
	if p.jobs, err = m.jobs(ctx, req, candidates); err == nil {
		p.plans, err = m.decideAll(ctx, p.jobs)
	}
	if err != nil {
		release()
		return nil, err
	}
	return p, nil
}

func (m *Manager) jobs(ctx context.Context, req Request, candidates []candidate) ([]job, error) {
	switch req.Action {
	case ActionInstall, ActionRefresh:
		return m.installJobs(ctx, req, candidates)
	case ActionRevert, ActionRemove, ActionEnable, ActionDisable:
		return m.snapJobs(ctx, req)
	case ActionStart, ActionStop, ActionRestart, ActionSwitch:
	}
	return nil, &Error{Kind: KindBad, Op: string(req.Action), Err: fmt.Errorf("there is no action %q", req.Action)}
}

// decideAll is the plan of each job.
func (m *Manager) decideAll(ctx context.Context, jobs []job) ([]policy.Plan, error) {
	plans := make([]policy.Plan, 0, len(jobs))
	for i := range jobs {
		plan, err := m.decide(ctx, &jobs[i], nil)
		if err != nil {
			return nil, err
		}
		plans = append(plans, plan)
	}
	return plans, nil
}

// decide is the plan of j, which has waited for w, if it has.
func (m *Manager) decide(ctx context.Context, j *job, w *wait) (policy.Plan, error) {
	if j.prunes() {
		return policy.Plan{Change: j.change(), Summary: fmt.Sprintf("%s: no unit is touched", j.change())}, nil
	}
	var more []installed
	if !j.to().IsZero() && (j.Before == nil || j.Before.Kept[j.to()].Info == nil) {
		more = append(more, j.After.revision(j.to()))
	}
	question := j.change()
	if running, err := m.engine.Get(change.IDFrom(ctx)); err == nil {
		question.Since = running.Spawned
	}
	facts, err := m.facts(ctx, question, more...)
	if err != nil {
		return policy.Plan{}, err
	}
	if facts.Estimates, err = m.estimates.of(question.Snap, question.Reason); err != nil {
		return policy.Plan{}, err
	}
	if facts.Lapsed, err = m.lapsed(ctx, w); err != nil {
		return policy.Plan{}, err
	}
	if j.ends() && j.Before != nil {
		if facts.Strays, err = m.strays(ctx, j.Before); err != nil {
			return policy.Plan{}, err
		}
	}
	return policy.Decide(facts), nil
}

func refused(op string, plan policy.Plan) error {
	return &Error{
		Kind: KindRefused, Op: op, Object: string(plan.Change.Snap),
		Hint: plan.Refusal.Remedy,
		Err:  fmt.Errorf("%s", plan.Refusal.Text), //nolint:err113 // The plan's sentence is the error.
	}
}

// snapJobs are the jobs for snaps that are installed, each once: bases are enabled
// before what needs them, and disabled or removed after it.
func (m *Manager) snapJobs(ctx context.Context, req Request) ([]job, error) {
	req.Snaps = slices.Compact(slices.Sorted(slices.Values(req.Snaps)))
	var jobs []job
	for _, snap := range req.Snaps {
		j, err := m.snapJob(ctx, req, snap)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	slices.SortStableFunc(jobs, func(a, b job) int {
		order := rank(a.Before.Kept[a.from()].Info) - rank(b.Before.Kept[b.from()].Info)
		if req.Action == ActionEnable {
			return order
		}
		return -order
	})
	return jobs, nil
}

// snapJob is the job for a snap that is installed.
func (m *Manager) snapJob(ctx context.Context, req Request, snap tenure.Instance) (job, error) {
	op := string(req.Action)
	before, err := m.installedSnap(op, snap)
	if err != nil {
		return job{}, err
	}
	line := before.Line
	j := job{Before: before, Options: req.Options, Reason: tenure.ReasonRevert}
	bad := func(err error) (job, error) {
		return job{}, &Error{Kind: KindBad, Op: op, Object: string(snap), Err: err}
	}
	switch req.Action {
	case ActionRevert:
		if line, _, err = revision.Revert(line, req.Revision); err != nil {
			failed := &Error{Kind: KindNotRevertible, Op: op, Object: string(snap), Err: bare(err)}
			if !req.Revision.IsZero() {
				failed.Object += " to " + req.Revision.String()
			}
			return job{}, failed
		}
	case ActionEnable:
		j.Reason = tenure.ReasonRestart
		if line.Active {
			return bad(fmt.Errorf("snap %q is already enabled", snap))
		}
		if line, _, err = revision.Enable(line); err != nil {
			return bad(bare(err))
		}
	case ActionDisable:
		j.Reason, j.With = tenure.ReasonDisable, req.Snaps
		if !line.Active {
			return bad(fmt.Errorf("snap %q is already disabled", snap))
		}
		if err := m.unused(req, before); err != nil {
			return job{}, err
		}
		if line, _, err = revision.Disable(line); err != nil {
			return bad(err)
		}
	case ActionRemove:
		j.Reason, j.With, j.Purge = tenure.ReasonRemove, req.Snaps, req.Purge
		if line, err = m.removeLine(ctx, req, before); err != nil {
			return job{}, err
		}
	case ActionInstall, ActionRefresh, ActionStart, ActionStop, ActionRestart, ActionSwitch:
		return bad(fmt.Errorf("there is no action %q on installed snaps", req.Action))
	}
	j.After = before.with(line)
	if req.Action == ActionEnable {
		// What was stopped before it was disabled is not what enabling asks for.
		j.After.Stopped = nil
	}
	return j, nil
}

// removeLine is before without one revision, or without all.
func (m *Manager) removeLine(ctx context.Context, req Request, before *snapState) (revision.State, error) {
	snap, rev := string(before.Instance), req.Revision
	if !rev.IsZero() {
		pins, err := m.pins(ctx, before)
		if err != nil {
			return revision.State{}, err
		}
		line, _, err := revision.RemoveRevision(before.Line, rev, pins)
		if err != nil {
			return line, &Error{Kind: KindBad, Op: "remove revision " + rev.String() + " of", Object: snap, Err: bare(err)}
		}
		return line, nil
	}
	if err := m.unused(req, before); err != nil {
		return revision.State{}, err
	}
	line, _, err := revision.Remove(before.Line)
	if err != nil {
		return line, &Error{Kind: KindBad, Op: "remove", Object: snap, Err: bare(err)}
	}
	return line, nil
}

// unused refuses what would take a base from under enabled snaps that the same
// request leaves as they are.
func (m *Manager) unused(req Request, base *snapState) error {
	users, err := m.dependents(base)
	if err != nil {
		return err
	}
	users = slices.DeleteFunc(users, func(user string) bool { return slices.Contains(req.Snaps, tenure.Instance(user)) })
	if len(users) == 0 {
		return nil
	}
	op, names := string(req.Action), strings.Join(users, ", ")
	return &Error{
		Kind: KindBase, Op: op, Object: string(base.Instance), Hint: op + " " + names + " first, or in the same command",
		Err: fmt.Errorf("it is the base of %s", names),
	}
}

// dependents are the installed snaps that have state's snap as their base.
func (m *Manager) dependents(state *snapState) ([]string, error) {
	if state.Kept[state.Line.Current].Info.Type == snapfile.TypeApp {
		return nil, nil
	}
	all, err := m.snaps.All()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, other := range all {
		if !other.Line.Installed() || other.Instance == state.Instance {
			continue
		}
		info := other.Kept[other.Line.Current].Info
		if needsBase(info) && info.EffectiveBase() == string(state.Instance) {
			names = append(names, string(other.Instance))
		}
	}
	return names, nil
}

func jobSnaps(jobs []job) []tenure.Instance {
	snaps := make([]tenure.Instance, 0, len(jobs))
	for i := range jobs {
		snaps = append(snaps, jobs[i].snap())
	}
	return snaps
}

func join(snaps []tenure.Instance) string {
	names := make([]string, 0, len(snaps))
	for _, snap := range snaps {
		names = append(names, string(snap))
	}
	return strings.Join(names, ", ")
}

// The kinds of changes that refresh snaps, by snapd's names.
const (
	kindRefresh     = "refresh-snap"
	kindAutoRefresh = "auto-refresh"
)

// kindOf is the kind of the change that does j first, by snapd's names.
func kindOf(j job) string {
	if j.Auto {
		return kindAutoRefresh
	}
	if j.Before == nil || !j.Before.Line.Installed() {
		return "install-snap"
	}
	switch j.Reason {
	case tenure.ReasonRefresh:
		return kindRefresh
	case tenure.ReasonRevert:
		return "revert-snap"
	case tenure.ReasonRemove:
		return "remove-snap"
	case tenure.ReasonDisable:
		return "disable-snap"
	case tenure.ReasonRestart:
		return "enable-snap"
	case tenure.ReasonStop, tenure.ReasonShutdown:
	}
	return "service-control"
}

func summary(jobs []job) string {
	verb := map[string]string{
		"install-snap": "Install", kindRefresh: "Refresh", kindAutoRefresh: "Auto-refresh", "revert-snap": "Revert",
		"remove-snap": "Remove", "disable-snap": "Disable", "enable-snap": "Enable",
	}[kindOf(jobs[0])]
	return verb + " " + quoteSnaps(jobSnaps(jobs))
}

// quoteSnaps names snaps as the summaries of changes do: "a", "b" snaps.
func quoteSnaps(snaps []tenure.Instance) string {
	quoted := make([]string, 0, len(snaps))
	for _, snap := range snaps {
		quoted = append(quoted, fmt.Sprintf("%q", snap))
	}
	noun := "snap"
	if len(snaps) > 1 {
		noun = "snaps"
	}
	return strings.Join(quoted, ", ") + " " + noun
}
