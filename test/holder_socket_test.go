package test

import (
	"bufio"
	"errors"
	"strings"
	"syscall"
	"testing"

	"tenure"
	"tenure/examples/clients/unixdial"
	"tenure/test/rig"
)

// A service that waits for somebody to connect can be connected to again when both the
// daemon and the holder of its socket have been killed.
func TestWhoWaitsListensAgainWhenBothWereKilled(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
lazy:
	daemon: notify
	command: PROBE trap serve notify:READY:1 run
	sockets: {main: {listen-stream: $SNAP_COMMON/lazy}}
`)))
	if unit := i.Units()["probe.lazy"]; unit.State != "listening" {
		t.Fatalf("the service is %+v, want that it waits for somebody", unit)
	}
	holder := processOf(t, i.Holder())
	i.Kill()
	// Where systemd has the socket it holds nothing, and has gone with the daemon.
	if err := syscall.Kill(holder.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	if err := rig.Gone(t.Context(), tenure.Process{PID: holder.PID, Start: holder.Start}); err != nil {
		t.Fatal(err)
	}
	i.Start()
	conn, err := unixdial.Dial(t.Context(), i.Path("var/snap/probe/common/lazy"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if answer, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(answer, "main x1 ") {
		t.Errorf("the answer is %q: %v", answer, err)
	}
}
