package refresh

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tenure/internal/supervise"
)

// cramped is a supervisor on a machine without room for processes until a time.
type cramped struct {
	supervise.Supervisor

	until time.Time
}

func (c cramped) Start(context.Context, ...supervise.Spec) error {
	if time.Now().Before(c.until) {
		return &supervise.StartError{Err: supervise.Short(syscall.EAGAIN)}
	}
	return nil
}

// An undo waits for room, and not for ever.
func TestAnUndoWaitsForRoom(t *testing.T) {
	t.Parallel()
	for wait, short := range map[time.Duration]bool{0: false, 5 * time.Minute: false, 24 * time.Hour: true} {
		synctest.Test(t, func(t *testing.T) {
			m := &Manager{cfg: Config{Supervisor: cramped{until: time.Now().Add(wait)}}}
			began := time.Now()
			err := m.startAgain(t.Context())
			if supervise.IsShort(err) != short || errors.Is(err, syscall.EAGAIN) != short {
				t.Errorf("without room for %s: %v", wait, err)
			}
			if took := time.Since(began); took > min(wait, roomPatience)+lastRoom {
				t.Errorf("without room for %s it took %s", wait, took)
			}
		})
	}
}
