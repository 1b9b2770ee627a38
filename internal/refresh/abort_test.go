package refresh

import (
	"errors"
	"testing"
	"testing/synctest"

	"tenure"
	"tenure/internal/change"
)

// What is collected does not come back: who aborts a change while it collects is told so, and the change is done.
func TestNobodyAbortsACollection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		was, is := h.state(tenure.LocalRevision(1)), h.state(tenure.LocalRevision(2))
		if err := h.snaps.Put(probe, was); err != nil {
			t.Fatal(err)
		}
		refused := make(chan error, 1)
		h.at = func(p change.Point) {
			if p.TaskKind == taskCollect && p.Phase == change.BeforeDo {
				go func() { refused <- h.engine.Abort(t.Context(), p.Change) }()
			}
		}
		id, err := h.engine.Start(t.Context(), change.NewChange{Kind: "refresh-snap", Snaps: []tenure.Instance{probe}, Tasks: []change.TaskSpec{
			change.NewTask(taskCommit, "commit", commitParams{Snap: probe, Before: was, After: is}),
			collectTask(probe),
		}})
		if err != nil {
			t.Fatal(err)
		}
		var finished *change.FinishedError
		if err := <-refused; !errors.As(err, &finished) {
			t.Errorf("an abort while it collects: %v", err)
		}
		synctest.Wait()
		state, err := h.snaps.Get(probe)
		if status := h.change(id).Status; err != nil || status != change.Done || state.Line.Current != is.Line.Current {
			t.Errorf("the change is %s, the snap %+v (%v)", status, state, err)
		}
	})
}
