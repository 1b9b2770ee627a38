package daemon

import (
	"context"
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"
)

// Who hears no more has heard all that came before: what comes then ends the process, or is heard again.
func TestDeafen(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // A signal to a thread itself has come when it is sent.
	defer runtime.UnlockOSThread()
	for range 100 {
		ctx, told := Hear(t.Context(), syscall.SIGUSR2) // Of this test alone.
		for range 2 {
			if err := ctx.Err(); err != nil {
				t.Fatalf("it was told to end: %v", err)
			}
			told.deafen()()
		}
		err := syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGUSR2)
		hear := told.deafen()
		if err != nil || !errors.Is(ctx.Err(), context.Canceled) {
			t.Fatalf("it was not told to end: %v, %v", err, ctx.Err())
		}
		hear()
		told.deafen() // Nobody sends any more.
	}
}
