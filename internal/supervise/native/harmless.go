package native

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// harmless reports whether a descriptor is known to be of what the kernel serves by itself, so that
// neither a look at it nor its end asks anybody else. Everything else is not: a process may serve files
// (FUSE, also on a block device), devices (CUSE), and what has such files open in its turn (epoll, io_uring).
// Sockets do not linger any more.
func harmless(fd int) bool {
	var stat unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &stat); err != nil {
		return false
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}) // One that is only named has none.
		return true
	case unix.S_IFIFO:
		return true
	case unix.S_IFCHR:
		return harmlessDevice(stat.Rdev_major, stat.Rdev_minor)
	case unix.S_IFREG, unix.S_IFDIR:
		return harmlessFile(fd, &stat) || harmlessName(fd)
	case 0:
		return harmlessName(fd)
	}
	return false
}

// harmlessDevice reports whether a character device is one whose numbers the kernel has given away for good
// (admin-guide/devices.rst), and that has no more behind it than the kernel.
func harmlessDevice(major, minor uint32) bool {
	const memory, terminals, misc, firstTerminal, lastTerminal = 1, 5, 10, 136, 143
	switch major {
	case memory:
		return slices.Contains([]uint32{3, 5, 7, 8, 9}, minor) // null, zero, full, random, urandom
	case terminals:
		return minor == 2 // ptmx; what /dev/tty is nobody knows
	case misc:
		return slices.Contains([]uint32{200, 232, 238}, minor) // net/tun, kvm, vhost-net
	}
	return major >= firstTerminal && major <= lastTerminal // pts
}

// harmlessFile reports whether a file or directory is in memory, or on a file system of the kernel's own. What
// file system it is nobody is asked: a handle and the attributes that there can be say it.
func harmlessFile(fd int, stat *unix.Statx_t) bool {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err == nil {
		return true
	}
	handle, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return false
	}
	// FUSE, and what is elsewhere, never says that a file could be immutable.
	local := stat.Attributes_mask&unix.STATX_ATTR_IMMUTABLE != 0
	// What enum fid_type of the kernel calls handles.
	switch handle.Type() {
	case 0x1, 0x2: // ext4 and most others; ceph has no block device
		return local || stat.Dev_major != 0
	case 0x81, 0x82: // xfs, and FUSE
		return local
	case 0x4d, 0x4e, 0x4f: // btrfs
		return true
	}
	return false
}

// harmlessName reports whether a descriptor has the name of something harmless that is in no file system. A name
// that begins otherwise than a path is the kernel's own.
func harmlessName(fd int) bool {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return false
	}
	if strings.HasPrefix(name, "pidfd:[") {
		return true
	}
	kind, anonymous := strings.CutPrefix(name, "anon_inode:")
	return anonymous && slices.Contains([]string{"[eventfd]", "[timerfd]", "[signalfd]", "[pidfd]", "inotify"}, kind)
}
