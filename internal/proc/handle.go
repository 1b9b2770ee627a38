package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"tenure"
)

// Handle is a hold on one process: its pid may be given away, the handle stays
// with it. Who holds one from before the end learns the exit status, also of a
// process that is not a child (Linux 6.15).
type Handle struct {
	process tenure.Process
	// pidfd is non-blocking and thereby in the runtime's poller.
	pidfd *os.File

	watched atomic.Bool
	ended   chan struct{}
	// exit and err may be read when ended is closed.
	exit Exit
	err  error
}

// Open takes hold of a process. One that has ended, or whose pid is another
// process's by now, is an error of kind ErrGone.
func Open(p tenure.Process) (*Handle, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		// EINVAL is a thread, or a process whose first thread is already reaped.
		if errors.Is(err, unix.EINVAL) {
			err = unix.ESRCH
		}
		return nil, fmt.Errorf("open process %d: %w", p.PID, goneProcess(err))
	}
	h := newHandle(p, fd)
	// Only now, for the descriptor is of whoever had the pid just before; had
	// it been a predecessor of p, the caller could not have known p yet.
	start, err := startOf(p.PID)
	if err == nil && start != p.Start {
		err = fmt.Errorf("%w: the pid is another process's", ErrGone)
	}
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open process %d: %w", p.PID, goneProcess(err))
	}
	return h, nil
}

// OpenPID takes hold of whoever has a pid now. That it is the process that was meant is
// for the caller to see when it has hold of it.
func OpenPID(pid int) (*Handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		if errors.Is(err, unix.EINVAL) { // As in Open.
			err = unix.ESRCH
		}
		return nil, fmt.Errorf("open process %d: %w", pid, goneProcess(err))
	}
	return FromPIDFD(os.NewFile(uintptr(fd), "pidfd of "+strconv.Itoa(pid))) //nolint:gosec // An open descriptor.
}

// FromPIDFD takes hold of the process that a pidfd is of: usually a child that
// was just forked, which its zombie keeps from being gone. It takes over pidfd in any case.
func FromPIDFD(pidfd *os.File) (*Handle, error) {
	defer pidfd.Close() //nolint:errcheck // The duplicate is what counts.
	fd, pid := -1, 0
	err := control(pidfd, func(old int) (err error) {
		if pid, err = pidOf(old); err != nil {
			return err
		}
		fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("take pidfd: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("take pidfd of process %d: %w", pid, err)
	}
	h := newHandle(tenure.Process{PID: pid}, fd)
	h.process.Start, err = startOf(pid)
	if err == nil {
		// Alive or a zombie after its start time was read: it was its own.
		err = h.Signal(0)
	}
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("take pidfd of process %d: %w", pid, goneProcess(err))
	}
	return h, nil
}

func newHandle(p tenure.Process, fd int) *Handle {
	return &Handle{
		process: p,
		pidfd:   os.NewFile(uintptr(fd), "pidfd of "+strconv.Itoa(p.PID)), //nolint:gosec // An open descriptor.
		ended:   make(chan struct{}),
	}
}

// pidOf reads the pid of a pidfd from where every kernel has it.
func pidOf(fd int) (int, error) {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(value))
			if err == nil && pid <= 0 {
				err = ErrGone
			}
			return pid, err
		}
	}
	return 0, fmt.Errorf("not a pidfd: %w", unix.EBADF)
}

func startOf(pid int) (start uint64, err error) {
	err = readAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/stat", maxStat, func(text []byte) error {
		s, err := parseStat(string(text))
		start = s.start
		return err
	})
	return start, err
}

// Process is the process, whether or not it still lives.
func (h *Handle) Process() tenure.Process { return h.process }

// Signal sends a signal to the process and to nobody else. One that has been
// reaped is an error of kind ErrGone; a zombie takes it without effect.
func (h *Handle) Signal(signal syscall.Signal) error {
	err := control(h.pidfd, func(fd int) error { return unix.PidfdSendSignal(fd, signal, nil, 0) })
	if err != nil {
		return fmt.Errorf("send %s to process %d: %w", SignalName(signal), h.process.PID, goneProcess(err))
	}
	return nil
}

// MountNamespace opens the mount namespace of the process, which goes on to exist as
// long as that is open (Linux 6.11).
func (h *Handle) MountNamespace() (*os.File, error) {
	opened := -1
	err := control(h.pidfd, func(fd int) (err error) {
		opened, err = unix.IoctlRetInt(fd, unix.PIDFD_GET_MNT_NAMESPACE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("mount namespace of process %d: %w", h.process.PID, goneProcess(err))
	}
	return os.NewFile(uintptr(opened), "mount namespace of "+strconv.Itoa(h.process.PID)), nil //nolint:gosec // An open descriptor.
}

// Wait returns how the process ended, when it has. A child of the caller
// is reaped. It may be called at any time, by any number of callers, and again;
// a ctx that is done ends the call and nothing else.
func (h *Handle) Wait(ctx context.Context) (Exit, error) {
	if h.watched.CompareAndSwap(false, true) {
		go h.watch()
	}
	select {
	case <-h.ended:
		return h.exit, h.err
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
}

// Stay is Wait for who has a goroutine for that alone: it ends with the process, or with Close.
func (h *Handle) Stay() (Exit, error) {
	if h.watched.CompareAndSwap(false, true) {
		h.watch()
	}
	<-h.ended
	return h.exit, h.err
}

func (h *Handle) watch() {
	defer close(h.ended)
	h.exit, h.err = h.await()
}

// Ended reports whether the last thread of the process has ended, whether or not its
// parent has reaped it.
func (h *Handle) Ended() (bool, error) {
	var events int16
	err := control(h.pidfd, func(fd int) (err error) {
		events, err = edges(fd)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("see process %d: %w", h.process.PID, err)
	}
	return events != 0, nil
}

// edges are those that a pidfd has come to by now; see await.
func edges(fd int) (events int16, err error) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // A descriptor fits.
	for {
		_, err = unix.Poll(poll, 0)
		if !errors.Is(err, unix.EINTR) {
			return poll[0].Revents, err
		}
	}
}

// Close lets go of the process. A Wait that is under way fails with os.ErrClosed.
func (h *Handle) Close() {
	_ = h.pidfd.Close()
}

// await parks in the runtime's poller until the process has ended and its
// status is had.
//
// A pidfd has two edges, and the poller, which is edge-triggered, sees both:
// POLLIN when the last thread has ended and the process is a zombie, and
// POLLHUP when its parent has reaped it.
func (h *Handle) await() (Exit, error) {
	raw, err := h.pidfd.SyscallConn()
	if err != nil {
		return Exit{}, fmt.Errorf("wait for process %d: %w", h.process.PID, err)
	}
	var exit Exit
	var inner error
	err = raw.Read(func(fd uintptr) (done bool) {
		exit, done, inner = h.look(int(fd))
		return done || inner != nil
	})
	if err != nil {
		// The poller has an error of its own for a descriptor that is closed
		// under it, which is the only one there is without a deadline.
		inner = os.ErrClosed
	}
	if inner != nil {
		err = inner
		return Exit{}, fmt.Errorf("wait for process %d: %w", h.process.PID, err)
	}
	return exit, nil
}

// look sees whether the process has ended and its status can be had by now.
func (h *Handle) look(fd int) (exit Exit, done bool, err error) {
	events, err := edges(fd)
	if err != nil || events == 0 {
		return Exit{}, false, err
	}
	if exit, child, err := reap(fd); child {
		return exit, exit.Known, err
	}
	if events&unix.POLLHUP != 0 {
		return exitInfo(fd), true, nil
	}
	// Somebody else's child: a zombie shows its status, and when that is not
	// for us to see, the kernel tells it as soon as the parent has reaped it.
	exit, done = h.zombie()
	return exit, done, nil
}

// zombie reads the status of a process that its parent has not reaped yet, who
// may never do so.
func (h *Handle) zombie() (exit Exit, ok bool) {
	dir := "/proc/" + strconv.Itoa(h.process.PID)
	text, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Exit{}, false
	}
	s, err := parseStat(string(text))
	if err != nil || !s.hasExit || s.start != h.process.Start || s.state != 'Z' {
		return Exit{}, false
	}
	// Who may not trace the process reads 0, as if it had ended well. The name
	// of its namespace is guarded by the same right, and is there to the end.
	if _, err := os.Readlink(dir + "/ns/user"); err != nil {
		return Exit{}, false
	}
	return exitOf(syscall.WaitStatus(s.exitCode)), true //nolint:gosec // A wait status is 16 bits.
}

// Descriptor is a copy of a descriptor that the process has open.
func (h *Handle) Descriptor(number int) (*os.File, error) {
	copied := -1
	err := control(h.pidfd, func(fd int) (err error) {
		copied, err = unix.PidfdGetfd(fd, number, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("copy descriptor %d of process %d: %w", number, h.process.PID, goneProcess(err))
	}
	return os.NewFile(uintptr(copied), fmt.Sprintf("descriptor %d of process %d", number, h.process.PID)), nil //nolint:gosec // An open descriptor.
}
