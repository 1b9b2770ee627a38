package snapdata

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// copyAttributes gives dst owner, extended attributes, mode and times of src,
// as st had them. The order matters: a change of owner takes away capabilities
// and the set-uid bit, an ACL changes the mode, everything moves the times.
// Both are descriptors, possibly only peeked at.
func copyAttributes(src, dst int, st *unix.Stat_t) error {
	var now unix.Stat_t
	if err := unix.Fstat(dst, &now); err != nil {
		return err
	}
	if now.Uid != st.Uid || now.Gid != st.Gid {
		if err := unix.Fchownat(dst, "", int(st.Uid), int(st.Gid), unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	if err := copyXattrs(procPath(src), procPath(dst)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(procPath(dst), st.Mode&0o7777); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, procPath(dst), times, 0); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// copyXattrs makes the extended attributes of dst those of src.
func copyXattrs(src, dst string) error {
	want, err := listXattrs(src)
	if err != nil {
		return err
	}
	have, err := listXattrs(dst)
	if err != nil {
		return err
	}
	for _, name := range have {
		if !slices.Contains(want, name) {
			if err := unix.Removexattr(dst, name); err != nil && !errors.Is(err, unix.ENODATA) && !ofTheSystem(name) {
				return fmt.Errorf("remove attribute %q: %w", name, err)
			}
		}
	}
	for _, name := range want {
		if err := copyXattr(src, dst, name); err != nil && !ofTheSystem(name) {
			return fmt.Errorf("copy attribute %q: %w", name, err)
		}
	}
	return nil
}

// ofTheSystem are attributes that a security module gives and takes itself, and
// that others may not be allowed to.
func ofTheSystem(name string) bool {
	return strings.HasPrefix(name, "security.") && name != "security.capability"
}

func copyXattr(src, dst, name string) error {
	value, err := xattr(func(b []byte) (int, error) { return unix.Getxattr(src, name, b) })
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	if err != nil {
		return err
	}
	have, err := xattr(func(b []byte) (int, error) { return unix.Getxattr(dst, name, b) })
	if err == nil && bytes.Equal(value, have) {
		return nil
	}
	return unix.Setxattr(dst, name, value, 0)
}

func listXattrs(path string) ([]string, error) {
	b, err := xattr(func(b []byte) (int, error) { return unix.Listxattr(path, b) })
	if errors.Is(err, unix.EOPNOTSUPP) || len(b) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"), nil
}

// xattr calls get with ever larger buffers until what it gets fits.
func xattr(get func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := get(b)
		if err == nil {
			return b[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size > 1<<20 {
			return nil, err
		}
	}
}
