package test

import (
	"context"
	"fmt"
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
// is refused, and a run of an app ends with the rest.
func TestNothingOutlivesARemoval(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	manager, stop := newServant(t, i, "named", "manager"), newServant(t, i, "named", "stop")
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), obedientSnap(t, i, reluctantYAML))
	// It lives on when its service ends, and tries to have a successor when it is told to.
	manager.do(`snapctl workload start vm@first -- sh -c 'trap "snapctl workload start vm@heir -- sleep infinity; exit" TERM; echo up; while :; do sleep infinity & wait $!; done'`)
	wrote(t, i, "named.manager/vm@first", "up", 1)
	for _, action := range []string{"disable", "remove"} {
		done := make(chan rig.Result, 1)
		go func() { done <- i.Try(action, "named") }()
		stop.refused("snapctl workload start vm@late -- sleep infinity", "it is ending ("+action+")")
		ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
		defer cancel()
		run := exec.CommandContext(ctx, i.Path("snap/bin/named.say"), "on")
		out, err := run.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 256)); err != nil {
			t.Fatalf("the run of an app says nothing: %v", err)
		}
		if _, err := fmt.Fprintln(stop.ask, "exit 0"); err != nil {
			t.Fatal(err)
		}
		if r := <-done; r.Status != 0 {
			t.Fatalf("%s: %+v", action, r)
		}
		switch err := run.Wait(); {
		case ctx.Err() != nil:
			t.Errorf("the run of an app lives on %s after it was begun, over the %s of its snap", rig.Patience, action)
		case err == nil:
			t.Errorf("the run ended by itself during %s", action)
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
