package sandbox

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// takeAll takes the sources of all mounts; -1 for those without one.
func (n *namespace) takeAll(mounts []Mount) ([]int, error) {
	self, err := unix.Open("/proc/thread-self", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /proc/thread-self: %w", err)
	}
	n.self = n.keep(self)
	sources := make([]int, len(mounts))
	for i, mount := range mounts {
		sources[i], err = n.take(mount)
		if err != nil && (!mount.Optional || !isMissing(err)) {
			return nil, fmt.Errorf("%s: %w", mount, err)
		}
	}
	return sources, nil
}

// take copies what a mount shows from the host's tree, unattached; -1 when it
// shows nothing of the host's.
func (n *namespace) take(m Mount) (int, error) {
	if tree, ok := n.taken[m.Target]; ok {
		return tree, setAttr(tree, "", unix.MountAttr{Propagation: unix.MS_PRIVATE, Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}, false)
	}
	switch m.Kind {
	case Bind:
		if m.Inside {
			return -1, nil
		}
		return n.takeAs(m.Source, unix.MS_PRIVATE, m.ReadOnly, false)
	case Slave:
		return n.takeAs(m.Source, unix.MS_SLAVE, m.ReadOnly, true)
	case Shared:
		// The copy of a mount that is not would silently be private.
		shared, err := n.isShared(unix.AT_FDCWD, m.Source)
		if err != nil {
			return -1, fmt.Errorf("open source: %w", err)
		}
		if !shared {
			return -1, errors.New("source is not on a shared mount of the host")
		}
		return n.takeAs(m.Source, 0, m.ReadOnly, true)
	case Proc:
		return n.takeAs("/proc", unix.MS_SLAVE, m.ReadOnly, true)
	case Sys:
		return n.takeAs("/sys", unix.MS_SLAVE, true, true)
	case Dev:
		return n.takeAs("/dev", unix.MS_SLAVE, m.ReadOnly, true)
	case Tmpfs, Symlink:
		return -1, nil
	}
	return -1, fmt.Errorf("%w: kind %q", ErrProfile, m.Kind)
}

func (n *namespace) takeAs(source string, propagation uint64, readOnly, recursive bool) (int, error) {
	var flags uint
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	fd, err := n.clone(unix.AT_FDCWD, source, flags)
	if err != nil {
		return -1, err
	}
	attr := unix.MountAttr{Propagation: propagation}
	if readOnly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	if attr == (unix.MountAttr{}) {
		return fd, nil
	}
	return fd, setAttr(fd, "", attr, recursive)
}

// isShared reports whether what is mounted below path is seen by others.
func (n *namespace) isShared(dir int, path string) (bool, error) {
	id, err := mountID(dir, path)
	if err != nil {
		return false, err
	}
	mountinfo, err := readFileAt(n.self, "mountinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(mountinfo) {
		first, rest, _ := strings.Cut(line, " ")
		if first == strconv.FormatUint(id, 10) {
			before, _, _ := strings.Cut(rest, " - ")
			return strings.Contains(before, " shared:"), nil
		}
	}
	return false, errors.New("mount is not in mountinfo")
}

// mountID is the number that mountinfo has for the mount at path.
func mountID(dir int, path string) (uint64, error) {
	var stat unix.Statx_t
	if err := unix.Statx(dir, path, unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stat); err != nil {
		return 0, err
	}
	return stat.Mnt_id, nil
}

// place puts one mount of the profile where it belongs. source is what take
// returned for it.
func (n *namespace) place(m Mount, source int) error {
	switch m.Kind {
	case Symlink:
		return n.symlink(m)
	case Tmpfs:
		mode := m.Mode
		if mode == 0 {
			mode = 0o755
		}
		var err error
		if m.ReadOnly {
			source, err = n.scratch(mode, 0, 0)
		} else {
			source, _, err = n.tmpfs(mode, 0, 0)
		}
		if err != nil {
			return err
		}
	case Bind, Slave, Shared, Proc, Sys, Dev:
		if m.Inside {
			var err error
			if source, err = n.takeInside(m); err != nil {
				return err
			}
		}
	}
	if source < 0 {
		return nil // Optional, and not there.
	}
	if err := n.put(m, source); err != nil {
		return err
	}
	if m.Kind == Proc {
		return n.guardProc(m.Target)
	}
	return nil
}

// put attaches source at the target, which it makes when there is none.
func (n *namespace) put(m Mount, source int) error {
	var stat unix.Stat_t
	if err := unix.Fstat(source, &stat); err != nil {
		return fmt.Errorf("stat source: %w", err)
	}
	target, err := n.target(m.Target, stat.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	if err := n.attachAt(source, target); err != nil {
		return err
	}
	n.hasShared = n.hasShared || m.Kind == Shared
	return nil
}

// takeInside copies what the unit itself sees at the source.
func (n *namespace) takeInside(m Mount) (int, error) {
	at, err := n.lookup(m.Source, 0)
	if isMissing(err) {
		if m.Optional {
			return -1, nil
		}
		at, err = n.createSource(m, err)
	}
	if err != nil {
		return -1, fmt.Errorf("open source: %w", err)
	}
	fd, err := n.clone(at, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, err
	}
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if m.ReadOnly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	return fd, setAttr(fd, "", attr, false)
}

// createSource makes the source of a layout, as snaps are used to, where the
// snap itself could: never in a mimic, which nobody would see.
func (n *namespace) createSource(m Mount, missing error) (int, error) {
	parent, rest, err := n.deepest(m.Source)
	if err != nil || n.isScratch(parent) {
		return -1, missing
	}
	at, err := n.create(parent, rest, !m.File)
	if errors.Is(err, unix.EROFS) {
		return -1, missing
	}
	return at, err
}

// guardProc makes read-only what uid 0 can change in /proc without any
// capability: among it the programs that the kernel runs on its own (core_pattern,
// modprobe), sysrq, interrupts, and PCI configuration.
func (n *namespace) guardProc(target string) error {
	for _, name := range []string{"sys", "sysrq-trigger", "irq", "bus", "fs", "mtrr", "acpi", "scsi", "asound"} {
		at, err := n.lookup(target+"/"+name, 0)
		if isMissing(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("guard %s: %w", name, err)
		}
		fd, err := n.clone(at, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
		if err == nil {
			err = setAttr(fd, "", unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}, true)
		}
		if err == nil {
			err = n.attachAt(fd, at)
		}
		if err != nil {
			return fmt.Errorf("guard %s: %w", name, err)
		}
	}
	return nil
}
