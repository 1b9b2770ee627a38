package test

import (
	"strings"
	"testing"

	"tenure"
	"tenure/test/rig"
)

// fickle is a service with a workload that is to live through a refresh. It does not
// end when it is told to.
const fickle = `
fickle:
	daemon: notify
	command: PROBE ignore:SIGTERM child:vm child:dns report:up notify:READY:1 run
	stop-mode: sigterm
	restart-condition: never
	lifecycle: {workloads: {vm: {match: 'fickle\.vm', refresh: endure}}}
`

const steady = `
steady:
	daemon: notify
	command: PROBE trap child report:up notify:READY:1 run
`

// While a service stops, the workload that is to live on is killed: the change says
// afterwards that this is not what was planned, and so does the daemon. What outlives
// the main process that alone was told, and a plan that is kept, is nothing to say.
func TestWhatWasNotPlannedIsSaid(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", fickle, steady)))
	trace.expect("fickle.vm", "up")
	trace.expect("fickle.dns", "up")
	trace.expect("fickle", "up")
	main := i.Main("probe.fickle")
	file := probeSnap(t, i, probeYAML("2", fickle, steady))
	plan := i.Tenure("plan", "refresh", file)
	if !strings.Contains(plan, "what does not end with it lives on as leftover") {
		t.Errorf("the plan does not say what becomes of the other processes:\n%s", plan)
	}
	i.Tenure("refresh", "--no-wait", "--dangerous", file)
	trace.expect("fickle", "heard SIGTERM")
	vm := workloadOf(t, i, "probe.fickle/vm.")
	kill(t, vm)
	kill(t, main)
	i.Tenure("watch", "--last=refresh")
	tasks := i.Tenure("tasks", "--last=refresh")
	if said := "is gone"; strings.Count(tasks, "not as planned: ") != 1 || !strings.Contains(tasks, said) {
		t.Errorf("the change does not say once that the workload %s:\n%s", said, tasks)
	}
	if log := i.Said(); !strings.Contains(log, "a change did not go as planned") {
		t.Errorf("the daemon does not say so:\n%s", log)
	}
	kill(t, i.Main("probe.fickle"))
	i.Tenure("restart", "probe.steady")
	if tasks := i.Tenure("tasks", "--last=service-control"); !strings.Contains(tasks, "everything went as planned") {
		t.Errorf("the change does not say that it went as planned:\n%s", tasks)
	}
}

// workloadOf is the one process of the unit that begins so.
func workloadOf(t *testing.T, i *rig.Instance, prefix string) tenure.Process {
	t.Helper()
	for name, unit := range i.Units() {
		if strings.HasPrefix(name, prefix) && len(unit.Processes) == 1 {
			return tenure.Process{PID: unit.Processes[0].PID, Start: unit.Processes[0].Start}
		}
	}
	t.Fatalf("there is no unit %s:\n%s", prefix, i.Tenure("ps"))
	return tenure.Process{}
}

// kill kills a process and waits for its end.
func kill(t *testing.T, p tenure.Process) {
	t.Helper()
	signalTo(t, p, "SIGKILL")
	if err := rig.Gone(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}
