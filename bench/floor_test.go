package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure/internal/mount"
	"tenure/internal/proc"
)

// byHand runs hellod without a supervisor: the least that a restart can cost.
type byHand struct {
	hierarchy *proc.Hierarchy
	argv, env []string
	socket    string

	born  int
	group proc.Group
	pid   int
	pidfd int
}

// newByHand mounts the snap as Tenure does, and starts its service.
func newByHand(b *testing.B, dir, file string) *byHand {
	b.Helper()
	tree := filepath.Join(dir, "snap")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		b.Fatal(err)
	}
	if _, err := mount.Mount(b.Context(), file, tree); err != nil {
		b.Fatal(err)
	}
	hierarchy, err := proc.OpenHierarchy("tenure-bench-" + strconv.Itoa(os.Getpid()) + "-" + filepath.Base(dir))
	if err != nil {
		b.Fatal(err)
	}
	h := &byHand{
		hierarchy: hierarchy,
		argv:      []string{filepath.Join(tree, "bin/hellod")},
		socket:    filepath.Join(dir, "hello.sock"),
	}
	h.env = []string{"SNAP=" + tree, "SNAP_REVISION=x0", "HELLO_SOCKET=" + h.socket}
	ctx := context.WithoutCancel(b.Context())
	b.Cleanup(func() {
		if err := errors.Join(h.end(), h.group.Remove(), hierarchy.Remove(), mount.Unmount(ctx, tree)); err != nil {
			b.Error(err)
		}
	})
	return h
}

// freshGroup makes the group of the next process.
func (h *byHand) freshGroup() (proc.Group, *os.File, error) {
	h.born++
	group, err := h.hierarchy.Create("floor/" + strconv.Itoa(h.born))
	if err != nil {
		return group, nil, err
	}
	dir, err := group.Open()
	return group, dir, err
}

func (h *byHand) exec(dir *os.File) (err error) {
	h.pid, err = syscall.ForkExec(h.argv[0], h.argv, &syscall.ProcAttr{
		Env: h.env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(dir.Fd()), PidFD: &h.pidfd}, //nolint:gosec // A descriptor fits.
	})
	return err
}

// end tells the process, and waits for its end on the pidfd.
func (h *byHand) end() error {
	if err := unix.PidfdSendSignal(h.pidfd, unix.SIGTERM, nil, 0); err != nil {
		return fmt.Errorf("signal: %w", err)
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(h.pidfd), Events: unix.POLLIN}}, -1) //nolint:gosec // A descriptor fits.
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait: %w", err)
		}
	}
	var info unix.Siginfo
	return errors.Join(unix.Waitid(unix.P_PIDFD, h.pidfd, &info, unix.WEXITED, nil), unix.Close(h.pidfd))
}

// start is the first life.
func (h *byHand) start(b *testing.B) {
	b.Helper()
	group, dir, err := h.freshGroup()
	if err == nil {
		h.group = group
		err = errors.Join(h.exec(dir), dir.Close())
	}
	if err != nil {
		b.Fatal(err)
	}
}

// restart ends the process and starts the next, and returns how long the ending
// took, and when the next began.
func (h *byHand) restart(b *testing.B) (ending time.Duration, began time.Time) {
	b.Helper()
	old := h.group
	group, dir, err := h.freshGroup()
	if err != nil {
		b.Fatal(err)
	}
	told := time.Now()
	if err := h.end(); err != nil {
		b.Fatal(err)
	}
	began = time.Now()
	if err := h.exec(dir); err != nil {
		b.Fatal(err)
	}
	h.group = group
	if err := errors.Join(dir.Close(), old.Remove()); err != nil {
		b.Fatal(err)
	}
	return began.Sub(told), began
}
