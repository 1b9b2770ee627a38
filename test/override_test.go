package test

import (
	"strings"
	"testing"
	"time"

	"tenure/test/rig"
)

// The administrator's limit cuts the time that a package asks for: the plan says so,
// and the stop keeps to it.
func TestLimitOfStops(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
slow:
	daemon: notify
	command: PROBE ignore:SIGTERM notify:READY:1 run
	stop-timeout: 10m
`)))
	if r := i.Try("set", "system", "lifecycle.max-stop-timeout=soon"); r.Status == 0 || !strings.Contains(r.Stderr, "90s, 1h30m or 7d") {
		t.Errorf("a limit that is no time: %+v", r)
	}
	i.Tenure("set", "system", "lifecycle.max-stop-timeout=500ms")
	if got := strings.TrimSpace(i.Tenure("get", "system", "lifecycle.max-stop-timeout")); got != "500ms" {
		t.Errorf("the limit is %q", got)
	}
	plan := i.Tenure("plan", "stop", "probe")
	if want := "the grace period of 10m is cut to the administrator's limit of 500ms"; !strings.Contains(plan, want) {
		t.Errorf("the plan does not say %q:\n%s", want, plan)
	}
	begun := time.Now()
	i.Tenure("stop", "probe")
	if took := time.Since(begun); took > rig.Patience {
		t.Errorf("the stop took %s", took)
	}
	trace.expect("slow", "heard SIGTERM")
	if log := i.Tenure("tasks", "--last=service-control"); !strings.Contains(log, "probe.slow did not end in its time and was killed") {
		t.Errorf("the change does not say that it killed:\n%s", log)
	}
	i.Tenure("unset", "system", "lifecycle.max-stop-timeout")
	if r := i.Try("get", "system", "lifecycle.max-stop-timeout"); r.Status == 0 || !strings.Contains(r.Stderr, "there is no limit") {
		t.Errorf("the limit, unset: %+v", r)
	}
}

// What a package wants to outlive its removal needs the administrator's word; with
// --leave it lives on and pins its revision, with --force it ends.
func TestLeaveAndForce(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
manager:
	daemon: notify
	command: PROBE child:vm trap report:up notify:READY:1 run
	lifecycle:
	  workloads:
	    vm:
	      match: ' manager.vm '
	      disable: endure
	      remove: endure
`)))
	trace.expect("manager.vm", "up")
	r := i.Try("remove", "probe")
	if r.Status == 0 || !strings.Contains(r.Stderr, "--leave") || !strings.Contains(r.Stderr, "--force") {
		t.Fatalf("remove of what wants to live on: %+v", r)
	}
	i.Tenure("disable", "--force", "probe")
	trace.expect("manager", "up", "heard SIGTERM")
	trace.expect("manager.vm", "heard SIGTERM")
	i.Tenure("enable", "probe")
	trace.expect("manager.vm", "up")
	i.Tenure("remove", "--leave", "probe")
	trace.expect("manager", "up", "heard SIGTERM")
	vm := ""
	for id := range i.Units() {
		vm = id
	}
	if !strings.HasPrefix(vm, "probe.manager/vm.") {
		t.Fatalf("units after remove --leave: %v", i.Units())
	}
	if out := i.Tenure("why", "probe@x1"); !strings.Contains(out, "unit "+vm) {
		t.Errorf("what keeps the revision: %s", out)
	}
	trace.silent("manager.vm")
}
