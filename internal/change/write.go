package change

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// writer is what the owner knows about writing. At most one batch is being
// written; what becomes dirty meanwhile is the next batch.
type writer struct {
	writing bool
	dirty   []*run
	delete  []ID
	// refused are changes that could not be written, of which nobody knows whether they are there: they go
	// with what is written next.
	refused []ID
	// retry is set while a write has failed and waits to be tried again.
	retry *time.Timer
	delay time.Duration
}

const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// batch is what is being written, and what follows when it is durable.
type batch struct {
	Batch

	runs []*run
	then []func()
	// gone are those to delete that must be gone, refused the others.
	gone, refused []ID
}

// save makes the present state of r durable, then calls then in the owner.
func (e *Engine) save(r *run, then func()) {
	if r.inGap {
		r.then = append(r.then, func() { e.leaveGap(r) })
	}
	r.then = append(r.then, then)
	if !slices.Contains(e.writer.dirty, r) {
		e.writer.dirty = append(e.writer.dirty, r)
	}
	e.flush()
}

// flush writes what is dirty, unless that has to wait for something.
func (e *Engine) flush() {
	w := &e.writer
	if w.writing || w.retry != nil || len(w.dirty)+len(w.delete) == 0 {
		return
	}
	b := batch{runs: w.dirty, gone: w.delete, refused: w.refused}
	b.Delete = slices.Concat(b.gone, b.refused)
	for _, r := range b.runs {
		b.Put = append(b.Put, r.c.clone())
		b.then = append(b.then, r.then...)
		b.Along = append(b.Along, r.along...)
		r.writing, r.then = r.then, nil
		r.alongNow, r.along = r.along, nil
	}
	w.writing, w.dirty, w.delete, w.refused = true, nil, nil, nil
	ctx := context.WithoutCancel(e.steps)
	go func() {
		err := e.cfg.Store.Apply(ctx, b.Batch)
		e.inbox <- func() { e.written(b, err) }
	}()
}

// written continues what waited for a batch.
func (e *Engine) written(b batch, err error) {
	e.writer.writing = false
	for _, r := range b.runs {
		if err != nil {
			e.unwritten(r, err)
		}
		r.writing, r.alongNow = nil, nil
	}
	if err != nil {
		e.writer.delete, e.writer.refused = append(b.gone, e.writer.delete...), append(b.refused, e.writer.refused...)
		e.retryLater(err)
		return
	}
	e.writer.delay = 0
	for _, f := range b.then {
		f()
	}
	e.flush()
}

// unwritten refuses a change that was to start, and puts any other back.
func (e *Engine) unwritten(r *run, err error) {
	if r.refused != nil {
		e.writer.dirty = slices.DeleteFunc(e.writer.dirty, func(d *run) bool { return d == r })
		e.unlock(r)
		delete(e.runs, r.c.ID)
		e.writer.refused = append(e.writer.refused, r.c.ID)
		r.refused(err)
		return
	}
	r.then = append(r.writing, r.then...)
	r.along = append(r.alongNow, r.along...)
	if !slices.Contains(e.writer.dirty, r) {
		e.writer.dirty = append(e.writer.dirty, r)
	}
}

func (e *Engine) retryLater(err error) {
	w := &e.writer
	if len(w.dirty)+len(w.delete) == 0 || e.stopping {
		return
	}
	w.delay = min(max(2*w.delay, firstRetry), lastRetry)
	e.cfg.Logger.Error("changes wait since they cannot be written", slog.Any("error", err), slog.Duration("retry", w.delay))
	w.retry = time.AfterFunc(w.delay, func() {
		e.inbox <- func() {
			w.retry = nil
			e.flush()
		}
	})
}

// publish makes the present state of r visible to readers.
func (e *Engine) publish(r *run) { e.view.put(r.c.clone()) }

// prune forgets the ended changes that are too many or too old.
func (e *Engine) prune() {
	oldest := time.Now().Add(-e.cfg.KeepFor)
	for len(e.ended) > 0 {
		id := e.ended[0]
		c, ok := e.view.get(id)
		if ok && len(e.ended) <= e.cfg.Keep && c.Ready.After(oldest) {
			return
		}
		e.ended = e.ended[1:]
		e.view.drop(id)
		e.writer.delete = append(e.writer.delete, id)
	}
}
