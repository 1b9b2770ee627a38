package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// mimic covers the directory parent by a file system in memory that shows the
// same, so that mount points can be made in it. A link called except is left
// out: it leads nowhere, and is in the way.
func (n *namespace) mimic(parent int, except string) error {
	var dir unix.Stat_t
	if err := unix.Fstat(parent, &dir); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	isRoot, err := n.isRoot(parent)
	if err != nil {
		return err
	}
	parts, err := n.parts(parent, except)
	if err != nil {
		return err
	}
	cover, err := n.scratch(dir.Mode&0o7777, dir.Uid, dir.Gid)
	if err != nil {
		return err
	}
	if isRoot {
		// What is mounted over the root is not seen by whoever has it as root.
		err = n.pivot(cover)
	} else {
		err = n.attachAt(cover, parent)
	}
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := n.show(cover, p); err != nil {
			return fmt.Errorf("show %s: %w", p.name, err)
		}
	}
	return nil
}

// isRoot reports whether fd is the unit's root directory itself, and not the
// same directory mounted elsewhere.
func (n *namespace) isRoot(fd int) (bool, error) {
	var dir, root unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &dir), unix.Fstat(n.root, &root)); err != nil {
		return false, fmt.Errorf("stat: %w", err)
	}
	mount, err := mountID(fd, "")
	rootMount, rootErr := mountID(n.root, "")
	if err := errors.Join(err, rootErr); err != nil {
		return false, fmt.Errorf("stat: %w", err)
	}
	return dir.Dev == root.Dev && dir.Ino == root.Ino && mount == rootMount, nil
}

// part is an entry of a directory that is mimicked: a link, or a copied mount.
type part struct {
	name string
	link string
	tree int
	dir  bool
}

// parts takes hold of all entries of a directory, before it is covered.
func (n *namespace) parts(parent int, except string) ([]part, error) {
	fd, err := unix.Openat(parent, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	listing := os.NewFile(uintptr(fd), "directory") //nolint:gosec // An open descriptor.
	defer listing.Close()                           //nolint:errcheck // Only read.
	names, err := listing.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	slices.Sort(names)
	parts := make([]part, 0, len(names))
	for _, name := range names {
		p, err := n.part(parent, name)
		if err != nil {
			return nil, fmt.Errorf("take %s: %w", name, err)
		}
		if name != except || p.link == "" {
			parts = append(parts, p)
		}
	}
	return parts, nil
}

func (n *namespace) part(parent int, name string) (part, error) {
	var stat unix.Stat_t
	if err := unix.Fstatat(parent, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return part{}, err
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		content := make([]byte, unix.PathMax)
		size, err := unix.Readlinkat(parent, name, content)
		return part{name: name, link: string(content[:max(size, 0)])}, err
	}
	tree, err := n.clone(parent, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_RECURSIVE)
	return part{name: name, tree: tree, dir: stat.Mode&unix.S_IFMT == unix.S_IFDIR}, err
}

func (n *namespace) show(cover int, p part) error {
	if p.link != "" {
		return n.link(cover, p.name, p.link)
	}
	at, err := n.create(cover, []string{p.name}, p.dir)
	if err != nil {
		return err
	}
	return n.attachAt(p.tree, at)
}

// link makes a symbolic link.
func (n *namespace) link(parent int, name, content string) error {
	if err := n.unlinkDangling(parent, name); err != nil {
		return err
	}
	if err := unix.Symlinkat(content, parent, name); err != nil {
		return fmt.Errorf("make link %s: %w", name, err)
	}
	return nil
}
