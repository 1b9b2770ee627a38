package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/revision"
)

// wait makes the change of a decision wait for the units that plan waits for: the
// revision is staged, nothing is locked, and the decision is made anew when the
// change wakes.
func (s decideStep) wait(ctx context.Context, d *deciding) error {
	j, plan := &d.Jobs[0], d.plan
	if err := alone(d.plans, plan); err != nil {
		return err
	}
	if err := s.m.noteStaged(ctx, j); err != nil {
		return err
	}
	known, err := s.m.statuses(ctx)
	if err != nil {
		return err
	}
	var units []awaited
	for i := range plan.Items {
		if item := &plan.Items[i]; item.Verdict == tenure.Defer {
			processes, _ := item.Awaited()
			units = append(units, awaited{
				Unit: item.Unit, Generation: known[item.Unit].Generation, Processes: processes,
				While: item.While, Limit: item.Deferral, Ruled: ruledDefer(item),
			})
		}
	}
	if err := s.m.putWait(ctx, units); err != nil {
		return err
	}
	raw, err := json.Marshal([]policy.Plan{plan})
	if err != nil {
		return fmt.Errorf("store the plan: %w", err)
	}
	change.ReporterFrom(ctx).Logf("%s", plan.Summary)
	if err := change.Replan(ctx, raw); err != nil {
		return err
	}
	return &change.Waiting{For: waitText(plan)}
}

// waitText says whom a plan waits for, and how long at most.
func waitText(plan policy.Plan) string {
	text := plan.WaitText() + " to end"
	if slices.ContainsFunc(plan.Items, func(i policy.Item) bool { return i.While != "" }) {
		text = plan.WaitText() + " to finish"
	}
	if limit := patienceOf(plan); limit > 0 && !plan.Change.Since.IsZero() {
		text += ", until " + plan.Change.Since.Add(limit).UTC().Format(time.RFC3339) + " at the latest"
	}
	return text
}

// alone refuses to wait for one of several snaps of one change, which all change or
// none.
func alone(all []policy.Plan, plan policy.Plan) error {
	if len(all) < 2 || len(plan.Waits) == 0 {
		return nil
	}
	return &Error{
		Kind: KindRefused, Op: string(plan.Change.Reason), Object: string(plan.Change.Snap),
		Hint: "do it in a command of its own, or use --now",
		Err:  fmt.Errorf("%s is to be waited for, and the other snaps of the command would have to wait too", plan.WaitText()),
	}
}

// noteStaged notes in the snap's state that the revision which j leads to is on disk,
// and waits. Its number is not given again, and it is mounted when the machine starts.
func (m *Manager) noteStaged(ctx context.Context, j *job) error {
	if j.Before == nil || !j.Before.Line.Installed() {
		return &Error{Kind: KindRefused, Op: "install", Object: string(j.snap()), Hint: "end it first", Err: errors.New("something of an earlier installation is to be waited for")}
	}
	if j.After == nil || !j.After.Line.Installed() {
		return nil
	}
	release, err := m.claims.take(ctx, j.snap())
	if err != nil {
		return err
	}
	defer release()
	state, err := m.snaps.Get(j.snap())
	if err != nil || state == nil {
		return err
	}
	target := j.target().Revision
	line, delta, err := revision.Stage(state.Line, target)
	if err != nil || len(delta.Added) == 0 {
		return err
	}
	next := state.with(line)
	next.Kept[target] = j.After.Kept[target]
	return m.snaps.Put(j.snap(), next)
}

// dropStaged notes that a revision which waited is not there any more.
func (m *Manager) dropStaged(ctx context.Context, ref tenure.Ref) error {
	release, err := m.claims.take(ctx, ref.Snap)
	if err != nil {
		return err
	}
	defer release()
	state, err := m.snaps.Get(ref.Snap)
	if err != nil || state == nil || !state.Line.Has(ref.Revision) || state.Line.Current == ref.Revision {
		return err
	}
	line, _, err := revision.Forget(state.Line, ref.Revision)
	if err != nil {
		return err
	}
	return m.snaps.Put(ref.Snap, state.with(line))
}

// errPointless is that a change which has waited leads nowhere any more.
var errPointless = errors.New("the snap has changed meanwhile")

// rebase is j as it is to be carried out after it has waited: on what the snap is now.
func (m *Manager) rebase(j job, w *wait) (job, error) {
	j.Options.Now = j.Options.Now || w.Now
	j.Options.Force = j.Options.Force || w.Force
	j.Options.Kill = j.Options.Kill || w.Kill
	state, err := m.snaps.Get(j.snap())
	if err != nil {
		return j, err
	}
	if state == nil || !state.Line.Installed() || state.Line.Current != j.from() {
		return j, errPointless
	}
	var line revision.State
	target := tenure.Revision{}
	switch j.Reason {
	case tenure.ReasonRefresh:
		target = j.target().Revision
		line, _, err = revision.Refresh(state.Line, target)
	case tenure.ReasonRevert:
		target = j.target().Revision
		line, _, err = revision.Revert(state.Line, target)
	case tenure.ReasonDisable:
		line, _, err = revision.Disable(state.Line)
	case tenure.ReasonRemove:
		line, _, err = revision.Remove(state.Line)
	case tenure.ReasonRestart, tenure.ReasonStop, tenure.ReasonShutdown:
		return j, nil
	}
	if err != nil {
		return j, err
	}
	after := state.with(line)
	if !target.IsZero() {
		after.Kept[target], after.Options = j.After.Kept[target], j.After.Options
		if j.After.Tracking != j.Before.Tracking {
			after.Tracking = j.After.Tracking
		}
		if j.Reason == tenure.ReasonRefresh {
			after.Disabled = disabledAfter(state, after.Kept[target].Info)
		}
	}
	j.Before, j.After = state, after
	return j, nil
}

// giveUp makes the change whose step runs with ctx turn round: not because anything
// has failed.
func (m *Manager) giveUp(ctx context.Context, why error) error {
	change.ReporterFrom(ctx).Logf("given up: %v", why)
	if err := m.engine.Abort(ctx, change.IDFrom(ctx)); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// lapsed are the units that w waited for and that were launched again since.
func (m *Manager) lapsed(ctx context.Context, w *wait) ([]tenure.UnitID, error) {
	if w == nil {
		return nil, nil
	}
	known, err := m.statuses(ctx)
	if err != nil {
		return nil, err
	}
	var units []tenure.UnitID
	for _, a := range w.Units {
		if a.lapsed(known) {
			units = append(units, a.Unit)
		}
	}
	return units, nil
}

// hurry makes a change that waits go on, with what else the administrator says.
func (m *Manager) hurry(ctx context.Context, id change.ID, said Options) error {
	err := m.updateWait(id, func(w *wait) {
		w.Now, w.Force, w.Kill = true, w.Force || said.Force, w.Kill || said.Kill
	})
	if err != nil {
		return err
	}
	return m.engine.Wake(ctx, id)
}

// hurrySnap makes the staged revision of the one snap that is named current, now. The
// change is zero if no revision of it is staged.
func (m *Manager) hurrySnap(ctx context.Context, req Request) (change.ID, error) {
	op := string(req.Action)
	if len(req.Snaps) != 1 {
		return 0, nil
	}
	snap := req.Snaps[0]
	if _, err := m.installedSnap(op, snap); err != nil {
		return 0, err
	}
	waiting := m.waiting(ctx, req, snap)
	if len(waiting) == 0 {
		return 0, nil
	}
	if err := m.vacate(ctx, op, req.Snaps); err != nil && !errors.Is(err, errStale) {
		return 0, err
	}
	id := waiting[len(waiting)-1].ID
	return id, m.hurry(ctx, id, req.Options)
}

// hurriedBy is the change that a restart makes go on: one that waits for nothing but
// services that are to be restarted. What starts then is the staged revision.
func (m *Manager) hurriedBy(ctx context.Context, req Request) (change.ID, error) {
	if req.Action != ActionRestart || req.Reload || len(req.Names) == 0 {
		return 0, nil
	}
	first, _, _ := strings.Cut(req.Names[0], ".")
	for _, c := range slices.Backward(m.waiting(ctx, req, tenure.Instance(first))) {
		w, found, err := m.waits.Get(c.ID.String())
		if err != nil {
			return 0, err
		}
		meant := func(a awaited) bool {
			return slices.Contains(req.Names, first) || slices.Contains(req.Names, a.Unit.String())
		}
		other := func(name string) bool {
			unit, err := tenure.ParseUnit(name)
			return name != first && (err != nil || !w.has(unit))
		}
		if !found || slices.ContainsFunc(req.Names, other) || slices.ContainsFunc(w.Units, func(a awaited) bool { return !meant(a) }) {
			continue
		}
		return c.ID, m.hurry(ctx, c.ID, req.Options)
	}
	return 0, nil
}

// afterApplied carries out a request, once more if the one that stood in its way was
// the change that makes a staged revision current: it waited for what people do, and
// is soon done.
func (m *Manager) afterApplied(ctx context.Context, do func() (change.ID, error)) (change.ID, error) {
	id, err := do()
	busy, conflicts := errors.AsType[*change.ConflictError](err)
	if !conflicts {
		return id, err
	}
	if _, waited, waitErr := m.waits.Get(busy.ID.String()); waitErr != nil || !waited {
		return id, err
	}
	if c, waitErr := m.settled(ctx, busy.ID); waitErr != nil || !c.Status.Ready() {
		return id, err
	}
	return do()
}

// letLook reports whether what stood in the way of a request does so no more: a change that has ended meanwhile, or that only
// saw whether it is to go on, or was given up. It returns when that is over.
func (m *Manager) letLook(ctx context.Context, refused error) bool {
	busy, conflicts := errors.AsType[*change.ConflictError](refused)
	if !conflicts {
		return false
	}
	return m.hasLooked(ctx, busy.ID)
}

// hasLooked returns when a change does not see any more whether it is to go on, and reports whether it holds no snap then.
func (m *Manager) hasLooked(ctx context.Context, id change.ID) (free bool) {
	var rev uint64
	for {
		c, err := m.engine.Watch(ctx, id, rev)
		switch {
		case err != nil:
			return false
		case c.Status.Ready(), !c.Holds: // Or it waits until another change does not hold its snap any more.
			return true
		case !looks(&c):
			return false
		}
		rev = c.Rev
	}
}

// waiting are the deferred changes of a snap for a request: that which sees whether it is to go on may be one in a moment.
func (m *Manager) waiting(ctx context.Context, req Request, snap tenure.Instance) []change.Change {
	if !req.FromSnap { // It may wait for who asks.
		for _, c := range m.engine.List(change.Filter{Select: change.Unfinished, Snap: snap}) {
			m.hasLooked(ctx, c.ID)
		}
	}
	return m.deferred(snap)
}

// looks reports whether a change that holds its snap is about to decide, and may wait then, or is given up after it may have waited.
func looks(c *change.Change) bool {
	if c.Backward {
		waited := func(t change.Task) bool { return t.Kind == taskDecide && !t.Started.IsZero() }
		begun := func(t change.Task) bool { return t.Gap && t.Status != change.Hold }
		return slices.ContainsFunc(c.Tasks, waited) && !slices.ContainsFunc(c.Tasks, begun)
	}
	next := slices.IndexFunc(c.Tasks, func(t change.Task) bool { return t.Status != change.Done })
	return next >= 0 && c.Tasks[next].Kind == taskDecide
}

// supersede ends the changes that wait to make a revision current where the request
// says otherwise, and reports whether there were any.
func (m *Manager) supersede(ctx context.Context, req Request, jobs []job) ([]change.ID, error) {
	if req.Action != ActionRevert && (req.Action != ActionRemove || !req.Revision.IsZero()) {
		return nil, nil
	}
	var ids []change.ID
	for i := range jobs {
		for _, c := range m.deferred(jobs[i].snap()) {
			if err := m.engine.Abort(ctx, c.ID); err != nil {
				return nil, err
			}
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

func plansOf(c change.Change) []policy.Plan {
	var plans []policy.Plan
	if err := json.Unmarshal(c.Plan, &plans); err != nil {
		return nil
	}
	return plans
}
