package sandbox

import (
	"fmt"
	"math"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Disinherit keeps what the calling process was started with, by whatever shell or
// manager, from what it starts: open descriptors, ignored signals, a mask for the
// files that it makes. Every unit starts alike, however the daemon did.
func Disinherit() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep open files from units: %w", err)
	}
	unix.Umask(0o022)
	// Of all signals, Go leaves only these two ignored, and exec keeps them so. One
	// that is caught is as good as ignored here, and is not for what is executed.
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	return nil
}
