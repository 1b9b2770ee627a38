package clock_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"tenure/internal/clock"
)

func TestWait(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{-24 * 365 * 60 * time.Hour, -time.Second, 0, 30 * time.Millisecond} {
		until := time.Now().Add(after)
		if err := clock.Wait(t.Context(), until); err != nil || time.Now().Round(0).Before(until.Round(0)) {
			t.Errorf("%s: %v at %s, waited for %s", after, err, time.Now(), until)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() { ended <- clock.Wait(ctx, time.Now().Add(time.Hour)) }()
	cancel(why)
	if err := <-ended; !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}
