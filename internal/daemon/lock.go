package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"tenure/internal/proc"
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
		return nil, fmt.Errorf("%w (process %d)", ErrRunning, owner(lock))
	}
	if err := lock.Truncate(0); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if _, err := fmt.Fprintf(lock, "%d\n", os.Getpid()); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return lock, nil
}

// owner is the process that has written itself into a lock; 0 if none has.
func owner(lock *os.File) int {
	text := make([]byte, 16)
	n, _ := lock.ReadAt(text, 0) // It may be shorter.
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	return pid
}

// endDaemon ends the daemon of a root, if there is one, and waits for its end.
func endDaemon(ctx context.Context, paths refresh.Paths) error {
	lock, err := os.Open(filepath.Join(paths.Run(), "lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the daemon: %w", err)
	}
	defer lock.Close() //nolint:errcheck // Only looked at.
	info, err := proc.Read(owner(lock))
	if err != nil {
		return nil // Its process has ended.
	}
	daemon, err := proc.Open(info.Process)
	if err != nil {
		return nil // Its process has ended.
	}
	defer daemon.Close()
	// Only now it is certain that the pid is still that of whoever has the lock.
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil || owner(lock) != info.PID {
		return nil
	}
	if err := daemon.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, proc.ErrGone) {
		return fmt.Errorf("end the daemon: %w", err)
	}
	if _, err := daemon.Wait(ctx); err != nil {
		return fmt.Errorf("wait for the end of the daemon: %w", err)
	}
	return nil
}
