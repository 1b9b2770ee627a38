// Package proc sees which processes live in which group, since when, from
// which revision, and when they end. A group is a directory of control groups
// version 2; a process is a pid together with its start time, or a pidfd, and
// never a pid alone.
//
// What always holds: nothing here polls. The end of a process comes from its
// pidfd, the emptiness of a group from its cgroup.events file. A group that
// has been killed once is never used again (the kernel kills whoever is born
// into it by CLONE_INTO_CGROUP), which is why Hierarchy.Create refuses
// directories that exist.
//
// Everything may be called concurrently. Handles and watches cost a
// descriptor and at most one parked goroutine, never a thread.
package proc

import "errors"

// Errors that callers tell apart.
var (
	// ErrGone is that the process has ended, or that its pid is another
	// process's by now.
	ErrGone = errors.New("process is gone")
	// ErrNoGroup is that a control group does not exist, or no longer.
	ErrNoGroup = errors.New("control group is gone")
	// ErrPopulated is that a control group cannot be removed because it, or a
	// group below it, has a living process.
	ErrPopulated = errors.New("control group has processes")
	// ErrNoAttr is that a group has no attribute of that name.
	ErrNoAttr = errors.New("no such attribute")
	// ErrUnsupported is that the host has no control groups version 2.
	ErrUnsupported = errors.New("no cgroup2 file system is mounted")
	// ErrNoBirths is that the kernel does not tell us of the births of processes.
	ErrNoBirths = errors.New("the kernel does not tell us of them")
)
