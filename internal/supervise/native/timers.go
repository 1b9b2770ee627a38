package native

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"tenure/internal/proc"
	"tenure/internal/schedule"
)

// nextRun is when a timer of a unit goes off next.
func nextRun(timer string, after time.Time) (time.Time, error) {
	parsed, err := schedule.ParseTimer(timer)
	if err != nil {
		return time.Time{}, fmt.Errorf("timer %q: %w", timer, err)
	}
	return parsed.Next(after, uint64(after.UnixNano())), nil //nolint:gosec // Any bits will do for a choice.
}

// clockGlance is how often the clock is looked at where it cannot tell.
const clockGlance = 10 * time.Second

// awaitNext waits until the clock on the wall has come to the time at which the timer of the
// unit goes off.
func (u *unit) awaitNext() {
	u.stopTicking()
	next := u.rec.Next
	if next.IsZero() {
		return
	}
	ctx, cancel := context.WithCancel(u.s.life)
	u.ticking = cancel
	u.background(func(life context.Context) {
		defer cancel()
		for u.s.cfg.Now().Before(next) {
			err := u.s.cfg.Wait(ctx, next)
			if err != nil && ctx.Err() == nil {
				u.warn("the clock cannot tell when it is time; it is looked at again and again", err)
				select {
				case <-time.After(clockGlance):
				case <-ctx.Done():
				}
			}
			if ctx.Err() != nil {
				return
			}
		}
		_ = u.tell(life, func(ctx context.Context) {
			if u.rec.Next.Equal(next) {
				u.launchByItself(ctx)
			}
		})
	})
}

// unwind has the unit's own timer start it no more.
func (u *unit) unwind() {
	u.stopTicking()
	u.rec.Next = time.Time{}
}

// stopTicking ends the wait for the unit's own timer.
func (u *unit) stopTicking() {
	if u.ticking != nil {
		u.ticking()
		u.ticking = nil
	}
}

// parseSignal reads a name like "SIGTERM".
func parseSignal(name string) (syscall.Signal, error) {
	if number := proc.SignalNumber(name); number != 0 {
		return number, nil
	}
	return 0, fmt.Errorf("there is no signal %q", name)
}

func now() time.Time { return time.Now() }
