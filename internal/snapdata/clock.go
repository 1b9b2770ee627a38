package snapdata

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// clocks tell when a pass began, and later whether the wall clock has been set
// since: then times of change compare to nothing.
type clocks struct {
	now, offset int64
	boot        string
}

func readClocks() (clocks, error) {
	var wall, boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &wall); err != nil {
		return clocks{}, fmt.Errorf("read the wall clock: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return clocks{}, fmt.Errorf("read the clock since boot: %w", err)
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return clocks{}, err
	}
	return clocks{now: wall.Nano(), offset: wall.Nano() - boot.Nano(), boot: strings.TrimSpace(string(id))}, nil
}

// keepsTimes tells whether the file system of fd notes the time of every
// change, by stores through shared mappings too as long as those were made
// after the last write-back. tmpfs does not, others are not known to.
func keepsTimes(fd int) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false, fmt.Errorf("ask for the kind of file system: %w", err)
	}
	const bcachefs = 0xca451a4e
	switch uint32(st.Type) { //nolint:gosec // The magic numbers are 32 bits.
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, bcachefs:
		return true, nil
	default:
		return false, nil
	}
}
