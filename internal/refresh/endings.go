package refresh

import (
	"context"
	"sync"

	"tenure"
	"tenure/internal/proc"
)

// endings waits for the ends of processes that nobody supervises.
type endings struct {
	mu      sync.Mutex
	watched map[tenure.Process]bool
}

// watch calls then once when process has ended, or soon if it is gone already.
// Watching a process again while it is watched changes nothing.
func (e *endings) watch(ctx context.Context, process tenure.Process, then func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watched[process] {
		return
	}
	if e.watched == nil {
		e.watched = make(map[tenure.Process]bool)
	}
	e.watched[process] = true
	go func() {
		if handle, err := proc.Open(process); err == nil {
			_, _ = handle.Wait(ctx) // However it ended, it has ended.
			handle.Close()
		}
		e.mu.Lock()
		delete(e.watched, process)
		e.mu.Unlock()
		then()
	}()
}
