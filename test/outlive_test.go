package test

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"tenure/test/rig"
)

// reluctantYAML is a service whose stop command is obedient too.
const reluctantYAML = `
name: named
version: '1'
base: debian12
apps:
  manager:
    command: bin/obey manager
    daemon: simple
    stop-command: bin/obey stop
    lifecycle:
      workloads:
        vm: {}
  say: {command: bin/idle}
`

// What a snap starts while it is told to end does not outlive its removal: a workload
// is refused, a run of an app ends with the rest, and one that is begun then waits until there
// is nothing to run.
func TestNothingOutlivesARemoval(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	manager, stop := newServant(t, i, "named", "manager"), newServant(t, i, "named", "stop")
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), obedientSnap(t, i, reluctantYAML))
	// It lives on when its service ends, and tries to have a successor when it is told to.
	manager.do(`snapctl workload start vm@first -- sh -c 'trap "snapctl workload start vm@heir -- sleep infinity; exit" TERM; echo up; while :; do sleep infinity & wait $!; done'`)
	wrote(t, i, "named.manager/vm@first", "up", 1)
	for _, action := range []string{"disable", "remove"} {
		ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
		defer cancel()
		early, said := runSaying(ctx, t, i, (*exec.Cmd).StdoutPipe)
		if said == "" {
			t.Fatal("the run of an app says nothing")
		}
		done := make(chan rig.Result, 1)
		go func() { done <- i.Try(action, "named") }()
		stop.refused("snapctl workload start vm@late -- sleep infinity", "it is ending ("+action+")")
		late, said := runSaying(ctx, t, i, (*exec.Cmd).StderrPipe)
		if !strings.Contains(said, "is being changed") {
			t.Errorf("a run that is begun during %s says %q", action, said)
		}
		if _, err := fmt.Fprintln(stop.ask, "exit 0"); err != nil {
			t.Fatal(err)
		}
		if r := <-done; r.Status != 0 {
			t.Fatalf("%s: %+v", action, r)
		}
		for when, run := range map[string]*exec.Cmd{"before": early, "during": late} {
			switch err := run.Wait(); {
			case ctx.Err() != nil:
				t.Errorf("the run of an app %s %s lives on after %s", when, action, rig.Patience)
			case err == nil:
				t.Errorf("the run of an app %s %s ended by itself", when, action)
			}
		}
		for name, unit := range i.Units() {
			if len(unit.Processes) > 0 {
				t.Errorf("%s outlives %s: %+v", name, action, unit)
			}
		}
		if action == "disable" {
			i.Tenure("enable", "named")
		}
	}
	for _, left := range rig.Leftovers(i.Root) {
		if strings.Contains(left, "named") {
			t.Errorf("left behind: %s", left)
		}
	}
}

// runSaying begins a run of the app, and returns the beginning of what it writes there.
func runSaying(ctx context.Context, t *testing.T, i *rig.Instance, where func(*exec.Cmd) (io.ReadCloser, error)) (run *exec.Cmd, said string) {
	t.Helper()
	run = exec.CommandContext(ctx, i.Path("snap/bin/named.say"), "on")
	out, err := where(run)
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 256)
	n, err := out.Read(text)
	if err != nil {
		t.Fatalf("the run of an app: %v", err)
	}
	return run, string(text[:n])
}
