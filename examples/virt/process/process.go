// Package process waits for the end of processes that are no children.
//
// A Process is the process that had the pid when it was opened, whatever has
// the pid later. Processes are independent of each other.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone is the kind of the error about a pid that no process has.
const ErrGone = unix.ESRCH

// Process is a handle of a process.
type Process struct {
	pid  int
	file *os.File
}

// Open returns a handle of the process that has the pid now. The error is
// ErrGone if there is none.
func Open(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	return &Process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Wait returns when the process has ended. It blocks in the runtime's poller:
// a pidfd is readable from then on.
func (p *Process) Wait(ctx context.Context) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	stop := context.AfterFunc(ctx, func() { p.file.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck // A closed handle needs no deadline.
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) //nolint:gosec // A descriptor fits.
		return err == nil && ready == 1
	})
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, errors.Join(err, context.Cause(ctx)))
	}
	return nil
}

// Close lets go of the handle.
func (p *Process) Close() error { return p.file.Close() }
