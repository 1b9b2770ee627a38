package snapfile

// Layout is one change to the file system that a snap with a base sees.
type Layout struct {
	// Target is absolute and clean; it may start with $SNAP, $SNAP_DATA or
	// $SNAP_COMMON.
	Target string     `json:"target"`
	Kind   LayoutKind `json:"kind"`
	// Source starts with $SNAP, $SNAP_DATA or $SNAP_COMMON and does not leave
	// it. It is empty for tmpfs.
	Source string `json:"source,omitempty"`
	// User and Group are always "root": the format allows no other yet.
	User  string `json:"user"`
	Group string `json:"group"`
	// Mode is the permission of directories that have to be made; 0755 unless
	// the file says otherwise, at most 01777.
	Mode uint32 `json:"mode"`
}

// LayoutKind is how a layout is made.
type LayoutKind string

// The kinds of layouts.
const (
	LayoutBind     LayoutKind = "bind"
	LayoutBindFile LayoutKind = "bind-file"
	LayoutSymlink  LayoutKind = "symlink"
	LayoutTmpfs    LayoutKind = "tmpfs"
)
