package api

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tenure/internal/relay"
)

// connected is a connection from here to there, and the listener that it came in at.
func connected(t *testing.T) (listener *net.UnixListener, there, here *net.UnixConn) {
	t.Helper()
	at := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"}
	listener, err := net.ListenUnix("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	there, err = net.DialUnix("unix", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = there.Close() })
	here, err = listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	return listener, there, here
}

// A connection that was passed on is idle when it comes: the server's first patience with it is longer, and no other is.
func TestGrace(t *testing.T) {
	t.Parallel()
	_, there, accepted := connected(t)
	conn := &counted{Conn: relay.New(accepted, nil), end: func() {}, grace: time.Hour}
	defer conn.Close() //nolint:errcheck // Only read.
	for _, want := range []error{nil, os.ErrDeadlineExceeded} {
		if _, err := there.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, want) {
			t.Errorf("it reads %v, want %v", err, want)
		}
	}
}
