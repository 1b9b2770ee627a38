package proc

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// KeepThreads makes n threads beside those that the program has, and returns when they are
// there: they wait until they are needed. Go ends a program that needs one more and does
// not get it, because the machine, or a control group, is out of processes.
func KeepThreads(n int) {
	var all sync.WaitGroup
	all.Add(n)
	release := make(chan struct{})
	for range n {
		go func() {
			// Each has a thread of its own for as long as all of them wait.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			all.Done()
			<-release
		}()
	}
	all.Wait()
	close(release)
}

// CanFork reports by nil that there is room for one more process. It forks one, which
// ends at once.
func CanFork() error {
	_, err := syscall.ForkExec("", []string{""}, nil)
	if errors.Is(err, unix.ENOENT) {
		return nil // It has been there, and had nothing to execute.
	}
	return fmt.Errorf("fork: %w", err)
}
