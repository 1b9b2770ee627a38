package cli

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tenure/client"
)

// TestUpgradeOfWhoHasEnded has a socket that somebody keeps for a daemon, and none: where the process that was to be
// replaced is gone the command ends, for the manager of the daemon may be waiting for it.
func TestUpgradeOfWhoHasEnded(t *testing.T) {
	t.Parallel()
	root, err := os.MkdirTemp("", "tn-") //nolint:usetesting // Sockets need a short path.
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root) //nolint:errcheck // The next test has one of its own.
	socket := filepath.Join(root, "run/tenure/tenured.sock")
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil { //nolint:gosec // As on any machine.
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket) //nolint:noctx // It waits for nothing.
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // Nothing was written.
	gone := exec.CommandContext(t.Context(), "true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	a := &app{root: root}
	begun := client.Upgrade{ID: "1", To: "2.0", Status: client.UpgradeDoing}
	_, err = a.awaitUpgrade(t.Context(), begun, gone.Process.Pid, time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("the upgrade of a daemon that has ended: %v", err)
	}
	living, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err = a.awaitUpgrade(living, begun, 1, time.Millisecond); err == nil || strings.Contains(err.Error(), "has ended") {
		t.Errorf("the upgrade of one that goes on: %v", err)
	}
}
