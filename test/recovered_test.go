package test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tenure"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// TestKeptDescriptorsAreRecovered kills the daemon together with the holder. What was kept for a service that runs is
// taken from the service: its socket stays the same one, for clients that wait in it too, and its next generation
// is passed what it had stored.
func TestKeptDescriptorsAreRecovered(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*rig.Patience)
	defer cancel()
	s := &scene{Instance: rig.New(t, rig.Config{}), t: t, snap: "probe", app: "svc", current: 1}
	heard := listen(t, s.Instance)
	s.Tenure("install", "--dangerous", probeSnap(t, s.Instance, probeYAML("1", `
svc:
	command: PROBE passed store:kept notify:READY:1 serve run
	daemon: notify
	plugs: [network-bind]
	sockets:
		main:
			listen-stream: $SNAP_COMMON/main.sock
`)))
	first := s.visit(ctx)
	if got := heard.next("svc"); got != "passed main" {
		t.Fatalf("the first one was %s", got)
	}
	socket := inode(t, s.Common("probe")+"/main.sock")
	kept := "kept=kept of " + first.pid
	// What a service stores is kept soon after it has said so, not before it goes on.
	records := s.Path("run/tenure/units")
	stored := func() bool {
		text, err := os.ReadFile(filepath.Join(records, "probe.svc.json"))
		return err == nil && strings.Contains(string(text), `"name":"kept"`)
	}

	for range 2 {
		await(t, records, stored)
		info, err := proc.Read(s.Holder())
		if err != nil {
			t.Fatal(err)
		}
		s.Kill()
		killAndWait(ctx, t, info.Process)
		s.Start()
		if got := s.visit(ctx); got.err != "" {
			t.Errorf("a client after the deaths: %+v", got)
		}
		s.Tenure("restart", "probe.svc")
		if got := s.visit(ctx); got.err != "" {
			t.Errorf("a client after the restart: %+v", got)
		}
		heard.holds("svc", kept)
		if got := inode(t, s.Common("probe")+"/main.sock"); got != socket {
			t.Errorf("the socket is another one: inode %d, before %d", got, socket)
		}
	}
}

// killAndWait kills a process, and waits for its end.
func killAndWait(ctx context.Context, t *testing.T, p tenure.Process) {
	t.Helper()
	handle, err := proc.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	if err := handle.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := handle.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}
