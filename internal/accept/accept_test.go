package accept_test

import (
	"errors"
	"net"
	"path/filepath"
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
