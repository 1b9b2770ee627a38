package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// take copies what a mount shows from the host's tree, unattached; -1 when it
// shows nothing of the host's.
func (n *namespace) take(m Mount) (int, error) {
	switch m.Kind {
	case Bind:
		if m.Inside {
			return -1, nil
		}
		return n.takeAs(m.Source, unix.MS_PRIVATE, m.ReadOnly, false)
	case Slave:
		return n.takeAs(m.Source, unix.MS_SLAVE, m.ReadOnly, true)
	case Shared:
		if err := checkShared(m.Source); err != nil {
			return -1, err
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

// checkShared refuses a source that is not on a shared mount: its copy would
// silently be private. The thread still has the host's propagation.
func checkShared(source string) error {
	id, err := mountID(unix.AT_FDCWD, source)
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	mountinfo, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mountinfo)) {
		first, rest, _ := strings.Cut(line, " ")
		if first != strconv.FormatUint(id, 10) {
			continue
		}
		if before, _, _ := strings.Cut(rest, " - "); strings.Contains(before, " shared:") {
			return nil
		}
		return errors.New("source is not on a shared mount of the host")
	}
	return errors.New("source is on a mount that cannot be seen")
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
		fd, err := n.tmpfs(mode, 0, 0)
		if err != nil {
			return err
		}
		if m.ReadOnly {
			if err := setAttr(fd, "", unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false); err != nil {
				return err
			}
		}
		source = fd
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
	below, err := mountID(target, "")
	if err != nil {
		return fmt.Errorf("stat target: %w", err)
	}
	if n.shared[below] {
		return fmt.Errorf("%w: a link leads the target below a shared mount", ErrProfile)
	}
	if err := attach(source, target, ""); err != nil {
		return err
	}
	if m.Kind == Shared {
		id, err := mountID(source, "")
		if err != nil {
			return fmt.Errorf("stat mount: %w", err)
		}
		n.shared[id] = true
	}
	return nil
}

// takeInside copies what the unit itself sees at the source.
func (n *namespace) takeInside(m Mount) (int, error) {
	at, err := n.lookup(m.Source, 0)
	if err != nil {
		if m.Optional && isMissing(err) {
			return -1, nil
		}
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
			err = attach(fd, at, "")
		}
		if err != nil {
			return fmt.Errorf("guard %s: %w", name, err)
		}
	}
	return nil
}
