package mount

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// procmapQuery is struct procmap_query of linux/fs.h (Linux 6.11).
type procmapQuery struct {
	size, flags, addr  uint64
	start, end         uint64
	_, _, _, _         uint64
	devMajor, devMinor uint32
	_, _               uint32
	_, _               uint64
}

const (
	procmapAsk = 0xc0686611
	// procmapFiles is PROCMAP_QUERY_COVERING_OR_NEXT_VMA and PROCMAP_QUERY_FILE_BACKED_VMA.
	procmapFiles = 0x30
)

// askMaps tells of the device of each file that the process has mapped whose maps are open, without the kernel writing
// out all paths, which is most of what it costs to read them. It is unix.ENOTTY where the kernel cannot be asked.
func askMaps(fd int, tell func(Dev)) error {
	ask := procmapQuery{size: uint64(unsafe.Sizeof(procmapQuery{})), flags: procmapFiles}
	for {
		_, _, failed := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), procmapAsk, uintptr(unsafe.Pointer(&ask))) //nolint:gosec // As ioctl(2) wants it.
		if failed == unix.ENOENT {                                                                           // There is no other.
			return nil
		}
		if failed != 0 {
			return failed
		}
		tell(Dev{ask.devMajor, ask.devMinor})
		ask.addr = ask.end
	}
}
