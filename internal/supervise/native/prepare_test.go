package native

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// ahead reports whether anything is prepared for a unit, as its actor sees it. It
// is to have the empty group of the next generation then, and else there is none.
func ahead(t *testing.T, s *Supervisor, id tenure.UnitID) bool {
	t.Helper()
	is, known, err := request(t.Context(), s, id, func(u *unit, _ context.Context, reply chan<- bool) { reply <- u.prepared != nil })
	if err != nil || !known {
		t.Fatalf("known %t, %v", known, err)
	}
	status := statusOf(t, s, id)
	next := proc.GroupAt(filepath.Join(filepath.Dir(status.Group), fmt.Sprintf("%s.%d", id.App, status.Generation+1)))
	l, ok := s.labelOf(next)
	_, missing := os.Stat(next.Path())
	if is != (missing == nil) || is && (!ok || l.Unit != id) {
		t.Errorf("prepared %t, group %s: %v, its label %v", is, next.Path(), missing, l)
	}
	return is
}

// A start uses what was prepared for it, and drops what was prepared for another.
func TestPrepare(t *testing.T) {
	t.Parallel()
	s := newRoot(t).supervisor(t)
	first := service(t, "ahead", supervisetest.Program{Notify: true, Status: "first"})
	second := service(t, "ahead", supervisetest.Program{Notify: true, Status: "second"})
	unit := first.Unit
	if err := s.Prepare(t.Context(), first); err != nil {
		t.Fatal(err) // A unit that is not known has nothing to be prepared.
	}
	if err := s.Start(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for _, next := range []struct {
		prepared, started supervise.Spec
		text              string
	}{
		{second, second, "second"},
		{second, first, "first"},
	} {
		if err := s.Prepare(t.Context(), next.prepared); err != nil {
			t.Fatal(err)
		}
		if !ahead(t, s, unit) {
			t.Error("nothing is prepared")
		}
		before := statusOf(t, s, unit)
		if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{unit}, HoldSockets: true}); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context(), next.started); err != nil {
			t.Fatal(err)
		}
		after := statusOf(t, s, unit)
		want := []any{next.text, before.Generation + 1, false}
		if diff := cmp.Diff(want, []any{after.Text, after.Generation, ahead(t, s, unit)}); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
	if err := s.Prepare(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if err := s.Unprepare(t.Context(), unit); err != nil || ahead(t, s, unit) {
		t.Errorf("after Unprepare: %v", err)
	}
}
