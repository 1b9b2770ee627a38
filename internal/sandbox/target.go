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

// lookup opens a path in the unit's root as it is now. Whatever links the base
// or a snap has in it, it does not lead out, nor through the magic links of /proc.
func (n *namespace) lookup(p string, flags uint64) (int, error) {
	fd, err := unix.Openat2(n.root, p, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, err
	}
	return n.keep(fd), nil
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
		if !errors.Is(err, unix.EROFS) {
			return -1, fmt.Errorf("make target: %w", err)
		}
		if err := n.mimic(parent, rest[0]); err != nil {
			return -1, fmt.Errorf("make %s writable for mount points: %w", path.Dir(p), err)
		}
	}
	return -1, fmt.Errorf("make target: %w", unix.ELOOP)
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
	var stat unix.Stat_t
	if err := unix.Fstat(parent, &stat); err != nil || !n.devices[stat.Dev] {
		return err
	}
	err := unix.Fstatat(parent, name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil || stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		return err
	}
	return unix.Unlinkat(parent, name, 0)
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
		if err == nil || !errors.Is(err, unix.EROFS) {
			return err
		}
		if err := n.mimic(parent, rest[0]); err != nil {
			return fmt.Errorf("make %s writable for links: %w", path.Dir(m.Target), err)
		}
	}
	return fmt.Errorf("make link: %w", unix.ELOOP)
}

func readsSame(parent int, name, content string) bool {
	buf := make([]byte, len(content)+1)
	size, err := unix.Readlinkat(parent, name, buf)
	return err == nil && string(buf[:size]) == content
}
