package refresh

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// A hook and its change that the next daemon ends before it listens for what ends are forgotten all the same.
func TestCollectsWhatEndedBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		run := supervise.Spec{
			Unit: tenure.UnitID{Snap: probe, Kind: tenure.HookRun, App: "configure", Serial: 1}, Revision: tenure.LocalRevision(1),
			Type: supervise.Oneshot, Command: supervisetest.Program{Exits: true}.Command("/probe"),
		}
		if err := errors.Join(h.snaps.Put(probe, h.state(run.Revision)), h.twin.Start(t.Context(), run)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Collect(ctx) }()
		synctest.Wait()
		units, err := h.twin.Units(ctx)
		if err != nil || len(units) > 0 {
			t.Errorf("there still is %+v, %v", units, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
