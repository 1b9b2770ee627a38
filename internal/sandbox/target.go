package sandbox

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxMimics bounds how often one target needs a directory made writable: once
// for each dangling link on its way.
const maxMimics = 8

// maxLookups bounds how often a path is looked up again because something was
// mounted or renamed on the machine meanwhile, which openat2(2) cannot tell from an attack.
const maxLookups = 1000

// lookup opens a path in the unit's root as it is now. Whatever links the base
// or a snap has in it, it does not lead out, nor through the magic links of /proc.
func (n *namespace) lookup(p string, flags uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for tries := 1; ; tries++ {
		fd, err := unix.Openat2(n.root, p, &how)
		if err == nil {
			return n.keep(fd), nil
		}
		if retry := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR); !retry || tries == maxLookups {
			return -1, err
		}
	}
}

// target opens the mount point p, a directory or a file, and makes it when it
// does not exist.
func (n *namespace) target(p string, dir bool) (int, error) {
	for range maxMimics {
		fd, err := n.lookup(p, 0)
		if err == nil {
			return fd, checkKind(fd, p, dir)
		}
		if !errors.Is(err, unix.ENOENT) {
			return -1, fmt.Errorf("open target: %w", err)
		}
		parent, rest, err := n.deepest(p)
		if err != nil {
			return -1, err
		}
		fd, err = n.create(parent, rest, dir)
		if err == nil {
			return fd, nil
		}
		if !needsMimic(parent, err) {
			return -1, fmt.Errorf("make target: %w", err)
		}
		if err := n.mimic(parent, rest[0]); err != nil {
			return -1, fmt.Errorf("make mount point in a read-only directory: %w", err)
		}
	}
	return -1, fmt.Errorf("make target: %w", unix.ELOOP)
}

// needsMimic reports whether what could not be made in parent can be made in a
// mimic of it. A link that leads nowhere is told before a file system that is
// read-only is; on one that is not, it is the snap's own and is left alone.
func needsMimic(parent int, err error) bool {
	if errors.Is(err, unix.EROFS) {
		return true
	}
	var stat unix.Statfs_t
	return errors.Is(err, unix.EEXIST) && unix.Fstatfs(parent, &stat) == nil && stat.Flags&unix.ST_RDONLY != 0
}

func checkKind(fd int, p string, dir bool) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("stat target: %w", err)
	}
	if isDir := stat.Mode&unix.S_IFMT == unix.S_IFDIR; isDir != dir {
		if dir {
			return fmt.Errorf("target %s: %w", p, unix.ENOTDIR)
		}
		return fmt.Errorf("target %s: %w", p, unix.EISDIR)
	}
	return nil
}

// deepest opens the last directory on the way to p that exists, and returns
// the names that are missing below it.
func (n *namespace) deepest(p string) (fd int, rest []string, err error) {
	for at := p; at != "/"; {
		at = path.Dir(at)
		fd, err := n.lookup(at, unix.O_DIRECTORY)
		if err == nil {
			return fd, strings.Split(strings.TrimPrefix(p[len(at):], "/"), "/"), nil
		}
		if !errors.Is(err, unix.ENOENT) {
			return -1, nil, fmt.Errorf("open %s: %w", at, err)
		}
	}
	return -1, nil, fmt.Errorf("open /: %w", unix.ENOENT)
}

// create makes the names below parent, the last one a directory or a file. Each is
// opened as the thing that was made, whoever else can write there.
func (n *namespace) create(parent int, names []string, dir bool) (int, error) {
	for i, name := range names {
		if err := n.unlinkDangling(parent, name); err != nil {
			return -1, err
		}
		var err error
		if i < len(names)-1 || dir {
			err = unix.Mkdirat(parent, name, 0o755)
		} else {
			err = unix.Mknodat(parent, name, unix.S_IFREG|0o644, 0)
		}
		if err != nil {
			return -1, fmt.Errorf("%s: %w", name, err)
		}
		parent, err = unix.Openat2(parent, name, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if err != nil {
			return -1, fmt.Errorf("%s: %w", name, err)
		}
		n.keep(parent)
	}
	return parent, nil
}

// unlinkDangling makes room for a mount point where a directory made here has a
// link that leads nowhere.
func (n *namespace) unlinkDangling(parent int, name string) error {
	if !n.isScratch(parent) {
		return nil
	}
	var stat unix.Stat_t
	err := unix.Fstatat(parent, name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil || stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		return err
	}
	return unix.Unlinkat(parent, name, 0)
}

// isScratch reports whether a directory was made here, for mount points.
func (n *namespace) isScratch(dir int) bool {
	var stat unix.Stat_t
	return unix.Fstat(dir, &stat) == nil && n.devices[stat.Dev]
}

// symlink makes a link, or leaves one alone that reads the same.
func (n *namespace) symlink(m Mount) error {
	for range maxMimics {
		parent, rest, err := n.deepest(m.Target)
		if err != nil {
			return err
		}
		name := rest[len(rest)-1]
		if len(rest) > 1 {
			parent, err = n.create(parent, rest[:len(rest)-1], true)
		}
		if err == nil {
			if readsSame(parent, name, m.Source) {
				return nil
			}
			err = n.link(parent, name, m.Source)
		}
		if err == nil || !needsMimic(parent, err) {
			return err
		}
		if err := n.mimic(parent, rest[0]); err != nil {
			return fmt.Errorf("make link in a read-only directory: %w", err)
		}
	}
	return fmt.Errorf("make link: %w", unix.ELOOP)
}

func readsSame(parent int, name, content string) bool {
	buf := make([]byte, len(content)+1)
	size, err := unix.Readlinkat(parent, name, buf)
	return err == nil && string(buf[:size]) == content
}
