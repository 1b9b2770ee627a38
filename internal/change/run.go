package change

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"tenure"
)

// run is a change that has not ended, as the owner knows it.
type run struct {
	c *Change
	// aborting is set from the moment the change was asked to turn round, failed
	// if it must since a step could not be probed.
	aborting, failed bool
	// ending is set when the change has ended and that is being written.
	ending bool
	// inGap is set from the first step of a gap until the next write.
	inGap bool
	// crashed are the tasks whose intent was durable, and whose result was not,
	// when the process died. They may have been done.
	crashed map[int]bool
	// unproved are those that Probe did not find done, with what it returned.
	unproved map[int]json.RawMessage
	// running is the step that is running, if any; abort cancels it if it is a Do.
	running *call
	abort   context.CancelCauseFunc
	// queued waits for its snaps to be free; woken was woken since its step began.
	queued, woken bool
	// refused hears that the change could not be written at its start.
	refused func(error)
	// then is what follows the next write, writing what follows the present one.
	then, writing []func()
	// along is what is kept with the next write (Along), beside what is in the present one.
	along, alongNow []any
}

// idle reports whether nothing goes on that would call step.
func (r *run) idle() bool { return r.queued || r.c.Status == Wait && len(r.then)+len(r.writing) == 0 }

// resume takes over what the Store had.
func (e *Engine) resume(saved Saved) {
	e.lastID = saved.LastID
	var ended []Change
	inGap := false
	for i := range saved.Changes {
		c := &saved.Changes[i]
		if c.Status.Ready() {
			e.shorten(c)
		}
		e.view.put(c.clone())
		if c.Status.Ready() {
			ended = append(ended, *c)
			continue
		}
		r := reviveRun(c)
		e.runs[c.ID] = r
		for i := range r.crashed {
			inGap = inGap || c.Tasks[i].Gap
		}
		if c.Holds {
			e.lock(r)
		}
		r.queued = c.Status != Wait
	}
	slices.SortStableFunc(ended, func(a, b Change) int { return a.Ready.Compare(b.Ready) })
	for i := range ended {
		e.ended = append(e.ended, ended[i].ID)
	}
	if !inGap && e.cfg.Gap != nil {
		e.cfg.Gap(false)
	}
	e.prune()
	e.flush()
	e.schedule()
}

// reviveRun reads from the record of a change where it was.
func reviveRun(c *Change) *run {
	r := &run{c: c, aborting: c.Status == Abort, crashed: make(map[int]bool), unproved: make(map[int]json.RawMessage)}
	for i := range c.Tasks {
		if t := &c.Tasks[i]; t.Begun && (t.Status == Do || t.Status == Doing) {
			r.crashed[i] = true
		}
	}
	return r
}

// conflict reports who has locked one of snaps.
func (e *Engine) conflict(snaps []tenure.Instance) error {
	for _, snap := range snaps {
		if r := e.locks[snap]; r != nil {
			return &ConflictError{Snap: snap, ID: r.c.ID, Kind: r.c.Kind}
		}
	}
	return nil
}

func (e *Engine) lock(r *run) {
	r.c.Holds = true
	for _, snap := range r.c.Snaps {
		e.locks[snap] = r
	}
}

func (e *Engine) unlock(r *run) {
	r.c.Holds = false
	for _, snap := range r.c.Snaps {
		if e.locks[snap] == r {
			delete(e.locks, snap)
		}
	}
}

// schedule lets every queued change go on whose snaps are free: first those
// that hold them, then the oldest.
func (e *Engine) schedule() {
	if e.stopping {
		return
	}
	var queued []*run
	for _, r := range e.runs {
		if r.queued {
			queued = append(queued, r)
		}
	}
	slices.SortFunc(queued, func(a, b *run) int { return cmp.Compare(a.c.ID, b.c.ID) })
	for _, r := range queued {
		if !r.c.Holds && e.conflict(r.c.Snaps) != nil {
			continue
		}
		r.queued = false
		e.lock(r)
		e.save(r, func() { e.step(r) })
	}
}

// step does what is next for r. Everything before it is durable, or in the
// same gap, or what it is joined to.
func (e *Engine) step(r *run) {
	switch {
	case e.stopping:
	case r.c.Backward:
		e.stepBack(r)
	default:
		e.stepOn(r)
	}
}

func (e *Engine) stepOn(r *run) {
	i := slices.IndexFunc(r.c.Tasks, func(t Task) bool { return t.Status == Do || t.Status == Doing || t.Status == Wait })
	back := r.aborting || r.failed
	if len(r.crashed) > 0 {
		crashed := slices.Min(slices.Collect(maps.Keys(r.crashed)))
		// One that was joined to a task which has been done again, and waits now, waits with it.
		if back || i >= crashed || r.c.Tasks[crashed].Gap {
			e.resolve(r, crashed)
			return
		}
	}
	switch {
	case back:
		e.turn(r)
	case i < 0:
		e.finish(r)
	default:
		e.do(r, i)
	}
}

// resolve learns what became of a step that was running when the process died,
// or of one of a gap. All of a gap are asked before the change goes either way.
// One that cannot be probed is repeated: even when aborting, for only what it
// returns can be undone.
func (e *Engine) resolve(r *run, i int) {
	if e.cfg.Registry.lookup(r.c.Tasks[i].Kind).probe == nil {
		delete(r.crashed, i)
		e.do(r, i)
		return
	}
	if r.c.Tasks[i].Gap {
		e.enterGap(r)
	}
	e.probe(r, i)
}

func (e *Engine) enterGap(r *run) {
	if r.inGap {
		return
	}
	r.inGap = true
	if e.gaps++; e.gaps == 1 && e.cfg.Gap != nil {
		e.cfg.Gap(true)
	}
}

// leaveGap is told of the write that follows a gap, when it is durable: until then the next
// process goes on in the gap.
func (e *Engine) leaveGap(r *run) {
	if !r.inGap {
		return
	}
	r.inGap = false
	if e.gaps--; e.gaps == 0 && e.cfg.Gap != nil {
		e.cfg.Gap(false)
	}
}

// advance goes on after task i is done: inside a gap, and to what is joined to it, at once, else when that,
// and the intent of what follows, is durable.
func (e *Engine) advance(r *run, i int) {
	tasks := r.c.Tasks
	if r.c.atOnce(i) {
		r.c.intend(i + 1) // It may have been inserted by i itself.
		e.publish(r)
		e.step(r)
		return
	}
	if tasks[i].Gap {
		e.boundary(r, i, GapEnd)
	}
	if r.aborting || r.failed {
		e.step(r)
		return
	}
	if i+1 == len(tasks) {
		e.finish(r)
		return
	}
	r.c.intend(i + 1)
	e.saveStep(r, i)
}

// saveStep makes the result of task i durable, and goes on.
func (e *Engine) saveStep(r *run, i int) {
	e.publish(r)
	e.save(r, func() {
		e.boundary(r, i, Durable)
		e.step(r)
	})
}

// turn makes the change go back: what was done is to be undone, the rest will
// not be done.
func (e *Engine) turn(r *run) {
	r.c.Backward = true
	r.c.Status, r.c.WaitingFor = Undoing, nil
	last := -1
	for i := range r.c.Tasks {
		switch t := &r.c.Tasks[i]; t.Status {
		case Done:
			t.Status = Undo
			last = i
		case Do, Doing, Wait:
			t.Status, t.Begun, t.Ready = Hold, false, time.Now()
		case Abort, Undo, Undoing, Undone, Hold, Error:
		}
	}
	if last < 0 {
		e.finish(r)
		return
	}
	e.saveStep(r, last)
}

func (e *Engine) stepBack(r *run) {
	for i, v := range slices.Backward(r.c.Tasks) {
		if s := v.Status; s == Undo || s == Undoing || s == Wait {
			e.undo(r, i)
			return
		}
	}
	e.finish(r)
}

// finish ends the change. Nobody sees that before it is durable.
func (e *Engine) finish(r *run) {
	c := r.c
	r.ending = true
	c.Ready = time.Now()
	c.Status = Done
	if c.Backward {
		c.Status = Hold
	}
	var failures []string
	for i := range c.Tasks {
		t := &c.Tasks[i]
		if t.Status == Undone && c.Status == Hold {
			c.Status = Undone
		}
		if t.Err != "" {
			failures = append(failures, t.Summary+": "+t.Err)
		}
	}
	if len(failures) > 0 {
		c.Status, c.Err = Error, strings.Join(failures, "\n")
	}
	c.Holds = false
	e.shorten(c)
	e.save(r, func() {
		if len(c.Tasks) > 0 {
			e.boundary(r, len(c.Tasks)-1, Durable)
		}
		e.unlock(r)
		delete(e.runs, c.ID)
		e.ended = append(e.ended, c.ID)
		e.publish(r)
		e.prune()
		e.flush()
		e.schedule()
	})
}

func (e *Engine) shorten(c *Change) {
	if e.cfg.Shorten != nil {
		e.cfg.Shorten(c)
	}
}

// wait makes the change wait at task i. When that is seen it is durable, and
// the snaps are free.
func (e *Engine) wait(r *run, i int, w *Waiting) {
	t := &r.c.Tasks[i]
	t.Status = Wait
	for j := i; j < len(r.c.Tasks); j++ {
		r.c.Tasks[j].Begun = r.crashed[j]
	}
	held := w.Hold || t.Gap || r.c.Backward
	r.c.Status, r.c.WaitingFor = Wait, &Waiting{For: w.For, Hold: held, Settled: w.Settled}
	if !held {
		r.c.Holds = false
	}
	e.save(r, func() {
		e.boundary(r, i, Durable)
		if !held {
			e.unlock(r)
		}
		e.publish(r)
		if r.woken || r.aborting {
			e.wake(r)
		}
		e.schedule()
	})
}

// wake lets the step that waits run again, as soon as the snaps are free.
func (e *Engine) wake(r *run) {
	c := r.c
	i := slices.IndexFunc(c.Tasks, func(t Task) bool { return t.Status == Wait })
	c.WaitingFor = nil
	switch {
	case c.Backward:
		c.Status, c.Tasks[i].Status = Undoing, Undoing
	case r.aborting:
		c.Status = Abort
	default:
		c.Status, c.Tasks[i].Status = Do, Do
		c.intend(i)
	}
	r.queued = true
	e.publish(r)
	e.save(r, e.schedule)
}

// fail turns the change round because of the error of task i.
func (e *Engine) fail(r *run, i int, err error) {
	t := &r.c.Tasks[i]
	if _, ok := errors.AsType[*partialError](err); !ok {
		t.Status, t.Ready = Error, time.Now()
	}
	e.logFailure(r, t, "", err)
	if len(r.crashed) > 0 {
		// What comes after it in the gap may have been done all the same.
		r.failed = true
		e.step(r)
		return
	}
	e.turn(r)
}

// logFailure records why t failed, or could not be undone.
func (e *Engine) logFailure(r *run, t *Task, prefix string, err error) {
	if e.cfg.Explain != nil {
		err = e.cfg.Explain(err)
	}
	text := prefix + err.Error()
	t.Log = appendLog(t.Log, logLine("ERROR", text))
	if t.Err != "" {
		text = t.Err + "; " + text
	}
	t.Err = text
	attrs := []slog.Attr{
		slog.Uint64("change", uint64(r.c.ID)), slog.String("kind", r.c.Kind),
		slog.String("task", t.Kind), slog.String("error", prefix+err.Error()),
	}
	if p, ok := errors.AsType[*panicError](err); ok {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	e.cfg.Logger.LogAttrs(e.steps, slog.LevelWarn, "step failed", attrs...)
}
