// Package clock tells when the clock on the wall has come to a time.
//
// What always holds: who waits for a time hears of it when the clock says that it has
// come, also if the clock was set meanwhile or the machine has slept. Nothing is
// polled: the kernel keeps the timer (timerfd_create(2)).
//
// Any number of goroutines may wait at the same time.
package clock

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Wait waits until the clock has come to a time. It returns earlier when the clock was
// set, so that who waits looks again what time it is, and when ctx ends, with its
// cause.
func Wait(ctx context.Context, until time.Time) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("wait for %s: %w", until, err)
	}
	timer := os.NewFile(uintptr(fd), "timer") //nolint:gosec // An open descriptor.
	defer timer.Close()                       //nolint:errcheck // Nothing is written to it.
	if !until.After(time.Unix(0, 0)) {
		until = time.Unix(0, 1) // Zero would disarm the timer.
	}
	at, err := unix.TimeToTimespec(until)
	if err != nil {
		return fmt.Errorf("wait for %s: %w", until, err)
	}
	spec := unix.ItimerSpec{Value: at}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &spec, nil); err != nil {
		return fmt.Errorf("wait for %s: %w", until, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = timer.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// It fails with ECANCELED when the clock was set.
	if _, err := timer.Read(make([]byte, 8)); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
