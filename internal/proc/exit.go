package proc

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exit is how a process ended.
type Exit struct {
	// Known is unset when nobody kept the status: the process was not a child
	// and the kernel is older than 6.15, or it ended while nobody looked.
	Known bool `json:"known"`
	// Code is the exit status, when Signal is empty.
	Code int `json:"code"`
	// Signal is the name of the signal that ended it, like "SIGKILL".
	Signal     string `json:"signal,omitempty"`
	CoreDumped bool   `json:"core_dumped,omitempty"`
}

// Success reports whether the process is known to have exited with 0.
func (e Exit) Success() bool { return e.Known && e.Signal == "" && e.Code == 0 }

// String is the end of a sentence about a process: "exit status 1", "killed by
// SIGKILL", "ended (status unknown)".
func (e Exit) String() string {
	switch {
	case !e.Known:
		return "ended (status unknown)"
	case e.Signal != "" && e.CoreDumped:
		return "killed by " + e.Signal + " (core dumped)"
	case e.Signal != "":
		return "killed by " + e.Signal
	default:
		return fmt.Sprintf("exit status %d", e.Code)
	}
}

// exitOf reads a status in the form of wait(2).
func exitOf(status syscall.WaitStatus) Exit {
	if status.Signaled() {
		return Exit{Known: true, Signal: SignalName(status.Signal()), CoreDumped: status.CoreDump()}
	}
	return Exit{Known: true, Code: status.ExitStatus()}
}

// firstRealtime is SIGRTMIN as the C library has it: the kernel's first two
// are its own.
const firstRealtime = 34

// SignalNumber is the signal that SignalName calls so, of those that the kernel has names
// for; 0 for others.
func SignalNumber(name string) syscall.Signal { return unix.SignalNum(name) }

// SignalName is the name that kill(1) knows: "SIGTERM", "SIGRTMIN+3".
func SignalName(signal syscall.Signal) string {
	if name := unix.SignalName(signal); name != "" {
		return name
	}
	if signal >= firstRealtime {
		return fmt.Sprintf("SIGRTMIN+%d", int(signal)-firstRealtime)
	}
	return fmt.Sprintf("SIG%d", int(signal))
}
