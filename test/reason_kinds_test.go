package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure/client"
	"tenure/test/rig"
)

// waitingSnap packs a snap whose stop command says why it runs and waits at the fifo "gate",
// if there is one. Its configure hook is what a test wants.
func waitingSnap(t *testing.T, i *rig.Instance, version, configure string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), `
name: waiting
version: '`+version+`'
base: debian12
apps:
  served:
    command: bin/served
    daemon: simple
    stop-command: bin/stop
`)
	writeFile(t, filepath.Join(dir, "bin/served"), "#!/bin/sh\nexec sleep infinity\n")
	writeFile(t, filepath.Join(dir, "bin/stop"), "#!/bin/sh\n[ -p \"$SNAP_COMMON/gate\" ] || exit 0\n"+
		"echo $SNAP_LIFECYCLE_REASON >\"$SNAP_COMMON/why\"\nread -r _ <\"$SNAP_COMMON/gate\"\nrm \"$SNAP_COMMON/gate\"\n")
	writeFile(t, filepath.Join(dir, "meta/hooks/configure"), "#!/bin/sh\n"+configure+"\n")
	file := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

// gateOf waits until somebody reads at a gate, and gives it; closing it lets him go on.
func gateOf(t *testing.T, path string) *os.File {
	t.Helper()
	for deadline := time.Now().Add(rig.Patience); time.Now().Before(deadline); pause(t, 20*time.Millisecond) {
		// There may be no gate yet, or nobody at it.
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0) //nolint:gosec // A file of the test's own root.
		if err == nil {
			return f
		}
	}
	t.Fatalf("nobody comes to %s", path)
	return nil
}

// A wrapper that is told to stop and asks which changes of its snap are in progress, as those
// do that know no reasons, gets the kind that says the same as the reason does: also when nobody
// has asked for the refresh, and while an installation that has failed is undone.
func TestAStopIsToldByTheKindOfItsChange(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	open, closed := windows(time.Now())
	s := newShelf(t, i)
	i.Tenure("set", "system", "refresh.timer="+closed)
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	common := i.Common("waiting")
	gate := filepath.Join(common, "gate")
	// told is what is in progress while the stop command runs, and the reason that it was told.
	told := func() string {
		t.Helper()
		f := gateOf(t, gate)
		defer f.Close() //nolint:errcheck // Written to once.
		changes, err := i.Client().Changes(t.Context(), "in-progress", "waiting")
		if err != nil || len(changes) != 1 {
			t.Fatalf("changes in progress: %+v, %v", changes, err)
		}
		why, err := os.ReadFile(filepath.Join(common, "why")) //nolint:gosec // A file of the test's own root.
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintln(f); err != nil {
			t.Fatal(err)
		}
		status := endOf(t, i, changes[0].ID)
		return fmt.Sprintf("%s: %s%s", changes[0].Kind, why, status)
	}
	do := func(action client.Action) {
		t.Helper()
		if _, err := i.Client().Do(t.Context(), action); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s is told by %q, want %q", what, got, want)
		}
	}
	fails := waitingSnap(t, i, "0", `mkfifo "$SNAP_COMMON/gate"; exit 1`)
	do(client.Action{Action: "install", Files: []string{fails}, Dangerous: true})
	want("the undo of an installation", told(), "install-snap: remove\nError")

	s.release(waitingSnap(t, i, "1", ":"), "waiting_1", long(time.Hour))
	i.Tenure("install", "waiting")
	s.release(waitingSnap(t, i, "2", ":"), "waiting_2", long(time.Minute))
	mkfifo(t, gate)
	i.Tenure("set", "system", "refresh.timer="+open)
	want("an automatic refresh", told(), "auto-refresh: refresh\nDone")
	if now := current(t, i, "waiting"); now.Revision != "2" {
		t.Errorf("the snap is on %s", now.Revision)
	}

	mkfifo(t, gate)
	do(client.Action{Action: "disable", Snaps: []string{"waiting"}})
	want("a disabling", told(), "disable-snap: disable\nDone")
}

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}
