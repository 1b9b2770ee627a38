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
	watched map[watched]bool
	// looks are the times between looks. What is not waited for any more keeps its entry, which is small, unless it is
	// a process that has ended.
	looks map[watched]time.Duration
}

// watched is a process or, if nobody is seen who uses it, a revision.
type watched struct {
	process tenure.Process
	ref     tenure.Ref
}

// watch calls then once, when process has ended or it is time to look at it again.
// Watching a process again while it is watched changes nothing.
func (e *endings) watch(ctx context.Context, process tenure.Process, then func()) {
	e.begin(watched{process: process}, then, func(look time.Duration) bool { return ended(ctx, process, look) })
}

// look calls then once, when it is time to look again whether a revision is used.
func (e *endings) look(ctx context.Context, ref tenure.Ref, then func()) {
	e.begin(watched{ref: ref}, then, func(look time.Duration) bool {
		select {
		case <-time.After(look):
		case <-ctx.Done():
		}
		return false
	})
}

// begin calls then when wait, which has a time, is over, unless the same is waited for already.
func (e *endings) begin(what watched, then func(), wait func(look time.Duration) (ended bool)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watched[what] {
		return
	}
	if e.watched == nil {
		e.watched, e.looks = make(map[watched]bool), make(map[watched]time.Duration)
	}
	e.watched[what] = true
	look := max(firstLook, e.looks[what])
	e.looks[what] = min(2*look, lastLook)
	go func() {
		ended := wait(look)
		e.mu.Lock()
		delete(e.watched, what)
		if ended {
			delete(e.looks, what)
		}
		e.mu.Unlock()
		then()
	}()
}

// ended reports whether process ends before it is time to look again.
func ended(ctx context.Context, process tenure.Process, look time.Duration) bool {
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
