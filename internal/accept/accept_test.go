package accept_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/internal/accept"
)

// A process that may open no file more accepts who has called meanwhile when it may again.
// It is not beside other tests: the limit is the process's.
func TestNextWaitsForRoom(t *testing.T) { //nolint:paralleltest // See above.
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "socket"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	caller, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close() //nolint:errcheck // It has nothing to say.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	var shortages []error
	conn, err := accept.Next(listener, func(err error) {
		shortages = append(shortages, err)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if len(shortages) != 1 || !errors.Is(shortages[0], unix.EMFILE) {
		t.Errorf("it was short of %v, want once %v", shortages, unix.EMFILE)
	}
	_ = listener.Close()
	if _, err := accept.Next(listener, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("at the end of the listener: %v, want %v", err, net.ErrClosed)
	}
}

// One socket comes in place of another without a moment in which nobody could connect, every user may, and its path may be as long as any.
func TestListenTakesThePlaceOfAnother(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 50))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "socket")
	first, err := accept.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close() //nolint:errcheck // Only listened at.
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o666 {
		t.Fatalf("it is %v, %v", info, err)
	}
	open, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close() //nolint:errcheck // Only looked at.
	short := fmt.Sprintf("/proc/self/fd/%d/socket", open.Fd())
	called := make(chan error)
	go func() {
		var err error
		for range 1000 { // There is room for so many in the queue of one.
			var caller net.Conn
			if caller, err = net.Dial("unix", short); err != nil {
				break
			}
			_ = caller.Close() // It has nothing to say.
		}
		called <- err
	}()
	for range 200 {
		next, err := accept.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close() //nolint:errcheck // Only listened at.
	}
	if err := <-called; err != nil {
		t.Error(err)
	}
}
