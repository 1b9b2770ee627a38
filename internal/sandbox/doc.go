// Package sandbox enters the namespaces and limits that a unit runs in.
//
// A Profile is plain data: it can be stored with the unit, printed, and
// compared. What a process was given when it started is never changed while it
// lives: every start makes a mount namespace of its own, which belongs to that
// unit alone and ends with it.
//
// There is no helper program. A thread of the daemon unshares its file system
// view and mount namespace, builds the new root, gives up its rights, forks
// the program and dies. The rest of the daemon never notices, and the mount
// table of the host is never touched.
//
// Any number of processes may be started at the same time.
package sandbox
