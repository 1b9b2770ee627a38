package sandbox

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// namespace is the mount namespace of a unit while it is being built, by the
// only thread that is in it.
type namespace struct {
	// root is the unit's root directory, and the thread's own once it is entered.
	root int
	// sealed are the contexts of file systems in memory that hold nothing but mount
	// points, and become read-only in the end; devices has their device numbers.
	sealed  []int
	devices map[uint64]bool
	// self is /proc/thread-self of the host, to see whether a mount is shared.
	self int
	// hasShared is set when the host would see what is mounted in some places.
	hasShared bool
	// taken are copies of mounts that were made elsewhere, by target.
	taken map[string]int
	// open are descriptors to close in the end.
	open []int
}

// enter gives the calling thread the root directory of a profile, which is its
// working directory then. When it fails the thread is good for nothing.
func enter(p Profile) error {
	if p.Root == RootHost || p.Root == "" {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
	} else if err := build(p, nil); err != nil {
		return err
	}
	return enterDir("/")
}

// enterDir changes to a directory as the unit sees it; empty is "/".
func enterDir(dir string) error {
	if dir == "" {
		dir = "/"
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("change to directory %s: %w", dir, err)
	}
	return nil
}

// build makes the namespace. The order matters: the host's mounts are taken
// while their propagation is still the host's; then the thread's copy of the host's
// tree is made private, so that neither building the new root in it nor
// discarding it is seen outside; only then is anything mounted. Taken are copies that were
// made before, by target.
func build(p Profile, taken map[string]int) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	n := &namespace{root: -1, self: -1, devices: make(map[uint64]bool), taken: taken}
	defer n.close()
	sources, err := n.takeAll(p.Mounts)
	if err != nil {
		return err
	}
	root, err := n.newRoot(p)
	if err != nil {
		return err
	}
	if err := setAttr(unix.AT_FDCWD, "/", unix.MountAttr{Propagation: unix.MS_PRIVATE}, true); err != nil {
		return fmt.Errorf("make the copied tree private: %w", err)
	}
	if err := n.pivot(root); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	// The mount points have the modes that are asked for.
	defer unix.Umask(unix.Umask(0))
	for i, mount := range p.Mounts {
		if err := n.place(mount, sources[i]); err != nil {
			return fmt.Errorf("%s: %w", mount, err)
		}
	}
	return n.seal()
}

// seal makes the file systems that were made for mount points read-only: they
// themselves and not their mounts, of which a mimic may have made more.
func (n *namespace) seal() error {
	for _, fs := range n.sealed {
		err := unix.FsconfigSetFlag(fs, "ro")
		if err == nil {
			err = unix.FsconfigReconfigure(fs)
		}
		if err != nil {
			return fmt.Errorf("make mount points read-only: %w", err)
		}
	}
	return nil
}

// newRoot makes the mount that will be the root, attached nowhere.
func (n *namespace) newRoot(p Profile) (int, error) {
	if p.Root == RootEmpty {
		fd, err := n.scratch(0o755, 0, 0)
		if err != nil {
			return -1, fmt.Errorf("make an empty root: %w", err)
		}
		return fd, nil
	}
	fd, err := n.clone(unix.AT_FDCWD, p.Base, 0)
	if err == nil {
		err = setAttr(fd, "", unix.MountAttr{
			Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID,
			Propagation: unix.MS_PRIVATE,
		}, false)
	}
	if err != nil {
		return -1, fmt.Errorf("take base %s: %w", p.Base, err)
	}
	return fd, nil
}

// pivot makes the unattached mount root the root directory of the thread, and
// of the namespace, and lets go of the one before.
func (n *namespace) pivot(root int) error {
	if err := attach(root, unix.AT_FDCWD, "/"); err != nil {
		return err
	}
	if err := unix.Fchdir(root); err != nil {
		return fmt.Errorf("fchdir: %w", err)
	}
	// With both the same, the old root ends up on top of the new one.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir: %w", err)
	}
	n.root = root
	return nil
}

func (n *namespace) close() {
	for _, fd := range slices.Backward(n.open) {
		_ = unix.Close(fd)
	}
}

// keep has fd closed when the namespace is done.
func (n *namespace) keep(fd int) int {
	n.open = append(n.open, fd)
	return fd
}

// clone copies the mount at path, as open_tree(2) does; flags may be AT_RECURSIVE.
func (n *namespace) clone(dir int, path string, flags uint) (int, error) {
	fd, err := unix.OpenTree(dir, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
	if err != nil {
		return -1, fmt.Errorf("open source: %w", err)
	}
	return n.keep(fd), nil
}

// scratch makes an unattached file system in memory for mount points.
func (n *namespace) scratch(mode, uid, gid uint32) (int, error) {
	fd, fs, err := n.tmpfs(mode, uid, gid)
	if err != nil {
		return -1, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return -1, fmt.Errorf("stat: %w", err)
	}
	n.sealed = append(n.sealed, fs)
	n.devices[stat.Dev] = true
	return fd, nil
}

// tmpfs makes an unattached file system in memory, and returns its context too.
func (n *namespace) tmpfs(mode, uid, gid uint32) (fd, fs int, err error) {
	fs, err = unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, -1, fmt.Errorf("fsopen tmpfs: %w", err)
	}
	n.keep(fs)
	for _, option := range []struct{ key, value string }{
		{"mode", fmt.Sprintf("%o", mode)},
		{"uid", fmt.Sprint(uid)},
		{"gid", fmt.Sprint(gid)},
	} {
		if err := unix.FsconfigSetString(fs, option.key, option.value); err != nil {
			return -1, -1, fmt.Errorf("tmpfs %s=%s: %w", option.key, option.value, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, -1, fmt.Errorf("create tmpfs: %w", err)
	}
	fd, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, -1, fmt.Errorf("fsmount tmpfs: %w", err)
	}
	return n.keep(fd), fs, nil
}

// attachAt puts an unattached mount over the file or directory that target is
// open at, unless the host would see it there: a link may have led anywhere.
func (n *namespace) attachAt(mount, target int) error {
	if n.hasShared {
		shared, err := n.isShared(target, "")
		if err != nil {
			return fmt.Errorf("look at target: %w", err)
		}
		if shared {
			return fmt.Errorf("%w: the target is below a shared mount", ErrProfile)
		}
	}
	return attach(mount, target, "")
}

// attach puts an unattached mount over path.
func attach(mount, dir int, path string) error {
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH
	if path == "" {
		flags |= unix.MOVE_MOUNT_T_EMPTY_PATH
	}
	if err := unix.MoveMount(mount, "", dir, path, flags); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// setAttr changes the mount at path, or that dir itself is when path is empty.
func setAttr(dir int, path string, attr unix.MountAttr, recursive bool) error {
	var flags uint
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(dir, path, flags, &attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

// isMissing reports whether a path does not exist.
func isMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}
