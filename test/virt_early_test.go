package test

import (
	"testing"
	"time"

	"tenure"
	"tenure/client"
)

// soon is how long a machine may take to be shown as what it is.
const soon = time.Second

// TestMachinesAreUnitsAtOnce starts a machine: it is shown as a unit of its own
// while its manager, which nobody stops, runs on without it.
func TestMachinesAreUnitsAtOnce(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	manages := h.Main(manager)
	started, err := h.Client.Start(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	name, begun := machine{Machine: started}.unit(), time.Now()
	unit, shown := h.ps()[name]
	for !shown && time.Since(begun) < soon {
		unit, shown = h.ps()[name]
	}
	if !shown {
		t.Fatalf("%s is not shown within %s:\n%s", name, soon, h.Tenure("ps"))
	}
	same(t, "revision of "+name, "x1", unit.Revision)
	same(t, "the processes of "+name, []int{started.PID}, pidsOf(unit.Processes))
	same(t, "the processes of the manager", []int{manages.PID}, pidsOf(h.ps()[manager].Processes))
	same(t, "the manager", manages, h.Main(manager))

	h.Kill()
	h.Instance.Start()
	same(t, "verdicts of the adopting daemon", map[string]tenure.Verdict{
		manager: tenure.Restart, name: tenure.Endure,
	}, verdicts(h.plan("refresh", snap(t, "virt", "2"))))
	h.Tenure("stop", "virt")
	same(t, "the processes of "+name+" without its manager", []int{started.PID}, pidsOf(h.ps()[name].Processes))
	h.Tenure("stop", name)
	if unit, there := h.ps()[name]; there {
		t.Errorf("%s is there after its end: %+v", name, unit)
	}
}

func pidsOf(processes []client.Process) (pids []int) {
	for _, p := range processes {
		pids = append(pids, p.PID)
	}
	return pids
}
