package refresh

import (
	"errors"
	"fmt"
	"syscall"

	"tenure/internal/mount"
)

// Advised is err with what to do about it, where it is of the machine's storage: in one place, for
// such errors come from anywhere. Any other error is returned as it is.
func Advised(err error) error {
	if err == nil {
		return nil
	}
	if refused, ok := errors.AsType[*Error](err); ok && refused.Hint != "" {
		return err
	}
	if advice := advice(err); advice != "" {
		return &relabelled{err: err, text: fmt.Sprintf("%v; %s", err, advice)}
	}
	return err
}

func advice(err error) string {
	switch {
	case errors.Is(err, mount.ErrNoLoop):
		return "in a container, give it /dev/loop-control and the devices of loop (tenure uses one for each revision), or remove snaps that are not needed"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room: remove snaps (tenure remove) or saved data (tenure saved, tenure forget), or other files, and ask again"
	case errors.Is(err, syscall.EROFS):
		return "the file system is read-only, as the kernel makes it after an error: see dmesg, check it, mount it for writing, and ask again"
	case errors.Is(err, syscall.EIO):
		return "the disk cannot be read or written there: see dmesg and check it"
	}
	return ""
}
