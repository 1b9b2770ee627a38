package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tenure/test/rig"
)

// What endures on an old revision is shown with its date; when that has come, and the
// administrator wants it, a service starts again on the current revision, and workloads
// end, each by its stop protocol.
func TestEnduringHasADate(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	i.Tenure("install", "--dangerous", reasonable(t, i))
	livingMachines(t, i)
	i.Tenure("set", "system", "lifecycle.max-endure=7d")
	next := reasonable(t, i)
	if plan := i.Tenure("refresh", "--dry-run", next); !strings.Contains(plan, "by the administrator's limit of 7d, and is then warned of") {
		t.Errorf("the plan does not say until when machines may endure:\n%s", plan)
	}
	begun := time.Now()
	i.Tenure("refresh", "--dangerous", next)
	before := livingMachines(t, i)
	for id, unit := range i.Units() {
		stays := unit.Revision == "x1"
		until := unit.EnduresUntil.Sub(unit.StaleSince)
		if stays != unit.Stale || stays && (until != 7*24*time.Hour || unit.StaleSince.Before(begun) || unit.EndureAction != "warn") {
			t.Errorf("%s on %s: stale %t since %s, until %s, then %s", id, unit.Revision, unit.Stale, unit.StaleSince, unit.EnduresUntil, unit.EndureAction)
		}
	}
	if ps := i.Tenure("ps", "manager"); strings.Count(ps, "x1 (stale) until "+begun.Add(7*24*time.Hour).UTC().Format("2006-01-")) < machines {
		t.Errorf("ps does not say until when:\n%s", ps)
	}
	id := i.Main("manager.virtd")
	i.Tenure("set", "system", "lifecycle.endure-action=end", "lifecycle.max-endure=1s")
	await(t, filepath.Join(i.Common("manager"), "machines"), func() bool {
		left, err := filepath.Glob(filepath.Join(i.Common("manager"), "machines", "*"))
		return err == nil && len(left) == 0
	})
	changes, err := i.Client().Changes(t.Context(), "all", "manager")
	if err != nil || len(changes) == 0 {
		t.Fatal(err)
	}
	last := changes[len(changes)-1]
	if !strings.HasPrefix(last.Summary, "Stop manager.virtd/vm.") || !strings.HasSuffix(last.Summary, "and lifecycle.max-endure is 1s") {
		t.Errorf("the change that ends them: %s", last.Summary)
	}
	if status := endOf(t, i, last.ID); status != "Done" {
		t.Errorf("it is %s", status)
	}
	text, err := os.ReadFile(filepath.Join(i.Common("manager"), "log"))
	if err != nil || string(text) != strings.Repeat("shut down\n", machines) {
		t.Errorf("machines %v: %q, %v", before, text, err)
	}
	if i.Main("manager.virtd") != id {
		t.Error("the manager, which is not stale, was restarted")
	}
}
