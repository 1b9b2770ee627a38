package change

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// result is what a call of a step returned.
type result struct {
	done   json.RawMessage
	probed bool
	err    error
}

// call runs f, a method of the step of task i, in a goroutine of its own, and
// then returned in the owner.
func (e *Engine) call(r *run, i int, f func(context.Context) result, returned func(result, amendment)) {
	ctx, cancel := context.WithCancelCause(e.steps)
	c := &call{id: r.c.ID, reg: e.cfg.Registry, gap: r.c.Tasks[i].Gap, progress: r.c.Tasks[i].Progress}
	c.news = func() { e.report(r, i, c) }
	r.running, r.abort = c, cancel
	e.calls++
	go func() {
		res := f(context.WithValue(ctx, callKey{}, c))
		e.inbox <- func() {
			cancel(nil)
			e.calls--
			amended := c.close()
			c.collect(&r.c.Tasks[i])
			r.running, r.abort = nil, nil
			returned(res, amended)
		}
	}()
}

// report makes visible what the running step told. It does not wait if the
// engine is ending.
func (e *Engine) report(r *run, i int, c *call) {
	_ = e.tell(context.Background(), func() { // Nobody reads what a step says after the end.
		if r.running == c {
			c.collect(&r.c.Tasks[i])
			e.publish(r)
		}
	})
}

func (e *Engine) do(r *run, i int) {
	t := &r.c.Tasks[i]
	step := e.cfg.Registry.lookup(t.Kind)
	if t.Gap {
		e.enterGap(r)
		if i == 0 || !r.c.Tasks[i-1].Gap {
			e.boundary(r, i, GapBegin)
		}
	}
	if !r.aborting {
		r.c.Status = Doing
	}
	t.Status = Doing
	if t.Started.IsZero() {
		t.Started = time.Now()
	}
	r.woken = false
	e.publish(r)
	params := t.Params
	e.boundary(r, i, BeforeDo)
	e.call(r, i, func(ctx context.Context) result {
		done, err := step.do(ctx, params)
		return result{done: done, err: err}
	}, func(res result, amended amendment) {
		e.boundary(r, i, AfterDo)
		e.doReturned(r, i, res, amended)
	})
}

func (e *Engine) doReturned(r *run, i int, res result, amended amendment) {
	t := &r.c.Tasks[i]
	var waiting *Waiting
	switch {
	case res.err == nil:
		t.Status, t.Undo, t.Ready = Done, res.done, time.Now()
		r.along = append(r.along, amended.along...)
		e.amend(r, i, amended)
		e.advance(r, i)
	case errors.As(res.err, &waiting):
		e.amend(r, i, amended)
		if r.aborting || r.failed {
			e.turn(r)
			return
		}
		e.wait(r, i, waiting)
	case e.stopping:
		// Interrupted. What is durable says that it began.
	default:
		if _, ok := errors.AsType[*partialError](res.err); ok {
			t.Status, t.Undo, t.Ready = Done, res.done, time.Now()
			r.along = append(r.along, amended.along...)
		}
		if r.aborting && (errors.Is(res.err, ErrAborted) || errors.Is(res.err, context.Canceled)) {
			e.turn(r)
			return
		}
		e.fail(r, i, res.err)
	}
}

// amend applies what the step of task i decided for the rest of the change.
func (e *Engine) amend(r *run, i int, a amendment) {
	if a.details != nil {
		r.c.Details = a.details
	}
	if a.replanned {
		r.c.Plan = a.plan
		rest := r.c.number(a.rest, time.Now())
		if a.inserted {
			rest = append(rest, r.c.Tasks[i+1:]...)
		}
		r.crashed, r.unproved = moved(r.crashed, i, &a), moved(r.unproved, i, &a)
		r.c.Tasks = append(r.c.Tasks[:i+1:i+1], rest...)
	}
}

// moved is what is known of tasks by their places, after that of i has been amended: others have come between, or instead.
func moved[T any](of map[int]T, i int, a *amendment) map[int]T {
	all := make(map[int]T, len(of))
	for at, known := range of {
		switch {
		case at <= i:
			all[at] = known
		case a.inserted:
			all[at+len(a.rest)] = known
		}
	}
	return all
}

func (e *Engine) probe(r *run, i int) {
	t := &r.c.Tasks[i]
	step, params := e.cfg.Registry.lookup(t.Kind), t.Params
	e.boundary(r, i, BeforeProbe)
	e.call(r, i, func(ctx context.Context) result {
		done, probed, err := step.probe(ctx, params)
		return result{done: done, probed: probed, err: err}
	}, func(res result, amended amendment) {
		e.boundary(r, i, AfterProbe)
		e.probeReturned(r, i, res, amended)
	})
	r.abort = nil
}

func (e *Engine) probeReturned(r *run, i int, res result, amended amendment) {
	switch {
	case res.err != nil && e.stopping:
	case res.err != nil:
		delete(r.crashed, i)
		if _, ok := errors.AsType[*partialError](res.err); ok {
			r.unproved[i] = res.done
			r.prove(i)
			r.along = append(r.along, amended.along...)
		}
		e.fail(r, i, fmt.Errorf("read what was done: %w", res.err))
	case res.probed:
		delete(r.crashed, i)
		r.unproved[i] = res.done
		r.prove(i)
		r.along = append(r.along, amended.along...)
		e.amend(r, i, amended)
		e.advance(r, i)
	default:
		delete(r.crashed, i)
		r.unproved[i] = res.done
		for ; !r.c.Tasks[i].Gap && r.c.atOnce(i); i++ {
			delete(r.crashed, i+1) // It would have begun after that.
		}
		e.step(r)
	}
}

// prove takes task i as done, and all before it in its gap that could not say
// it of themselves: steps are done in order.
func (r *run) prove(i int) {
	for j := range r.c.Tasks[:i+1] {
		if done, ok := r.unproved[j]; ok {
			t := &r.c.Tasks[j]
			t.Status, t.Undo, t.Ready = Done, done, time.Now()
			delete(r.unproved, j)
		}
	}
}

func (e *Engine) undo(r *run, i int) {
	t := &r.c.Tasks[i]
	step := e.cfg.Registry.lookup(t.Kind)
	t.Status = Undoing
	r.c.Status = Undoing
	r.woken = false
	e.publish(r)
	params, done := t.Params, t.Undo
	e.boundary(r, i, BeforeUndo)
	e.call(r, i, func(ctx context.Context) result {
		return result{err: step.undo(ctx, params, done)}
	}, func(res result, amended amendment) {
		e.boundary(r, i, AfterUndo)
		e.undoReturned(r, i, res.err, amended)
	})
	r.abort = nil
}

func (e *Engine) undoReturned(r *run, i int, err error, amended amendment) {
	t := &r.c.Tasks[i]
	if err == nil {
		r.along = append(r.along, amended.along...)
	}
	var waiting *Waiting
	switch {
	case errors.As(err, &waiting):
		e.wait(r, i, waiting)
		return
	case err != nil && e.stopping:
		return
	case err != nil:
		t.Status = Error
		e.logFailure(r, t, "cannot undo: ", err)
	case t.Err != "":
		t.Status = Error
	default:
		t.Status = Undone
	}
	t.Ready = time.Now()
	e.saveStep(r, i)
}
