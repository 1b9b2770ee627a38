package test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"tenure"
	"tenure/test/rig"
)

// A workload that its package reloads, as lxcfs for running containers, is told by a
// signal when the new revision is current, and lives on; when the refresh is undone it is
// told once more, of the old one.
func TestWorkloadsAreReloaded(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{Observe: true})
	trace := listen(t, i)
	version := func(number, does string) string {
		return probeSnap(t, i, probeYAML(number, `
server:
	daemon: notify
	command: PROBE notify:READY:1 `+does+`
	stop-mode: sigterm
	restart-condition: never
	lifecycle:
		observe: 2s
		workloads:
			helper: {match: '^\S+ server\.helper ', refresh: reload, reload-signal: sigusr1}
`))
	}
	i.Tenure("install", "--dangerous", version("1", "child:helper/ignore:SIGUSR1/report:up/run report:up run"))
	trace.expect("server", "up")
	trace.expect("server.helper", "up")
	var helper tenure.Process
	for _, unit := range i.Units() {
		for _, p := range unit.Processes {
			if strings.Contains(p.Command, "server.helper ") {
				helper = tenure.Process{PID: p.PID, Start: p.Start}
			}
		}
	}
	name := fmt.Sprintf("probe.server/helper.%d", helper.PID)
	lives := func(current string) {
		t.Helper()
		if unit := i.Units()[name]; unit.Revision != "x1" || len(unit.Processes) != 1 || unit.Processes[0].PID != helper.PID || unit.Processes[0].Start != helper.Start {
			t.Errorf("%s is %+v", name, unit)
		}
		if link, err := os.Readlink(i.Path("snap/probe/current")); err != nil || link != current {
			t.Errorf("current is %s, %v; want %s", link, err, current)
		}
	}

	second := version("2", "report:up run")
	if plan := i.Tenure("refresh", "--dry-run", "--dangerous", second); !strings.Contains(plan, "told by SIGUSR1 when revision x2 is current, and lives on") {
		t.Errorf("the plan does not say that the helper is reloaded:\n%s", plan)
	}
	i.Tenure("refresh", "--dangerous", second)
	trace.expect("server.helper", "heard SIGUSR1")
	trace.expect("server", "up")
	lives("x2")

	// What fails after that is undone.
	i.Tenure("refresh", "--dangerous", version("3", "wait:300ms exit:7"))
	trace.expect("server.helper", "heard SIGUSR1", "heard SIGUSR1")
	trace.expect("server", "up")
	lives("x2")
	if !strings.Contains(i.Tenure("timeline", "--json", "probe"), "SIGUSR1") {
		t.Error("the signals are not in the timeline")
	}
}
