package native

import (
	"context"
	"sync"
	"testing"
	"time"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// wall is a clock on the wall that somebody sets.
type wall struct {
	mu   sync.Mutex
	off  time.Duration
	sets chan struct{}
}

func newWall() *wall { return &wall{sets: make(chan struct{})} }

func (w *wall) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Round(0).Add(w.off)
}

// set moves the clock, and tells those who wait for it.
func (w *wall) set(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off += by
	close(w.sets)
	w.sets = make(chan struct{})
}

// wait is clock.Wait on this clock.
func (w *wall) wait(ctx context.Context, until time.Time) error {
	w.mu.Lock()
	sets := w.sets
	w.mu.Unlock()
	timer := time.NewTimer(until.Sub(w.now()))
	defer timer.Stop()
	select {
	case <-sets:
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// The clock is set by hours, forward and back: timers go off when it says so, and not
// before, and no grace period or delay is a moment longer or shorter for it.
func TestTheClockIsSet(t *testing.T) {
	t.Parallel()
	r, clock := newRoot(t), newWall()
	cfg := r.config(t)
	cfg.Now, cfg.Wait = clock.now, clock.wait
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	end := supervisetest.Begin(t, s)
	t.Cleanup(func() {
		r.clear(t, s)
		end()
	})
	at := clock.now().Add(90 * time.Minute)
	timed := service(t, "timed", supervisetest.Program{Exits: true}, func(spec *supervise.Spec) {
		spec.Type, spec.Timer = supervise.Oneshot, at.Format("15:04")
	})
	if err := s.Start(t.Context(), timed); err != nil {
		t.Fatal(err)
	}
	clock.set(-3 * time.Hour)
	clock.set(4 * time.Hour)
	if status := statusOf(t, s, timed.Unit); status.State != supervise.Waiting || status.Generation != 0 {
		t.Errorf("before its time it is %+v", status)
	}
	clock.set(time.Hour)
	until(t, s, timed.Unit, func(status supervise.Status) bool { return status.Generation == 1 && status.State == supervise.Waiting })

	for _, by := range []time.Duration{-5 * time.Hour, 5 * time.Hour} {
		const grace = 300 * time.Millisecond
		stubborn := service(t, "stubborn", supervisetest.Program{IgnoreTerm: true, Notify: true}, func(spec *supervise.Spec) {
			spec.Stop.Timeout = grace
		})
		if err := s.Start(t.Context(), stubborn); err != nil {
			t.Fatal(err)
		}
		begun, told := time.Now(), s.Events(t.Context())
		go func() {
			for event := range told {
				if event.Kind == supervise.EventSignal {
					clock.set(by)
					return
				}
			}
		}()
		ended, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{stubborn.Unit}, Reason: tenure.ReasonStop})
		if took := time.Since(begun); err != nil || len(ended.Killed) != 1 || took < grace {
			t.Errorf("the clock set by %s: %+v, %v after %s", by, ended, err, took)
		}
	}
}
