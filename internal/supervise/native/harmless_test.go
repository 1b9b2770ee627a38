package native

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A descriptor is harmless if it is known to be; what may have the file of a process behind it is not.
func TestHarmless(t *testing.T) {
	t.Parallel()
	opened := func(fd int, err error) int {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	file := func(path string) int { return opened(unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)) }
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	served := silentFile(t)
	t.Cleanup(func() { go unix.Close(served) }) //nolint:errcheck // It ends with who serves it.
	for _, c := range []struct {
		name string
		fd   int
		want bool
	}{
		{"file", file(path), true},
		{"directory", opened(unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_CLOEXEC, 0)), true},
		{"memory", opened(unix.MemfdCreate("memory", unix.MFD_CLOEXEC)), true},
		{"pipe", opened(pipe[0], nil), true},
		{"other end", opened(pipe[1], nil), true},
		{"socket", opened(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)), true},
		{"eventfd", opened(unix.Eventfd(0, unix.EFD_CLOEXEC)), true},
		{"timerfd", opened(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)), true},
		{"pidfd", opened(unix.PidfdOpen(os.Getpid(), 0)), true},
		{"inotify", opened(unix.InotifyInit1(unix.IN_CLOEXEC)), true},
		{"null", file(os.DevNull), true},
		{"terminal", file("/dev/ptmx"), true},
		{"epoll", opened(unix.EpollCreate1(unix.EPOLL_CLOEXEC)), false},
		{"fuse", file("/dev/fuse"), false},
		{"process", opened(unix.Open("/proc/self/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)), false},
		{"served", served, false},
	} {
		if got := harmless(c.fd); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
