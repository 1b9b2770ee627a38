package hook_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// runOf is the Spec of a run of a hook that is p, for change id.
func runOf(p supervisetest.Program, id change.ID) supervise.Spec {
	command := supervise.Spec{
		Unit: tenure.UnitID{Snap: "virt"}, Revision: tenure.LocalRevision(1), Command: p.Command("/hook"),
	}
	return hook.CheckHealth.Spec(command, id)
}

func TestAHookSucceedsOrFailsAsItsProgramDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		twin := supervisetest.NewTwin()
		good := supervisetest.Program{Print: []string{"all is well"}, Exits: true, RunFor: time.Second}
		if err := hook.Run(t.Context(), twin, runOf(good, 1)); err != nil {
			t.Error(err)
		}
		bad := supervisetest.Program{Print: []string{"not now"}, Exits: true, Code: 3}
		for again := range 2 { // The second time it is not run: what it came to is known.
			err := hook.Run(t.Context(), twin, runOf(bad, 2))
			failed, ok := errors.AsType[*hook.FailedError](err)
			if !ok || failed.Exit == nil || failed.Exit.Code != 3 {
				t.Fatalf("a hook that exits with 3: %v", err)
			}
			if again == 0 && !slices.Contains(failed.Output, "not now") {
				t.Errorf("its output is %q", failed.Output)
			}
		}
	})
}

func TestAHookThatHasEndedWellIsNotRunAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		twin := supervisetest.NewTwin()
		spec := runOf(supervisetest.Program{Exits: true}, 1)
		for range 2 {
			if err := hook.Run(t.Context(), twin, spec); err != nil {
				t.Fatal(err)
			}
		}
		statuses, err := twin.Units(t.Context())
		if err != nil || len(statuses) != 1 || statuses[0].Generation != 1 {
			t.Errorf("units %+v, %v", statuses, err)
		}
		if state, _, err := hook.Look(t.Context(), twin, spec); state != hook.Ended || err != nil {
			t.Errorf("state %v, %v", state, err)
		}
	})
}

func TestAHookHasATimeAndCanBeAborted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		twin := supervisetest.NewTwin()
		endless, begun := supervisetest.Program{}, time.Now()
		if _, ok := errors.AsType[*hook.FailedError](hook.Run(t.Context(), twin, runOf(endless, 1))); !ok {
			t.Error("a hook that never ends has not failed")
		}
		if took := time.Since(begun); took < hook.CheckHealth.Timeout() || took > hook.CheckHealth.Timeout()+time.Minute {
			t.Errorf("it had %s", took)
		}
		for cause, alive := range map[error]bool{change.ErrAborted: false, change.ErrShutdown: true} {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(cause) })
			spec := runOf(endless, 2)
			err := hook.Run(ctx, twin, spec)
			if _, failed := errors.AsType[*hook.FailedError](err); err == nil || failed {
				t.Errorf("%v: %v", cause, err)
			}
			state, _, err := hook.Look(t.Context(), twin, spec)
			if err != nil || (state == hook.Running) != alive {
				t.Errorf("%v: the hook is %v, %v", cause, state, err)
			}
			if _, err := twin.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}}); err != nil {
				t.Fatal(err)
			}
			if err := twin.Forget(t.Context(), spec.Unit); err != nil {
				t.Fatal(err)
			}
		}
	})
}
