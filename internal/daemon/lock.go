package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	// A lock of the process and not of the file: what the daemon is about to start
	// when it is killed has its files for a moment longer, but not this.
	if err := syscall.FcntlFlock(lock.Fd(), syscall.F_SETLK, whole()); err != nil {
		defer lock.Close() //nolint:errcheck // It was only looked at.
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES) {
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

// whole is a lock of a whole file for writing.
func whole() *syscall.Flock_t { return &syscall.Flock_t{Type: syscall.F_WRLCK} }

// owner is the process that has a lock; 0 if none has.
func owner(lock *os.File) int {
	held := whole()
	if err := syscall.FcntlFlock(lock.Fd(), syscall.F_GETLK, held); err != nil || held.Type == syscall.F_UNLCK {
		return 0
	}
	return int(held.Pid)
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
	if owner(lock) != info.PID {
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
