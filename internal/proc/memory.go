package proc

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Memory makes a file in the memory of this process, which nobody else finds or takes the room of. The name is for people
// who look at what is open. It is the caller's to close, and is not passed to children by itself.
func Memory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", os.NewSyscallError("memfd_create", err))
	}
	return os.NewFile(uintptr(fd), name), nil //nolint:gosec // A descriptor.
}
