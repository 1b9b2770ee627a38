// Package ready is the supervisor's end of sd_notify(3) for tests: it waits
// for a program to say that it is ready.
//
// One Socket serves one program at a time.
package ready

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Socket is where a program sends its notifications.
type Socket struct {
	Path string
	conn *net.UnixConn
}

// Listen makes the socket in dir, open to a program that has given up root.
func Listen(dir string) (*Socket, error) {
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for notifications: %w", err)
	}
	if err := errors.Join(os.Chmod(path, 0o666), os.Chmod(dir, 0o755)); err != nil { //nolint:gosec // Open on purpose.
		return nil, fmt.Errorf("listen for notifications: %w", errors.Join(err, conn.Close()))
	}
	return &Socket{Path: path, conn: conn}, nil
}

// Wait returns when READY=1 has come.
func (s *Socket) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck // A closed socket needs no deadline.
	defer stop()
	message := make([]byte, 4096)
	for {
		n, err := s.conn.Read(message)
		if err != nil {
			return fmt.Errorf("wait for READY=1: %w", errors.Join(err, context.Cause(ctx)))
		}
		for line := range strings.SplitSeq(string(message[:n]), "\n") {
			if line == "READY=1" {
				return nil
			}
		}
	}
}

// Close ends the socket.
func (s *Socket) Close() error { return s.conn.Close() }
