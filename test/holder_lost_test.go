package test

import (
	"errors"
	"syscall"
	"testing"

	"tenure/test/rig"
)

// A daemon whose holder was killed starts another one, and goes on to start services and to stop them: also when its own
// start is long past.
func TestALostHolderIsReplaced(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	file := probeSnap(t, i, probeYAML("1", `
svc:
	daemon: notify
	command: PROBE trap notify:READY:1 run
`))
	i.Tenure("install", "--dangerous", file)
	lost := processOf(t, i.Holder())
	if err := syscall.Kill(lost.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	if err := rig.Gone(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	i.Tenure("refresh", "--dangerous", file)
	i.Tenure("restart", "probe.svc")
	if unit := i.Units()["probe.svc"]; unit.State != "running" || unit.Revision != "x2" {
		t.Errorf("the service is %s on %s, want x2", unit.State, unit.Revision)
	}
	if i.Holder() == lost.PID {
		t.Error("the holder is the one that was killed")
	}
}
