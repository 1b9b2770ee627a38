package squash

import (
	"fmt"
	"os/exec"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// starter starts children, all on one thread, which is good for nothing else: it has no_new_privs, which they inherit, and lives in a
// network namespace with nothing in it, not even a loopback that is up. That belongs to none of them, so that none has a right in it; to
// make one for each would take 2 ms of a processor, and as much to take it down. A thread for each that is thrown away afterwards would be one of those
// that the daemon keeps for when the machine is out of processes. The zero value is ready for use.
type starter struct {
	once  sync.Once
	calls chan func()
	// empty is that the thread has left the network, and failed that it has no_new_privs not.
	empty  bool
	failed error
}

// begin sees to it that there is the thread.
func (s *starter) begin() {
	s.once.Do(func() {
		s.calls = make(chan func())
		ready := make(chan struct{})
		go s.serve(ready)
		<-ready
	})
}

// serve is the life of the thread. The first one of the process is none for it: what /proc says of the daemon is what it says of that.
func (s *starter) serve(ready chan struct{}) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		go s.serve(ready) // On another one, while this is locked.
		<-ready
		runtime.UnlockOSThread()
		return
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		s.failed = fmt.Errorf("set no_new_privs: %w", err)
	}
	s.empty = unix.Unshare(unix.CLONE_NEWNET) == nil
	close(ready)
	for f := range s.calls {
		f()
	}
}

// nowhere reports whether children begin in the empty network.
func (s *starter) nowhere() bool {
	s.begin()
	return s.empty
}

// start starts cmd on the thread.
func (s *starter) start(cmd *exec.Cmd) error {
	if s.begin(); s.failed != nil {
		return s.failed
	}
	started := make(chan error)
	s.calls <- func() { started <- cmd.Start() }
	return <-started
}
