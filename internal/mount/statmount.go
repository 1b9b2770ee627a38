package mount

import (
	"bytes"
	"errors"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The parts of statmount(2) (Linux 6.8, the source of a mount 6.13) that are used.
const (
	statmountSuperBasic = 0x001
	statmountBasic      = 0x002
	statmountType       = 0x020
	statmountSource     = 0x200
	statmountWanted     = statmountSuperBasic | statmountBasic | statmountType | statmountSource

	statmountFixed = 512
	statmountRoom  = 4096
)

// statmountRequest is struct mnt_id_req.
type statmountRequest struct {
	size, _   uint32
	id, param uint64
}

// statmountReply is struct statmount, with room for its texts, which are named by where
// they begin there.
type statmountReply struct {
	size, _            uint32
	mask               uint64
	devMajor, devMinor uint32
	_                  uint64
	_, kind            uint32
	_, _               uint64
	_, _               uint32
	_, propagation     uint64
	_, _, _            uint64
	_, _               uint32
	_                  uint64
	_, source          uint32
	_                  [statmountFixed - 128]byte
	texts              [statmountRoom - statmountFixed]byte
}

// errSlow is that the kernel cannot tell about one mount alone.
var errSlow = errors.New("mounts can only be listed")

// at tells what is mounted at dir, canonical, without reading about all mounts: that takes
// longer the more there are, and a start of the daemon asks about each.
func at(dir string) (Info, bool, error) {
	var file unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID_UNIQUE, &file)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return Info{}, false, nil
	case err != nil, file.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0:
		return Info{}, false, errSlow
	case file.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0:
		return Info{}, false, nil
	case file.Mask&unix.STATX_MNT_ID_UNIQUE == 0:
		return Info{}, false, errSlow
	}
	request := statmountRequest{size: uint32(unsafe.Sizeof(statmountRequest{})), id: file.Mnt_id, param: statmountWanted}
	var reply statmountReply
	_, _, failed := unix.Syscall6(unix.SYS_STATMOUNT, uintptr(unsafe.Pointer(&request)), //nolint:gosec // As statmount(2) wants them.
		uintptr(unsafe.Pointer(&reply)), unsafe.Sizeof(reply), 0, 0, 0) //nolint:gosec // As the line before.
	if failed != 0 || reply.mask&statmountWanted != statmountWanted {
		return Info{}, false, errSlow
	}
	return Info{
		Dir: dir, Dev: Dev{reply.devMajor, reply.devMinor}, Type: reply.text(reply.kind), Source: reply.text(reply.source),
		Shared: reply.propagation&unix.MS_SHARED != 0,
	}, true, nil
}

// text is the one that begins at an offset.
func (r *statmountReply) text(offset uint32) string {
	text, _, _ := bytes.Cut(r.texts[min(int(offset), len(r.texts)):], []byte{0})
	return string(text)
}
