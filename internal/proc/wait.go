package proc

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfo is what waitid(2) fills in for SIGCHLD on 64-bit Linux
// (asm-generic/siginfo.h); unix.Siginfo has no names for it.
type siginfo struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	uid                uint32
	status             int32
	_                  [100]byte
}

// The codes of SIGCHLD (asm-generic/siginfo.h).
const (
	cldExited = 1
	cldDumped = 3
)

// reap collects a child of the caller that has ended. child is false when the
// process is not one; the exit is unknown when it has not ended.
func reap(fd int) (exit Exit, child bool, err error) {
	var info siginfo
	for {
		err = unix.Waitid(unix.P_PIDFD, fd, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG, nil) //nolint:gosec // As waitid(2) wants it.
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ECHILD):
		return Exit{}, false, nil
	case err != nil:
		return Exit{}, true, os.NewSyscallError("waitid", err)
	case info.pid == 0:
		return Exit{}, true, nil
	default:
		return ExitBy(info.code, info.status), true, nil
	}
}

// ExitBy is what a code and a status of SIGCHLD say (sigaction(2)); nothing where there is no code.
func ExitBy(code, status int32) Exit {
	switch code {
	case 0:
		return Exit{}
	case cldExited:
		return Exit{Known: true, Code: int(status)}
	default:
		return Exit{Known: true, Signal: SignalName(syscall.Signal(status)), CoreDumped: code == cldDumped}
	}
}

// exitInfo asks the kernel for the status of a process that has been reaped by
// its parent, which Linux 6.15 keeps as long as somebody holds a pidfd.
func exitInfo(fd int) Exit {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(fd, &info); err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return Exit{}
	}
	return exitOf(syscall.WaitStatus(info.Exit_code)) //nolint:gosec // A wait status is 16 bits.
}

// ReapOthers collects the children of the caller that have ended and that nobody waits for, but for
// the one with a pid. Others learn how they have ended only when they are collected.
func ReapOthers(pid int) error {
	for {
		var info siginfo
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) //nolint:gosec // As waitid(2) wants it.
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil:
			return os.NewSyscallError("waitid", err)
		case info.pid == 0, int(info.pid) == pid:
			return nil
		}
		if _, err := unix.Wait4(int(info.pid), nil, unix.WNOHANG, nil); err != nil && !errors.Is(err, unix.ECHILD) && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("wait4", err)
		}
	}
}
