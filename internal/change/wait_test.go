package change_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"tenure/internal/change"
	"tenure/internal/change/changetest"
)

// waiter waits until it is free.
type waiter struct {
	free atomic.Bool
	hold bool
}

func (w *waiter) do(context.Context) (string, error) {
	if w.free.Load() {
		return "free", nil
	}
	return "", &change.Waiting{For: "vm 7 to end", Hold: w.hold}
}

func wake(t *testing.T, e *change.Engine, id change.ID) {
	t.Helper()
	if err := e.Wake(t.Context(), id); err != nil {
		t.Fatalf("Wake: %v", err)
	}
}

// What waits and holds its snaps is in progress, unless it has done all that it was to do.
func TestWhatWaitsInProgress(t *testing.T) {
	t.Parallel()
	for w, want := range map[change.Waiting]int{{}: 0, {Hold: true}: 1, {Hold: true, Settled: true}: 0} {
		s := newScript()
		s.do["w"] = func(context.Context) (string, error) { return "", &w }
		e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
		id := start(t, e, on("x", "a", "w", "b"))
		if c := wait(t, e, id, change.Wait); c.Holds != w.Hold {
			t.Errorf("%+v: the change holds its snaps: %t", w, c.Holds)
		}
		if got := e.List(change.Filter{Select: change.InProgress}); len(got) != want {
			t.Errorf("%+v: in progress are %v", w, got)
		}
		if got := e.List(change.Filter{Select: change.WaitingOnly}); len(got) != 1 {
			t.Errorf("%+v: waiting are %v", w, got)
		}
		if err := e.Abort(t.Context(), id); err != nil {
			t.Error(err)
		}
		if _, err := e.WaitFor(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

func TestWaitHoldsNothing(t *testing.T) {
	t.Parallel()
	s := newScript()
	w := new(waiter)
	s.do["w"] = w.do
	store := new(changetest.Memory)
	e, stop := run(t, change.Config{Store: store, Registry: s.registry()})
	id := start(t, e, on("x", "a", "w", "b"))
	c := wait(t, e, id, change.Wait)
	if c.WaitingFor == nil || c.WaitingFor.For != "vm 7 to end" {
		t.Errorf("waiting for %+v", c.WaitingFor)
	}
	if got := e.List(change.Filter{Select: change.InProgress}); len(got) != 0 {
		t.Errorf("in progress: %v", got)
	}
	wait(t, e, start(t, e, on("x", "other")), change.Done)
	wake(t, e, id) // In vain.
	wait(t, e, id, change.Wait)
	stop()

	// It waits on after a restart, and nobody wakes it.
	e, _ = run(t, change.Config{Store: store, Registry: s.registry()})
	if got := e.List(change.Filter{Select: change.WaitingOnly, Snap: "x"}); len(got) != 1 {
		t.Fatalf("waiting after a restart: %v", got)
	}
	wait(t, e, start(t, e, on("x", "other")), change.Done)
	w.free.Store(true)
	wake(t, e, id)
	c = wait(t, e, id, change.Done)
	if c.WaitingFor != nil || statuses(c) != "Done/Done/Done" {
		t.Errorf("ended: %s, waiting for %+v", statuses(c), c.WaitingFor)
	}
}

// TestWokenWhileBusy wakes a change whose snap another one holds.
func TestWokenWhileBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		w, g := new(waiter), newGate()
		s.do["w"], s.do["slow"] = w.do, g.do
		store := new(changetest.Memory)
		e, stop := run(t, change.Config{Store: store, Registry: s.registry()})
		id := start(t, e, on("x", "w", "b"))
		wait(t, e, id, change.Wait)
		busy := start(t, e, on("x", "slow"))
		<-g.begun
		w.free.Store(true)
		wake(t, e, id)
		wait(t, e, id, change.Do)
		synctest.Wait()
		if want := "w slow"; s.log() != want {
			t.Errorf("calls %q, want %q", s.log(), want)
		}
		stop()

		// After a restart the one that holds the snap goes on first.
		again := newScript()
		e, _ = run(t, change.Config{Store: store, Registry: again.registry()})
		wait(t, e, busy, change.Done)
		wait(t, e, id, change.Done)
		if want := "slow w b"; again.log() != want {
			t.Errorf("calls %q, want %q", again.log(), want)
		}
	})
}

// TestNoLostWake wakes between the look at the system and the wait.
func TestNoLostWake(t *testing.T) {
	t.Parallel()
	s := newScript()
	w := new(waiter)
	var e *change.Engine
	ready := make(chan struct{})
	s.do["w"] = func(ctx context.Context) (string, error) {
		<-ready
		done, err := w.do(ctx)
		if err != nil {
			w.free.Store(true)
			if wakeErr := e.Wake(ctx, change.IDFrom(ctx)); wakeErr != nil {
				return "", wakeErr
			}
		}
		return done, err
	}
	e, _ = run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
	close(ready)
	wait(t, e, start(t, e, on("x", "w")), change.Done)
	if want := "w w"; s.log() != want {
		t.Errorf("calls %q, want %q", s.log(), want)
	}
}

func TestAbortWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		w, g := new(waiter), newGate()
		s.do["w"], s.do["slow"] = w.do, g.do
		e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
		id := start(t, e, on("x", "a", "w", "b"))
		wait(t, e, id, change.Wait)
		busy := start(t, e, on("x", "slow"))
		<-g.begun
		if err := e.Abort(t.Context(), id); err != nil {
			t.Fatalf("Abort: %v", err)
		}
		synctest.Wait()
		if c, _ := e.Get(id); c.Status != change.Abort {
			t.Errorf("status %s while the snap is busy, want Abort", c.Status)
		}
		close(g.open)
		wait(t, e, busy, change.Done)
		c := wait(t, e, id, change.Undone)
		if want := "Undone/Hold/Hold"; statuses(c) != want || c.WaitingFor != nil {
			t.Errorf("tasks %q, waiting for %+v", statuses(c), c.WaitingFor)
		}
	})
}

// TestHeldWait has the waits that keep the snap: by choice, in the gap, and
// when undoing.
func TestHeldWait(t *testing.T) {
	t.Parallel()
	for name, names := range map[string][]string{
		"by choice": {"w", "b"},
		"in gap":    {"gap1", "gap2", "gap3"},
		"undoing":   {"u", "boom"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { heldWait(t, names) })
		})
	}
}

func heldWait(t *testing.T, names []string) {
	t.Helper()
	s := newScript()
	w := &waiter{hold: names[0] == "w"}
	s.do["w"], s.do["gap2"] = w.do, w.do
	s.do["boom"] = func(context.Context) (string, error) { return "", context.DeadlineExceeded }
	s.undo["u"] = func(ctx context.Context, _ string) error {
		_, err := w.do(ctx)
		return err
	}
	store := new(changetest.Memory)
	cfg := change.Config{Store: store, Registry: s.registry()}
	e, stop := run(t, cfg)
	id := start(t, e, on("x", names...))
	wait(t, e, id, change.Wait)
	for range 2 {
		if _, err := e.Start(t.Context(), on("x", "a")); err == nil {
			t.Error("the snap is free")
		}
		stop()
		e, stop = run(t, cfg)
	}
	w.free.Store(true)
	wake(t, e, id)
	if names[0] == "u" {
		if c := wait(t, e, id, change.Error); statuses(c) != "Undone/Error" {
			t.Errorf("tasks %s", statuses(c))
		}
		return
	}
	wait(t, e, id, change.Done)
}
