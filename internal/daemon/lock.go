package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/refresh"
)

// ErrRunning is that there is a daemon for the root already.
var ErrRunning = errors.New("another tenured is running on this root")

// helperMark stands behind the process in the file of the lock while that is no daemon but ends one unit (StopUnit):
// who takes that for as long as the unit does gives the lock back when it is told to.
const helperMark = "helper"

// lockWidth is how much is in the file of a lock: more than a process and a mark.
const lockWidth = 30

// takeRoot is lockRoot for a daemon. A helper that has the lock is told to give it back, and waited for; so is what is left
// of a daemon that was killed while it was being replaced.
func takeRoot(ctx context.Context, paths refresh.Paths) (*os.File, error) {
	var told tenure.Process
	for {
		lock, err := lockRoot(paths, "")
		if !errors.Is(err, ErrRunning) {
			return lock, err
		}
		helper, findErr := tellHelper(paths, told)
		if errors.Is(findErr, errDaemon) {
			return nil, err
		}
		if findErr != nil {
			return nil, errors.Join(err, findErr)
		}
		told = helper
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		}
	}
}

// seizeRoot is takeRoot for who ends the daemon of a root, if there is one, and whoever takes its place meanwhile: the guard of an
// upgrade has the root, and is nobody yet, when the program that it has guarded is gone.
func seizeRoot(ctx context.Context, paths refresh.Paths) (*os.File, error) {
	for {
		if err := endDaemon(ctx, paths); err != nil {
			return nil, err
		}
		lock, err := takeRoot(ctx, paths)
		if !errors.Is(err, ErrRunning) || ctx.Err() != nil {
			return lock, err
		}
	}
}

// errDaemon is that it is a daemon that has a lock.
var errDaemon = errors.New("it is no helper")

// tellHelper tells the helper that has the lock of a root to give it back, unless it has been told. It returns an
// error where that is no helper; who has just taken the lock, or given it back, is nobody yet.
func tellHelper(paths refresh.Paths, told tenure.Process) (tenure.Process, error) {
	lock, err := os.Open(lockPath(paths))
	if err != nil {
		return told, fmt.Errorf("look at the lock: %w", err)
	}
	defer lock.Close() //nolint:errcheck // Only looked at.
	handle, err := openOwner(lock)
	if err != nil || handle == nil {
		return told, err
	}
	defer handle.Close()
	text, err := io.ReadAll(lock)
	if err != nil {
		return told, fmt.Errorf("look at the lock: %w", err)
	}
	switch words := strings.Fields(string(text)); {
	case len(words) == 0 || words[0] != strconv.Itoa(handle.Process().PID):
		return told, nil // It is about to say who it is.
	case len(words) != 2 || words[1] != helperMark:
		return told, errDaemon
	case handle.Process() == told:
		return told, nil
	}
	if err := handle.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, proc.ErrGone) {
		return told, fmt.Errorf("tell who has the lock: %w", err)
	}
	return handle.Process(), nil
}

func lockPath(paths refresh.Paths) string { return filepath.Join(paths.Run(), "lock") }

// lockRoot makes this process the only daemon of a root, or the helper in its place, until the file is closed.
func lockRoot(paths refresh.Paths, mark string) (*os.File, error) {
	path := lockPath(paths)
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
	// Only who has that one tries: nobody has this one for a moment, or for as long as it is frozen, while another has the root.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // A descriptor.
		defer lock.Close() //nolint:errcheck // It was only looked at.
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, fmt.Errorf("%w (process %d)", ErrRunning, owner(lock))
	}
	if err := sign(lock, mark); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	release(lock)
	return lock, nil
}

// sign says in the file of a lock who has it. It is written over what is there, which takes no room on a disk that is full.
func sign(lock *os.File, mark string) error {
	text := fmt.Sprintf("%-*s\n", lockWidth, fmt.Sprint(os.Getpid(), " ", mark))
	if _, err := lock.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return nil
}

// inheritRoot makes this process the daemon of a root that is held for it. Others may try to have the root, each for a moment.
func inheritRoot(ctx context.Context, lock *os.File) error {
	for {
		err := syscall.FcntlFlock(lock.Fd(), syscall.F_SETLK, whole())
		switch {
		case err == nil:
			return sign(lock, "")
		case !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES):
			return fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// hold keeps everybody else from a root whose lock this process has until release, also when the process ends: for as long as
// any process has the file, to which the daemon passes it. Others have hold of it for a moment.
func hold(lock *os.File) error {
	for {
		err := syscall.Flock(descriptorOf(lock), syscall.LOCK_EX)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("hold the lock: %w", err)
		}
	}
}

// release ends hold, for all who have the file.
func release(lock *os.File) { _ = syscall.Flock(descriptorOf(lock), syscall.LOCK_UN) } // It cannot fail for an open file.

// checkShared refuses a rehearsal that is not the child of the daemon, which holds the root for it.
func checkShared(paths refresh.Paths) error {
	lock, err := os.Open(lockPath(paths))
	if err != nil {
		return fmt.Errorf("look at the lock: %w", err)
	}
	defer lock.Close() //nolint:errcheck // Only looked at.
	switch daemon := owner(lock); daemon {
	case os.Getppid():
		return nil
	case 0:
		return errNotShared
	default:
		return fmt.Errorf("%w (process %d)", ErrRunning, daemon)
	}
}

// errNotShared is that a rehearsal has no root that is held for it: older programs give it up before.
var errNotShared = errors.New("nobody holds the root")

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

// openOwner is the process that has a lock; nil if none has.
func openOwner(lock *os.File) (*proc.Handle, error) {
	info, err := proc.Read(owner(lock))
	if errors.Is(err, proc.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find who has the lock: %w", err)
	}
	handle, err := proc.Open(info.Process)
	if errors.Is(err, proc.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find who has the lock: %w", err)
	}
	// Only now it is certain that the pid is still that of whoever has the lock.
	if owner(lock) != info.PID {
		handle.Close()
		return nil, nil
	}
	return handle, nil
}

// endDaemon ends the daemon of a root, if there is one, and waits for its end.
func endDaemon(ctx context.Context, paths refresh.Paths) error {
	// A helper is told, and waited for, by takeRoot.
	if _, err := tellHelper(paths, tenure.Process{}); !errors.Is(err, errDaemon) {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	}
	lock, err := os.Open(lockPath(paths))
	if err != nil {
		return fmt.Errorf("end the daemon: %w", err)
	}
	defer lock.Close() //nolint:errcheck // Only looked at.
	owner, err := openOwner(lock)
	if err != nil || owner == nil {
		return err
	}
	defer owner.Close()
	if err := owner.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, proc.ErrGone) {
		return fmt.Errorf("end the daemon: %w", err)
	}
	if _, err := owner.Wait(ctx); err != nil {
		return fmt.Errorf("wait for the end of the daemon: %w", err)
	}
	return nil
}
