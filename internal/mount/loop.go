package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	loopMajor = 7
	// loopTries bounds how often another process may take the free loop device
	// before we do.
	loopTries = 100
	// bigBlock is the block size with which direct I/O works on every disk.
	bigBlock = 4096
)

// ErrNoLoop is that the kernel, or who made this container, gives no loop device.
var ErrNoLoop = errors.New("there is no free loop device")

// attach makes a read-only loop device of a file, by LOOP_CONFIGURE (Linux
// 5.8). The device frees itself when the last user closes it: that is the
// returned descriptor until it is mounted.
func attach(ctx context.Context, file *os.File) (*os.File, error) {
	control, err := openControl()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoLoop, err)
	}
	defer control.Close() //nolint:errcheck // Nothing was written.
	for range loopTries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		dev, err := attachFree(control, file)
		if !errors.Is(err, unix.EBUSY) {
			return dev, err
		}
	}
	return nil, fmt.Errorf("%w: none stayed free in %d tries: %w", ErrNoLoop, loopTries, unix.EBUSY)
}

func openControl() (*os.File, error) {
	const path = "/dev/loop-control"
	control, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		// The number is fixed: miscdevice.h, LOOP_CTRL_MINOR.
		return openMade(path, unix.S_IFCHR, unix.Mkdev(10, 237), os.O_RDWR)
	}
	return control, err
}

func attachFree(control, file *os.File) (*os.File, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("%w: get one: %w", ErrNoLoop, err)
	}
	dev, err := openLoop(n)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoLoop, err)
	}
	if err := configure(dev, file); err != nil {
		_ = dev.Close()
		return nil, fmt.Errorf("attach %s to %s: %w", file.Name(), dev.Name(), err)
	}
	return dev, nil
}

// configure binds the file to the device. The kernel turns direct I/O off
// itself where the file system has none; older ones refuse the flag, or the
// block size, with EINVAL.
func configure(dev, file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	blocks := []uint32{bigBlock, 512}
	if info.Size()%bigBlock != 0 {
		// The device would end before the file does.
		blocks = blocks[1:]
	}
	for _, block := range blocks {
		for _, flags := range []uint32{unix.LO_FLAGS_DIRECT_IO, 0} {
			cfg := unix.LoopConfig{Fd: uint32(file.Fd()), Size: block} //nolint:gosec // A descriptor.
			cfg.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR | flags
			copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], file.Name())
			err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
			if !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
	}
	return err
}

// openLoop opens loop device n, and makes its node where nobody else does:
// containers have no udev.
func openLoop(n int) (*os.File, error) {
	path := loopPath(n)
	dev, err := os.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return openMade(path, unix.S_IFBLK, unix.Mkdev(loopMajor, uint32(n)), os.O_RDONLY) //nolint:gosec // A minor number.
	}
	return dev, err
}

func openMade(path string, kind uint32, dev uint64, flag int) (*os.File, error) {
	err := unix.Mknod(path, kind|0o660, int(dev)) //nolint:gosec // The call's own type.
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make device node %s: %w", path, err)
	}
	return os.OpenFile(path, flag, 0)
}

func loopPath(n int) string { return "/dev/loop" + strconv.Itoa(n) }

// inode names a file for as long as it exists.
type inode struct {
	dev, ino uint64
}

func inodeOf(path string) (inode, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return inode{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return inode{st.Dev, st.Ino}, nil
}

// backing is the file that a loop device shows; ok is false if it shows none.
func backing(dev Dev) (file inode, ok bool, err error) {
	if dev.Major != loopMajor {
		return inode{}, false, nil
	}
	f, err := openLoop(int(dev.Minor))
	if errors.Is(err, unix.ENXIO) {
		return inode{}, false, nil
	}
	if err != nil {
		return inode{}, false, err
	}
	defer f.Close() //nolint:errcheck // Only read.
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	switch {
	case errors.Is(err, unix.ENXIO):
		return inode{}, false, nil
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ESTALE), errors.Is(err, unix.EIO):
		// The file system with its file is gone: no file that can be asked for is on it.
		return inode{}, false, nil
	case err != nil:
		return inode{}, false, fmt.Errorf("ask %s for its file: %w", f.Name(), err)
	}
	return inode{info.Device, info.Inode}, true, nil
}

// Attached are the loop devices that still show a snap file. After Unmount it
// is empty, unless something that no process shows keeps the device: an
// overlay, another loop device, a descriptor on its way through a socket.
func Attached(file string) ([]Dev, error) {
	want, err := inodeOf(file)
	if err != nil {
		return nil, err
	}
	bound, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var devs []Dev
	for _, path := range bound {
		name := filepath.Base(filepath.Dir(filepath.Dir(path)))
		n, err := strconv.ParseUint(name[len("loop"):], 10, 32)
		if err != nil {
			continue
		}
		dev := Dev{Major: loopMajor, Minor: uint32(n)} //nolint:gosec // Parsed as 32 bits.
		got, ok, err := backing(dev)
		if err != nil {
			return nil, err
		}
		if ok && got == want {
			devs = append(devs, dev)
		}
	}
	return devs, nil
}
