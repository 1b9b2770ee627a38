package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// runs is a program that does well.
func runs() supervisetest.Program { return supervisetest.Program{} }

// ends is a program that ends after a time with an exit status.
func ends(after time.Duration, code int) supervisetest.Program {
	return supervisetest.Program{Exits: true, RunFor: after, Code: code}
}

// scene is a refresh of one service from a program that does well to another, which is
// observed for 15 s.
func scene(h *harness, program supervisetest.Program, steady bool) change.ID {
	return h.refresh(
		[]supervise.Spec{h.service("one", x1(), runs())},
		[]supervise.Spec{h.service("one", x2(), program)},
		observed{Unit: tenure.ServiceUnit(probe, "one"), Window: 15 * time.Second, Steady: steady})
}

func x1() tenure.Revision { return tenure.LocalRevision(1) }
func x2() tenure.Revision { return tenure.LocalRevision(2) }

// bubble runs a test on a harness in a bubble.
func bubble(t *testing.T, test func(*testing.T, *harness)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newHarness(t)) })
}

func TestObserveWaitsForTheWindow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, h *harness) {
		began := time.Now()
		id := scene(h, runs(), true)
		if c := h.change(id); c.Status != change.Wait || !c.Holds || !strings.Contains(c.WaitingFor.For, "probe.one") {
			t.Fatalf("the change is %s, holds %t and waits for %+v", c.Status, c.Holds, c.WaitingFor)
		}
		if running := h.engine.List(change.Filter{Select: change.InProgress}); len(running) > 0 {
			t.Errorf("in progress is %+v", running)
		}
		c, err := h.engine.WaitFor(t.Context(), id)
		if err != nil || c.Status != change.Done {
			t.Fatalf("the change ends %s: %s, %v", c.Status, c.Err, err)
		}
		if took := time.Since(began); took != 15*time.Second {
			t.Errorf("it took %s, want 15s", took)
		}
		h.on(x2(), "one", supervise.Running)
	})
}

func TestObserveUndoesWhatFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		program supervisetest.Program
		steady  bool
		want    string
	}{
		"a crash":                       {ends(5*time.Second, 7), true, "exit status 7"},
		"a crash of one that had ended": {ends(5*time.Second, 7), false, "exit status 7"},
		"a clean end":                   {ends(5*time.Second, 0), true, "ended"},
		"at the last moment":            {ends(15*time.Second-time.Nanosecond, 1), true, "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, h *harness) {
				began := time.Now()
				c, err := h.engine.WaitFor(t.Context(), scene(h, test.program, test.steady))
				if err != nil || c.Status != change.Error || !strings.Contains(c.Err, test.want) || !strings.Contains(c.Err, "probe.one") {
					t.Errorf("the change ends %s: %q, %v; want %q", c.Status, c.Err, err, test.want)
				}
				if took := time.Since(began); took < test.program.RunFor || took > test.program.RunFor+time.Second {
					t.Errorf("it took %s after an end at %s", took, test.program.RunFor)
				}
				h.on(x1(), "one", supervise.Running)
			})
		})
	}
}

func TestObserveAccepts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		program supervisetest.Program
		steady  bool
		state   supervise.State
	}{
		"a clean end of one that had ended": {ends(5*time.Second, 0), false, supervise.Inactive},
		"an end after the window":           {ends(16*time.Second, 1), true, supervise.Running},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, h *harness) {
				c, err := h.engine.WaitFor(t.Context(), scene(h, test.program, test.steady))
				if err != nil || c.Status != change.Done {
					t.Errorf("the change ends %s: %q, %v", c.Status, c.Err, err)
				}
				h.on(x2(), "one", test.state)
			})
		})
	}
}

// One window is over, the other lasts: who has proved itself may end.
func TestObserveHasAWindowForEach(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, h *harness) {
		unit := func(name tenure.App, window time.Duration) observed {
			return observed{Unit: tenure.ServiceUnit(probe, name), Window: window, Steady: true}
		}
		id := h.refresh(
			[]supervise.Spec{h.service("one", x1(), runs()), h.service("two", x1(), runs())},
			[]supervise.Spec{h.service("one", x2(), ends(3*time.Second, 1)), h.service("two", x2(), runs())},
			unit("one", 2*time.Second), unit("two", 10*time.Second))
		began := time.Now()
		c, err := h.engine.WaitFor(t.Context(), id)
		if err != nil || c.Status != change.Done {
			t.Errorf("the change ends %s: %q, %v", c.Status, c.Err, err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("it took %s, want 10s", took)
		}
	})
}

// A restart that was before the window does not count for one that goes on.
func TestObserveCountsRestartsFromItsBeginning(t *testing.T) {
	t.Parallel()
	o := observed{Steady: true, Restarts: 2}
	if why := o.failure(&supervise.Status{State: supervise.Running, Restarts: 2}); why != "" {
		t.Errorf("restarts of before count: %s", why)
	}
	if why := o.failure(&supervise.Status{State: supervise.Running, Restarts: 3}); why == "" {
		t.Error("a restart in the window does not count")
	}
}

// After a start of the machine the supervisor knows a service a moment before it
// launches it. That is no end of it; not to be able to launch it is.
func TestObserveWaitsForTheFirstLaunch(t *testing.T) {
	t.Parallel()
	unit := tenure.ServiceUnit(probe, "one")
	p := observeParams{Services: []observed{{Unit: unit, Window: 15 * time.Second, Steady: true}}}
	for name, test := range map[string]struct {
		status supervise.Status
		failed bool
	}{
		"about to be launched": {supervise.Status{State: supervise.Inactive}, false},
		"cannot be launched":   {supervise.Status{State: supervise.Failed}, true},
		"has ended":            {supervise.Status{State: supervise.Inactive, Generation: 1}, true},
	} {
		seen := p.look(map[tenure.UnitID]supervise.Status{unit: test.status}, time.Now())
		if (seen.why != "") != test.failed {
			t.Errorf("%s: %q", name, seen.why)
		}
	}
}

// The end of the daemon is no end of the observation: the next one has the rest of the
// window, and sees what has failed meanwhile.
func TestObserveOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		program supervisetest.Program
		want    change.Status
		took    time.Duration
		rev     tenure.Revision
	}{
		"fine":             {runs(), change.Done, 15 * time.Second, x2()},
		"failed meanwhile": {ends(5*time.Second, 1), change.Error, 8 * time.Second, x1()},
		"fails afterwards": {ends(12*time.Second, 1), change.Error, 12 * time.Second, x1()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, h *harness) {
				began := time.Now()
				id := scene(h, test.program, true)
				<-time.After(4 * time.Second)
				h.stop()
				<-time.After(4 * time.Second)
				h.boot()
				c, err := h.engine.WaitFor(t.Context(), id)
				if err != nil || c.Status != test.want {
					t.Errorf("the change ends %s: %q, %v", c.Status, c.Err, err)
				}
				if took := time.Since(began).Round(100 * time.Millisecond); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				h.on(test.rev, "one", supervise.Running)
			})
		})
	}
}

func TestObserveIsAborted(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, h *harness) {
		id := scene(h, runs(), true)
		if err := h.engine.Abort(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		c, err := h.engine.WaitFor(t.Context(), id)
		if err != nil || c.Status != change.Undone {
			t.Errorf("the change ends %s: %q, %v", c.Status, c.Err, err)
		}
		h.on(x1(), "one", supervise.Running)
	})
}

// Who asks for the next change does not wait for the window of the last.
func TestObserveEndsWithTheNextRequest(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, h *harness) {
		id := scene(h, runs(), true)
		began := time.Now()
		if err := h.vacate(t.Context(), "refresh", []tenure.Instance{probe}); !errors.Is(err, errStale) {
			t.Errorf("vacate says %v", err)
		}
		if c := h.change(id); c.Status != change.Done || time.Since(began) != 0 {
			t.Errorf("the change is %s after %s", c.Status, time.Since(began))
		}
		if err := h.vacate(t.Context(), "refresh", []tenure.Instance{probe}); err != nil {
			t.Errorf("vacate says %v though nothing is observed", err)
		}
	})
}

// So does who configures the snap, or has it track another channel; one who is refused
// does not.
func TestObserveEndsWithEveryRequest(t *testing.T) {
	t.Parallel()
	switchTo := func(channel string) func(context.Context, *harness) (change.ID, error) {
		return func(ctx context.Context, h *harness) (change.ID, error) {
			return h.Do(ctx, Request{Action: ActionSwitch, Snaps: []tenure.Instance{probe}, Channel: channel})
		}
	}
	set := func(value string) func(context.Context, *harness) (change.ID, error) {
		return func(ctx context.Context, h *harness) (change.ID, error) {
			return h.Configure(ctx, string(probe), map[string]json.RawMessage{"port": json.RawMessage(value)})
		}
	}
	for name, test := range map[string]struct {
		ask     func(context.Context, *harness) (change.ID, error)
		refused bool
	}{
		"set":               {set("80"), false},
		"set to no value":   {set("{"), true},
		"switch":            {switchTo("edge"), false},
		"switch to nowhere": {switchTo("a/b/c/d"), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, h *harness) {
				id := scene(h, runs(), true)
				state, err := h.snaps.Get(probe)
				if err != nil {
					t.Fatal(err)
				}
				state.Line.Active, state.Tracking = true, Tracking{"shelf", "latest/stable"}
				state.Kept[x2()] = kept{Info: &snapfile.Snap{
					Name: string(probe), Type: snapfile.TypeApp, Base: "bare",
					Hooks: []snapfile.Hook{{Name: "configure", Present: true}},
				}}
				err = errors.Join(h.snaps.Put(probe, state), h.sources.docs.Put("shelf", SourceConfig{Name: "shelf"}))
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				next, err := test.ask(t.Context(), h)
				c := h.change(id)
				if test.refused {
					if err == nil || c.Status != change.Wait {
						t.Errorf("a request that means nothing: %v, and the observation is %s", err, c.Status)
					}
					return
				}
				if err != nil || next == id || c.Status != change.Done || time.Since(began) != 0 {
					t.Errorf("change %s, %v; the observation is %s after %s", next, err, c.Status, time.Since(began))
				}
				if _, err := h.engine.WaitFor(t.Context(), next); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
