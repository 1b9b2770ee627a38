package native

import (
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

// parseSignal reads a name like "SIGTERM".
func parseSignal(name string) (syscall.Signal, error) {
	if number := proc.SignalNumber(name); number != 0 {
		return number, nil
	}
	return 0, fmt.Errorf("there is no signal %q", name)
}

func now() time.Time { return time.Now() }
