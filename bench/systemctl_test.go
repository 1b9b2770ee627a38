package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"tenure/internal/mount"
)

// bareUnit is hellod as a service of systemd that nobody else has to do with.
const bareUnit = `[Unit]
Description=The floor of the gap
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=%s
Environment=SNAP=%s SNAP_REVISION=x0 HELLO_SOCKET=%s
`

// newBare mounts the snap as Tenure does, and has systemd start its service. It returns
// what restarts that, and where it answers.
func newBare(b *testing.B, dir, file string) (restart func(), socket string) {
	b.Helper()
	tree := filepath.Join(dir, "snap")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		b.Fatal(err)
	}
	if _, err := mount.Mount(b.Context(), file, tree); err != nil {
		b.Fatal(err)
	}
	const unit = "tenure-bench-floor.service"
	path, socket := filepath.Join("/run/systemd/system", unit), filepath.Join(dir, "hello.sock")
	text := fmt.Sprintf(bareUnit, filepath.Join(tree, "bin/hellod"), tree, socket)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // As all units are.
		b.Fatal(err)
	}
	ctx := context.WithoutCancel(b.Context())
	b.Cleanup(func() {
		err := errors.Join(systemctl(ctx, "stop", unit), os.Remove(path), systemctl(ctx, "daemon-reload"), mount.Unmount(ctx, tree))
		if err != nil {
			b.Error(err)
		}
	})
	restart = func() {
		if err := systemctl(ctx, "restart", unit); err != nil {
			b.Fatal(err)
		}
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		b.Fatal(err)
	}
	restart()
	return restart, socket
}

func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %v: %w\n%s", args, err, out)
	}
	return nil
}

// benchBelowSystemd is the gap of a refresh of hello where systemd has the services, against
// that of a restart of the same program by systemctl alone, in turns.
func benchBelowSystemd(b *testing.B, t *table, n int) {
	dir := b.TempDir()
	files := []string{snap(b, 1), snap(b, 2)}
	i := newHello(b, files[0])
	served := poll(b, i.Path("var/snap/hello/common/hello.sock"), oneEvery)
	restart, socket := newBare(b, dir, files[0])
	floor := poll(b, socket, oneEvery)

	var floors, gaps, commands series
	refresh := func(k int) time.Duration { return timed(i, "refresh", "--dangerous", files[(k+1)%len(files)]) }
	for k := range n {
		floor.begin(b)
		restart()
		floors.add(floor.next(b).gap())
		served.begin(b)
		refresh(k)
		gaps.add(served.next(b).gap())
	}
	for k := n; k < 2*n; k++ {
		commands.add(refresh(k)) // With nobody who asks.
	}
	t.row("systemd: floor of the gap, systemctl restart", floors)
	t.row("systemd: gap of a refresh", gaps)
	t.row("systemd: refresh hello, whole command", commands)
	t.holdTime("systemd: gap of a refresh, median, against 1.5 x floor + 5 ms", gaps.median(), gapTarget(floors))
}
