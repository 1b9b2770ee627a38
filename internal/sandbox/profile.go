// Package sandbox enters the namespaces and limits that a unit runs in.
//
// A Profile is plain data: it can be stored with the unit, printed, and
// compared. What a process was given when it started is never changed while it
// lives: every start makes a mount namespace of its own, which belongs to that
// unit alone and ends with it.
//
// Any number of processes may be started at the same time.
package sandbox

// Root tells what a unit sees as its root directory.
type Root string

// The roots.
const (
	// RootHost is the host's own mount namespace: classic snaps.
	RootHost Root = "host"
	// RootEmpty is an empty root with only what Mounts put there: "base: bare".
	RootEmpty Root = "empty"
	// RootBase is the tree below Profile.Base, read-only.
	RootBase Root = "base"
)

// Profile says what a process sees and what it may do. The zero value is the
// host's root with all rights of the daemon; see Confined for the usual one.
type Profile struct {
	Root Root `json:"root"`
	// Base is the absolute host path of the mounted base; only with RootBase.
	Base string `json:"base,omitempty"`
	// Mounts are made in order, after the root.
	Mounts []Mount `json:"mounts,omitempty"`
	// KeepCapabilities is the bounding, permitted and effective set that the
	// process starts with (names like "CAP_CHOWN"). With AllCapabilities the
	// daemon's own are kept.
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
	// Bind shows the host's Source at Target, private to the unit.
	Bind MountKind = "bind"
	// Slave is Bind with everything mounted below Source, and later mounts and
	// unmounts below Source on the host appear in the unit too.
	Slave MountKind = "slave"
	// Shared is Slave in both directions: Source must be (below) a shared mount
	// of the host; what the unit mounts below Target is visible to the host and
	// to later units (DESIGN.md section 9, 13).
	Shared MountKind = "shared"
	// Tmpfs is an empty file system in memory.
	Tmpfs MountKind = "tmpfs"
	// Symlink makes a symbolic link at Target that reads Source.
	Symlink MountKind = "symlink"
	// Proc, Sys, Dev and DevPts are the kernel's own file systems as usual in a container:
	// Proc shows the host's processes, Sys is read-only.
	Proc MountKind = "proc"
	Sys  MountKind = "sys"
	Dev  MountKind = "dev"
)

// Mount is one entry of a unit's mount namespace.
type Mount struct {
	Kind MountKind `json:"kind"`
	// Source is a host path, or the content of a symbolic link.
	Source string `json:"source,omitempty"`
	// Target is absolute in the unit's root. Missing parents are made where
	// the file system below them is writable, else by a writable mimic: a tmpfs
	// over the nearest existing parent with everything that it had bound into it.
	// No symbolic link of the base or of a snap is followed out of the root.
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
	// Optional mounts are left out when Source does not exist.
	Optional bool   `json:"optional,omitempty"`
	Mode     uint32 `json:"mode,omitempty"`
}
