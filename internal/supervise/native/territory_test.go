package native

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/proc"
)

// TestWhatIsOnItsWayIsShownOnce: a process that a workload was promised is still in the group of its service, and
// nowhere else; then in both.
func TestWhatIsOnItsWayIsShownOnce(t *testing.T) {
	t.Parallel()
	service := tenure.ServiceUnit("virt", "virtd")
	workload := service.Workload("vm", 2)
	manager, machine := proc.Info{Process: tenure.Process{PID: 1, Start: 1}}, proc.Info{Process: tenure.Process{PID: 2, Start: 2}}
	for _, there := range [][]proc.Info{nil, {machine}} {
		seen := map[tenure.UnitID][]proc.Info{service: {manager, machine}, workload: there}
		keepPromises(seen, map[tenure.Process]tenure.UnitID{{}: service, manager.Process: service, machine.Process: workload})
		want := map[tenure.UnitID][]proc.Info{service: {manager}, workload: {machine}}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Error(diff)
		}
	}
}
