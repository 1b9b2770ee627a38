package daemon

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	"tenure/internal/change"
	"tenure/internal/proc"
)

// quiet is how long after the last change the memory that it took is given back
// to the system. Giving it back costs a collection, some milliseconds.
const quiet = 2 * time.Second

// giveBack gives memory back to the system after changes, which need several
// times what the daemon needs at rest.
func giveBack(ctx context.Context, engine *change.Engine) {
	// The start of the daemon is like a change: everything was read.
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	moved := make(chan struct{}, 1)
	go func() {
		for range engine.Subscribe(ctx, engine.Revision()) {
			select {
			case moved <- struct{}{}:
			default:
			}
		}
	}()
	for {
		select {
		case <-moved:
			timer.Reset(quiet)
		case <-timer.C:
			debug.FreeOSMemory()
			forget()
		case <-ctx.Done():
			return
		}
	}
}

const (
	// sparedAt is how much the heap grows in a gap, in percent of what is in use,
	// before it is collected: a gap needs less than what it gives beyond the usual.
	sparedAt = 100
	// sparedFor is how long a gap is spared. One that is longer waits for a service
	// that takes its time, and that a collection does not make wait longer.
	sparedFor = time.Second
)

// sparing keeps collections of the heap out of gaps. On a machine that is busy one
// takes longer than everything else that is done there: its threads spin while they
// wait for each other.
type sparing struct {
	mu sync.Mutex
	// timer runs while a gap is spared, and at is when the heap is collected otherwise.
	timer *time.Timer
	at    int
}

// gap is told when the first gap begins, and when the last one ends.
func (s *sparing) gap(begins bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !begins {
		s.end()
		return
	}
	// This waits for a collection that is under way.
	s.at = debug.SetGCPercent(sparedAt)
	var timer *time.Timer
	timer = time.AfterFunc(sparedFor, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.timer == timer {
			s.end()
		}
	})
	s.timer = timer
}

func (s *sparing) end() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
		debug.SetGCPercent(s.at)
	}
}

// forget lets go of the program's own pages: most of them are only for the start, when all
// that is linked makes itself ready, and what is needed comes back from the page cache in a
// fraction of a millisecond.
func forget() {
	_ = proc.ForgetProgram() // It only saves memory.
}
