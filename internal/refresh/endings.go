package refresh

import (
	"context"
	"sync"
	"time"

	"tenure"
	"tenure/internal/proc"
)

const (
	// firstLook is how soon it is seen whether a process still uses what it used; the
	// time doubles with every look, up to lastLook.
	firstLook = time.Second
	lastLook  = time.Minute
)

// endings waits until processes that nobody supervises use something no more. Of
// their ends the kernel tells. That one has closed a file, left a directory or
// dropped a mount of its namespace it does not, so that they are looked at again,
// less and less often.
type endings struct {
	mu      sync.Mutex
	watched map[tenure.Process]bool
	// looks are the times between looks. A process that lives on without using anything
	// keeps its entry, which is small.
	looks map[tenure.Process]time.Duration
}

// watch calls then once, when process has ended or it is time to look at it again.
// Watching a process again while it is watched changes nothing.
func (e *endings) watch(ctx context.Context, process tenure.Process, then func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watched[process] {
		return
	}
	if e.watched == nil {
		e.watched, e.looks = make(map[tenure.Process]bool), make(map[tenure.Process]time.Duration)
	}
	e.watched[process] = true
	look := max(firstLook, e.looks[process])
	e.looks[process] = min(2*look, lastLook)
	go func() {
		ended := e.ended(ctx, process, look)
		e.mu.Lock()
		delete(e.watched, process)
		if ended {
			delete(e.looks, process)
		}
		e.mu.Unlock()
		then()
	}()
}

// ended reports whether process ends before it is time to look again.
func (*endings) ended(ctx context.Context, process tenure.Process, look time.Duration) bool {
	handle, err := proc.Open(process)
	if err != nil {
		return true
	}
	defer handle.Close()
	ctx, cancel := context.WithTimeout(ctx, look)
	defer cancel()
	_, err = handle.Wait(ctx)
	return err == nil
}
