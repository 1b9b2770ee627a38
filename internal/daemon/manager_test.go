package daemon

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tenure/internal/change"
)

func TestSignsOfLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		signs := 0
		answers := make(chan struct{}, 1)
		answers <- struct{}{}
		go Manager{Watchdog: time.Minute}.tellAlive(ctx, func() { signs++ }, func(ctx context.Context) error {
			select {
			case held := <-answers:
				answers <- held
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		for _, step := range []struct {
			what string
			do   func()
			want int
		}{
			{"at first", func() {}, 1},
			{"in three minutes", func() { <-time.After(3*time.Minute + time.Second) }, 7},
			{"while somebody hangs", func() { <-answers; <-time.After(time.Hour) }, 7},
			{"when that is over, and a sign is due", func() { answers <- struct{}{} }, 9},
			{"after the end", func() { cancel(); <-time.After(time.Hour) }, 9},
		} {
			step.do()
			synctest.Wait()
			if signs != step.want {
				t.Errorf("%s: %d signs of life, want %d", step.what, signs, step.want)
			}
		}
	})
}

func TestAManagerWithoutWatchdogGetsNoSigns(t *testing.T) {
	t.Parallel()
	Manager{}.tellAlive(t.Context(), func() { t.Error("a sign of life") })
}

func TestStatus(t *testing.T) {
	t.Parallel()
	for want, changes := range map[string]map[change.ID]string{
		"Idle.":                      {},
		"Change 7: Refresh hello":    {7: "Refresh hello"},
		"2 changes are in progress.": {7: "Refresh hello", 8: "Install virt"},
	} {
		if got := status(changes); got != want {
			t.Errorf("%v: %q, want %q", changes, got, want)
		}
	}
}
