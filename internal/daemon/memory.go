package daemon

import (
	"context"
	"runtime/debug"
	"time"

	"tenure/internal/change"
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
		case <-ctx.Done():
			return
		}
	}
}
