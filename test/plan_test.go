package test

import (
	"encoding/json"
	"strings"
	"testing"

	"tenure"
	"tenure/client"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// kinds are services of ten kinds, with and without what comes out of them.
func kinds() []string {
	const ready = "report:up notify:READY:1 run"
	return []string{
		"\nplain:\n\tdaemon: notify\n\tcommand: PROBE trap " + ready,
		"\ntidy:\n\tdaemon: notify\n\tcommand: PROBE trap child " + ready,
		"\ncareless:\n\tdaemon: notify\n\tcommand: PROBE trap child:child/fork/trap/report:up/run wait:300ms " + ready + "\n\tstop-mode: sigterm",
		"\nenduring:\n\tdaemon: notify\n\tcommand: PROBE trap child " + ready + "\n\trefresh-mode: endure",
		"\nexplicit:\n\tdaemon: notify\n\tcommand: PROBE trap " + ready + "\n\trefresh-mode: restart",
		"\nblock:\n\tdaemon: notify\n\tcommand: PROBE trap " + ready + "\n\tlifecycle: {refresh: endure}",
		"\nmanager:\n\tdaemon: notify\n\tcommand: PROBE trap child:vm child:dns " + ready +
			"\n\tlifecycle: {workloads: {vm: {match: 'manager\\.vm', refresh: endure}}}",
		"\nender:\n\tdaemon: notify\n\tcommand: PROBE trap child:job " + ready + "\n\tstop-mode: sigterm" +
			"\n\tlifecycle: {workloads: {job: {match: 'ender\\.job', refresh: stop}}}",
		"\nforking:\n\tdaemon: forking\n\tcommand: PROBE fork trap report:up run",
		"\nsocket:\n\tdaemon: notify\n\tcommand: PROBE trap " + ready + "\n\tsockets: {main: {listen-stream: $SNAP_COMMON/sock}}",
	}
}

// alive reports whether a process lives; one that nobody has reaped does not.
func alive(p tenure.Process) bool {
	info, err := proc.Read(p.PID)
	return err == nil && info.Process == p && info.State != 'Z' && info.State != 'X'
}

// What the plan says of each process is what then happens to it, and every process
// of the snap is in the plan.
func TestPlanIsWhatHappens(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", kinds()...)))
	for _, name := range []string{"plain", "tidy", "careless", "enduring", "explicit", "block", "manager", "ender", "forking"} {
		trace.expect(name, "up")
	}
	for _, name := range []string{"tidy.child", "careless.child", "enduring.child", "manager.vm", "manager.dns", "ender.job"} {
		trace.expect(name, "up")
	}
	file := probeSnap(t, i, probeYAML("2", kinds()...))
	plans, err := i.Client().Plan(t.Context(), client.Action{Action: "refresh", Files: []string{file}, Dangerous: true})
	if err != nil || len(plans) != 1 {
		t.Fatalf("plan: %v, %v", plans, err)
	}
	var plan policy.Plan
	if err := json.Unmarshal(plans[0].Plan, &plan); err != nil {
		t.Fatal(err)
	}
	planned := map[tenure.Process]bool{}
	for _, item := range plan.Items {
		for _, p := range item.Processes {
			planned[p] = true
		}
	}
	for name, unit := range i.Units() {
		for _, p := range unit.Processes {
			if !planned[tenure.Process{PID: p.PID, Start: p.Start}] {
				t.Errorf("process %d of %s is not in the plan", p.PID, name)
			}
		}
	}
	i.Tenure("refresh", "--dangerous", file)
	if tasks := i.Tenure("tasks", "--last=refresh"); !strings.Contains(tasks, "everything went as planned") {
		t.Errorf("the change says that not everything went as planned:\n%s", tasks)
	}
	after := i.Units()
	verdicts := map[string]tenure.Verdict{}
	for _, item := range plan.Items {
		name, _, _ := strings.Cut(strings.TrimPrefix(item.Unit.String(), "probe."), ".") // Without the serial number.
		verdicts[name] = item.Verdict
		for _, p := range item.Processes {
			if lives := alive(p); lives != (item.Verdict == tenure.Endure) {
				t.Errorf("%s is to %s, and process %d lives: %t", item.Unit, item.Verdict, p.PID, lives)
			}
		}
		if unit := after[item.Unit.String()]; item.Verdict == tenure.Restart && unit.Revision != "x2" {
			t.Errorf("%s was to be restarted and is on %q", item.Unit, unit.Revision)
		}
	}
	for name, want := range map[string]tenure.Verdict{
		"plain": tenure.Restart, "tidy": tenure.Restart, "careless": tenure.Restart, "careless/leftover": tenure.Endure,
		"enduring": tenure.Endure, "explicit": tenure.Restart, "block": tenure.Endure, "manager": tenure.Restart,
		"manager/vm": tenure.Endure, "ender": tenure.Restart, "ender/job": tenure.Stop, "forking": tenure.Restart, "socket": tenure.Restart,
	} {
		if verdicts[name] != want {
			t.Errorf("verdict on %s is %q, want %q", name, verdicts[name], want)
		}
	}
	i.Tenure("remove", "probe")
	for p := range planned {
		if alive(p) {
			t.Errorf("process %d lives after the snap was removed", p.PID)
		}
	}
}
