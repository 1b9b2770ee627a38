package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/test/rig"
)

// traces are what there is of a revision on the machine: its mount, its loop
// device, its file and its data.
func traces(i *rig.Instance, name, rev string) []string {
	point, file, data := i.Path("snap", name, rev), i.Path("var/lib/tenure/snaps", name+"_"+rev+".snap"), i.Path("var/snap", name, rev)
	var found []string
	if slices.Contains(rig.Mounts(i.Root), point) {
		found = append(found, "mount")
	}
	if slices.ContainsFunc(rig.Loops(i.Root), func(backing string) bool { return strings.TrimSuffix(backing, " (deleted)") == file }) {
		found = append(found, "loop device")
	}
	for what, path := range map[string]string{"mount point": point, "file": file, "data": data} {
		if _, err := os.Lstat(path); err == nil {
			found = append(found, what)
		}
	}
	slices.Sort(found)
	return found
}

// whole are the traces of a revision that is kept.
func whole() []string { return []string{"data", "file", "loop device", "mount", "mount point"} }

// collected carries out end, which ends the process, and fails the test unless
// every trace of the revision goes after the process.
func collected(t *testing.T, i *rig.Instance, name, rev string, last tenure.Process, end func() error) {
	t.Helper()
	same(t, fmt.Sprintf("traces of %s@%s before the end", name, rev), whole(), traces(i, name, rev))
	w, err := watchTraces(i, name, last)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	failed := make(chan error, 1)
	go func() { failed <- end() }()
	took, err := w.until(func() bool { return len(traces(i, name, rev)) == 0 })
	if err := errors.Join(err, <-failed); err != nil {
		t.Fatalf("%s@%s still has: %s: %v", name, rev, strings.Join(traces(i, name, rev), ", "), err)
	}
	t.Logf("%s@%s is gone %s after its last process", name, rev, took.Round(time.Millisecond))
}

// collectedAfterStart fails the test unless every trace of the revisions goes after
// the daemon has come back.
func collectedAfterStart(t *testing.T, i *rig.Instance, name string, revs ...string) {
	t.Helper()
	w, err := watchTraces(i, name, tenure.Process{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	left := func() (left []string) {
		for _, rev := range revs {
			left = append(left, traces(i, name, rev)...)
		}
		return left
	}
	took, err := w.until(func() bool { return len(left()) == 0 })
	t.Logf("%s is gone %s after the daemon is back", strings.Join(revs, ", "), took.Round(time.Millisecond))
	if err != nil {
		t.Errorf("%s after %s: %s is left: %v", name, took, strings.Join(left(), ", "), err)
	}
}

// unmounted fails the test unless nothing of a snap is mounted any more, as soon as processes are gone that have copies of all
// mounts for a moment, as those have that begin in a namespace of their own.
func unmounted(t *testing.T, i *rig.Instance, name string) {
	t.Helper()
	mounts, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := watch{-1, mounts, -1, -1}
	defer w.close()
	left := func() []string {
		return slices.DeleteFunc(rig.Mounts(i.Root), func(path string) bool { return !strings.Contains(path, "/snap/"+name) })
	}
	if took, err := w.until(func() bool { return len(left()) == 0 }); err != nil {
		t.Errorf("%q are mounted after %s: %v", left(), took, err)
	}
}

// watch hears of the end of a process and of mounts, loop devices and files that
// come and go.
type watch struct{ process, mounts, devices, files int }

func watchTraces(i *rig.Instance, name string, last tenure.Process) (w watch, err error) {
	w = watch{-1, -1, -1, -1}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if last.PID != 0 {
		if w.process, err = unix.PidfdOpen(last.PID, 0); err != nil {
			return w, fmt.Errorf("watch process %d: %w", last.PID, err)
		}
	}
	if w.mounts, err = unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return w, fmt.Errorf("watch mounts: %w", err)
	}
	if w.devices, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT); err != nil {
		return w, fmt.Errorf("watch devices: %w", err)
	}
	if err = unix.Bind(w.devices, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return w, fmt.Errorf("watch devices: %w", err)
	}
	if w.files, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return w, fmt.Errorf("watch files: %w", err)
	}
	for _, dir := range []string{i.Path("snap", name), i.Path("var/lib/tenure/snaps"), i.Path("var/snap", name)} {
		if _, err = unix.InotifyAddWatch(w.files, dir, unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_DELETE_SELF); err != nil {
			return w, fmt.Errorf("watch %s: %w", filepath.Base(dir), err)
		}
	}
	return w, nil
}

func (w watch) close() {
	for _, fd := range []int{w.process, w.mounts, w.devices, w.files} {
		if fd >= 0 {
			unix.Close(fd) //nolint:errcheck // Nothing was written.
		}
	}
}

// until waits for the end of the process, if there is one, and then for done, and
// tells how long that took from then.
func (w watch) until(done func() bool) (time.Duration, error) {
	if w.process >= 0 {
		process := []unix.PollFd{{Fd: int32(w.process), Events: unix.POLLIN}} //nolint:gosec // A descriptor fits.
		if err := poll(process, time.Now().Add(rig.Patience)); err != nil {
			return 0, fmt.Errorf("wait for the process: %w", err)
		}
	}
	ended := time.Now()
	events := []unix.PollFd{
		{Fd: int32(w.mounts), Events: unix.POLLPRI}, //nolint:gosec // A descriptor fits.
		{Fd: int32(w.devices), Events: unix.POLLIN}, //nolint:gosec // A descriptor fits.
		{Fd: int32(w.files), Events: unix.POLLIN},   //nolint:gosec // A descriptor fits.
	}
	for {
		if done() {
			return time.Since(ended), nil
		}
		if err := poll(events, ended.Add(rig.Patience)); err != nil {
			return time.Since(ended), err
		}
		for _, fd := range []int{w.devices, w.files} {
			if fd >= 0 {
				drain(fd)
			}
		}
	}
}

// poll waits for an event.
func poll(fds []unix.PollFd, deadline time.Time) error {
	for {
		n, err := unix.Poll(fds, int(max(0, time.Until(deadline).Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return os.ErrDeadlineExceeded
		default:
			return nil
		}
	}
}

func drain(fd int) {
	buf := make([]byte, 64<<10)
	for {
		if n, err := unix.Read(fd, buf); n <= 0 || err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}
