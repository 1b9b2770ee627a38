package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// How long an undo waits for room before it looks again.
const (
	firstRoom = 100 * time.Millisecond
	lastRoom  = 30 * time.Second
	// roomPatience is when it gives up: what the start lacks may be a limit of the unit's own, which nobody may ever raise.
	roomPatience = 10 * time.Minute
)

// startAgain starts for an undo what ran before. Where the machine has no room for a process it
// waits until there is: what ran is not to be lost for that. After roomPatience the change ends in error.
func (m *Manager) startAgain(ctx context.Context, specs ...supervise.Spec) error {
	over := time.Now().Add(roomPatience)
	for wait := firstRoom; ; wait = min(2*wait, lastRoom) {
		err := m.cfg.Supervisor.Start(ctx, specs...)
		if err == nil || !isShort(err) {
			return err
		}
		if !time.Now().Before(over) {
			return fmt.Errorf("no room in %s: %w", roomPatience, err)
		}
		if wait == firstRoom {
			change.ReporterFrom(ctx).Logf("%v; it is tried again until there is room", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// isShort reports whether a start has failed for want of room. Who has somebody else fork does
// not hear why that failed.
func isShort(err error) bool {
	if supervise.IsShort(err) {
		return true
	}
	_, failed := errors.AsType[*supervise.StartError](err)
	return failed && supervise.IsShort(supervise.Short(proc.CanFork()))
}
