package snapdata

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// beneath is how every name is looked up: in its directory, not through a link,
// not onto another mount.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// root is the top directory of a tree.
type root struct {
	fd int
	st unix.Stat_t
}

func (r *root) close() { _ = unix.Close(r.fd) }

// openRoot opens a directory, unless its last name is a link.
func openRoot(path string) (*root, error) { return openDir(path, unix.O_NOFOLLOW) }

func openDir(path string, flags int) (*root, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	r := &root{fd: fd}
	if err := unix.Fstat(fd, &r.st); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return r, nil
}

// openAt opens name in the directory dir.
func openAt(dir int, name string, flags int, perm uint32) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC), //nolint:gosec // Flags are positive.
		Mode:    uint64(perm),
		Resolve: beneath,
	}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// peek opens name for nothing but looking at it and keeping it: whatever is
// done to the name later, the descriptor stays with this file. Opening a device
// in any other way could set it in motion.
func peek(dir int, name string) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := openAt(dir, name, unix.O_PATH, 0)
	if err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// procPath names the very file that a descriptor is for, also one that was only
// peeked at, also a symlink.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openPeeked opens a regular file for reading, without a trace in its time of
// access. Only a process that holds a lease on the file can make it wait, for
// as long as the kernel lets it.
func openPeeked(fd int) (int, error) {
	const flags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOCTTY
	for _, more := range []int{unix.O_NOATIME | unix.O_NONBLOCK, unix.O_NOATIME} {
		got, err := unix.Open(procPath(fd), flags|more, 0)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EPERM) {
			return got, err
		}
	}
	return unix.Open(procPath(fd), flags, 0)
}

const nameBatch = 1024

// eachName calls do for every name in a directory. A name that is added or
// removed meanwhile may be missed or be gone.
func eachName(dir int, do func(string) error) error {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) {
		fd, err = unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close() //nolint:errcheck // Only read.
	for {
		names, err := f.Readdirnames(nameBatch)
		for _, name := range names {
			if err := do(name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || len(names) == 0 && err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read directory: %w", err)
		}
	}
}
