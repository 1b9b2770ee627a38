package sandbox

import (
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capabilityNames are the names of capabilities(7), in the order of their
// numbers in linux/capability.h.
func capabilityNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",
		"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO",
		"CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
		"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
		"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
		"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// capabilities is a set of capabilities, one bit for each number.
type capabilities uint64

func (c capabilities) has(number int) bool { return c&(1<<number) != 0 }

// parseCapabilities reads names; an unknown one is an error.
func parseCapabilities(names []string) (capabilities, error) {
	var set capabilities
	known := capabilityNames()
	for _, name := range names {
		number := slices.Index(known, name)
		if number < 0 {
			return 0, fmt.Errorf("%w: capability %q", ErrProfile, name)
		}
		set |= 1 << number
	}
	return set, nil
}

// DefaultCapabilities are what a confined service of root keeps: what containers
// keep, and what the interfaces that it plugs are for.
func DefaultCapabilities(interfaces []string) []string {
	keep := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
	}
	more := map[string][]string{
		"network-control":  {"CAP_NET_ADMIN", "CAP_NET_RAW"},
		"network-observe":  {"CAP_NET_RAW"},
		"firewall-control": {"CAP_NET_ADMIN", "CAP_NET_RAW"},
		"mount-control":    {"CAP_SYS_ADMIN"},
		"mount-observe":    {"CAP_SYS_PTRACE"},
		"process-control":  {"CAP_SYS_NICE", "CAP_SYS_RESOURCE"},
		"system-observe":   {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"},
		"time-control":     {"CAP_SYS_TIME"},
		"kvm":              nil,
		"libvirt":          {"CAP_SYS_ADMIN", "CAP_NET_ADMIN"},
		"docker-support":   {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE"},
		"lxd-support":      {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE", "CAP_MAC_ADMIN"},
	}
	for _, name := range interfaces {
		keep = append(keep, more[name]...)
	}
	slices.Sort(keep)
	return slices.Compact(keep)
}

// dropRights leaves the calling thread what the profile keeps, and until exec
// those of extra. The bounding set keeps the program from getting back the rest.
func (p Profile) dropRights(extra ...int) error {
	if !p.AllCapabilities {
		keep, err := parseCapabilities(p.KeepCapabilities)
		if err != nil {
			return err
		}
		if err := limitCapabilities(keep, extra); err != nil {
			return err
		}
	}
	if p.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	return nil
}

func limitCapabilities(keep capabilities, extra []int) error {
	for number := 0; ; number++ {
		present, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0)
		if err != nil {
			break // The kernel knows no more.
		}
		if present == 0 || keep.has(number) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0); err != nil {
			return fmt.Errorf("drop %s: %w", capabilityName(number), err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var own [2]unix.CapUserData
	if err := unix.Capget(&header, &own[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for _, number := range extra {
		keep |= 1 << number
	}
	for i := range own {
		half := uint32(keep >> (32 * i)) //nolint:gosec // One half at a time.
		own[i].Permitted &= half
		own[i].Effective = own[i].Permitted
		own[i].Inheritable = 0
	}
	if err := unix.Capset(&header, &own[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

// becomeUser gives the calling thread, and no other, the user of the process:
// the real one, whatever a set-uid bit has made of it, and the profile's when
// that is root. A user who is not root has no capability afterwards.
func (p Profile) becomeUser() error {
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 && (p.UID != 0 || p.GID != 0) {
		uid, gid = int(p.UID), int(p.GID)
		if err := setGroups(p.Groups); err != nil {
			return fmt.Errorf("set groups: %w", err)
		}
	}
	// Not syscall.Setresuid, which stops the world for the sake of all threads.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); errno != 0 {
		return fmt.Errorf("set group %d: %w", gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return fmt.Errorf("set user %d: %w", uid, errno)
	}
	if uid == 0 {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

func setGroups(groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0]) //nolint:gosec // As setgroups(2) wants it.
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
		return errno
	}
	return nil
}

func capabilityName(number int) string {
	if names := capabilityNames(); number < len(names) {
		return names[number]
	}
	return fmt.Sprintf("capability %d", number)
}
