package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"tenure/internal/refresh"
)

// ErrRunning is that there is a daemon for the root already.
var ErrRunning = errors.New("another tenured is running on this root")

// lockRoot makes this process the only daemon of a root until the file is closed.
func lockRoot(paths refresh.Paths) (*os.File, error) {
	path := filepath.Join(paths.Run(), "lock")
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer lock.Close() //nolint:errcheck // It was only looked at.
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		pid := make([]byte, 16)
		n, _ := lock.Read(pid)
		return nil, fmt.Errorf("%w (process %s)", ErrRunning, strings.TrimSpace(string(pid[:n])))
	}
	if err := lock.Truncate(0); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if _, err := fmt.Fprintf(lock, "%d\n", os.Getpid()); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return lock, nil
}
