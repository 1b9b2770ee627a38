package sandbox

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Root tells what a unit sees as its root directory.
type Root string

// The roots.
const (
	// RootHost is the host's own mount namespace: classic snaps. No namespace
	// is made, and Mounts must be empty.
	RootHost Root = "host"
	// RootEmpty is an empty root, read-only, with only what Mounts put there:
	// "base: bare".
	RootEmpty Root = "empty"
	// RootBase is the tree below Profile.Base, read-only and without set-uid.
	RootBase Root = "base"
)

// Profile says what a process sees and what it may do. The zero value is the
// host's root with no capability.
type Profile struct {
	// Root is RootHost when it is empty.
	Root Root `json:"root"`
	// Base is the absolute host path of the mounted base; only with RootBase.
	Base string `json:"base,omitempty"`
	// Mounts are made in order, after the root.
	Mounts []Mount `json:"mounts,omitempty"`
	// KeepCapabilities is the bounding, permitted and effective set that a
	// process of root starts with (names like "CAP_CHOWN"); those that the
	// daemon does not have are left out. For any other user it is the bounding
	// set only: a process that is not root starts with no capability. With
	// AllCapabilities the daemon's own sets are kept.
	KeepCapabilities []string `json:"keep_capabilities,omitempty"`
	AllCapabilities  bool     `json:"all_capabilities,omitempty"`
	NoNewPrivs       bool     `json:"no_new_privs,omitempty"`
	// UID and GID are what the process runs as; Groups its supplementary groups.
	UID    uint32   `json:"uid,omitempty"`
	GID    uint32   `json:"gid,omitempty"`
	Groups []uint32 `json:"groups,omitempty"`
}

// MountKind tells how a Mount comes to be.
type MountKind string

// The kinds of mounts.
const (
	// Bind shows the host's Source at Target, private to the unit, without what
	// is mounted below Source.
	Bind MountKind = "bind"
	// Slave is Bind with everything mounted below Source, and later mounts and
	// unmounts below Source on the host appear in the unit too, where the
	// host's mount is shared.
	Slave MountKind = "slave"
	// Shared is Slave in both directions: Source must be (below) a shared mount
	// of the host; what the unit mounts below Target is visible to the host and
	// to later units (DESIGN.md section 9, 13). No later Target may be below it.
	Shared MountKind = "shared"
	// Tmpfs is an empty file system in memory, without set-uid and devices. One
	// that is ReadOnly has the targets of later mounts in it, and nothing else.
	Tmpfs MountKind = "tmpfs"
	// Symlink makes a symbolic link at Target that reads Source.
	Symlink MountKind = "symlink"
	// Proc, Sys and Dev are the host's, as a root service in a container sees
	// them. Proc has the host's processes, but the kernel's settings in it are
	// read-only: some of them make the kernel run programs for whoever has uid 0.
	// Sys is read-only with all that is mounted below it, also control groups.
	// Dev is complete: which devices may be used is for device filters to say.
	// For the unrestricted ones use Slave.
	Proc MountKind = "proc"
	Sys  MountKind = "sys"
	Dev  MountKind = "dev"
)

// Mount is one entry of a unit's mount namespace.
type Mount struct {
	Kind MountKind `json:"kind"`
	// Source is an absolute host path, or the content of a symbolic link. Links in
	// a host path are followed, so no part of it may be writable by a snap.
	Source string `json:"source,omitempty"`
	// Inside makes Source a path in the unit's root, as the mounts before this
	// one have left it, and keeps links from leading out of it: for layouts,
	// whose sources are chosen and written to by the snap. Only for Bind. One
	// that does not exist is made, where the unit could make it: a directory, or
	// an empty file with File.
	Inside bool `json:"inside,omitempty"`
	File   bool `json:"file,omitempty"`
	// Target is absolute in the unit's root. Missing parents are made where
	// the file system below them is writable, else by a writable mimic: a tmpfs
	// over the nearest existing parent with everything that it had bound into it.
	// No symbolic link of the base or of a snap is followed out of the root.
	Target string `json:"target"`
	// ReadOnly goes for everything below Source too.
	ReadOnly bool `json:"read_only,omitempty"`
	// Optional mounts are left out when Source does not exist.
	Optional bool `json:"optional,omitempty"`
	// Mode is the permission of a Tmpfs; 0 is 0755.
	Mode uint32 `json:"mode,omitempty"`
}

// String names the mount in errors: "bind /a at /b".
func (m Mount) String() string {
	if m.Source == "" {
		return string(m.Kind) + " at " + m.Target
	}
	return string(m.Kind) + " " + m.Source + " at " + m.Target
}

// ErrProfile is the kind of every error about a profile that cannot be right.
var ErrProfile = errors.New("invalid profile")

// Check reports whether the profile can be carried out at all, on any host.
func (p Profile) Check() error {
	switch p.Root {
	case RootHost, "":
		if len(p.Mounts) > 0 {
			return fmt.Errorf("%w: mounts in the host's own root", ErrProfile)
		}
	case RootEmpty:
	case RootBase:
		if !cleanAbsolute(p.Base) {
			return fmt.Errorf("%w: base %q is not an absolute path", ErrProfile, p.Base)
		}
	default:
		return fmt.Errorf("%w: root %q", ErrProfile, p.Root)
	}
	if _, err := parseCapabilities(p.KeepCapabilities); err != nil {
		return err
	}
	var shared []string
	for _, mount := range p.Mounts {
		if err := mount.check(); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrProfile, mount, err)
		}
		for _, above := range shared {
			if mount.Target == above || strings.HasPrefix(mount.Target, above+"/") {
				return fmt.Errorf("%w: %s: the host would see it below the shared %s", ErrProfile, mount, above)
			}
		}
		if mount.Kind == Shared {
			shared = append(shared, mount.Target)
		}
	}
	return nil
}

func (m Mount) check() error {
	if !cleanAbsolute(m.Target) || m.Target == "/" {
		return errors.New("target is not an absolute path below the root")
	}
	if m.Inside && m.Kind != Bind {
		return errors.New("only a bind can have its source inside")
	}
	if m.Mode&^0o7777 != 0 {
		return errors.New("mode is more than permissions")
	}
	switch m.Kind {
	case Bind, Slave, Shared:
		if !cleanAbsolute(m.Source) {
			return errors.New("source is not an absolute path")
		}
	case Symlink:
		if m.Source == "" {
			return errors.New("symbolic link without content")
		}
	case Tmpfs, Proc, Sys, Dev:
		if m.Source != "" {
			return errors.New("source given where there is none")
		}
	default:
		return fmt.Errorf("unknown kind %q", m.Kind)
	}
	if strings.ContainsRune(m.Source+m.Target, 0) {
		return errors.New("NUL in a path")
	}
	return nil
}

func cleanAbsolute(p string) bool { return path.IsAbs(p) && path.Clean(p) == p }
