package squash

import (
	"fmt"
	"io/fs"
	"strings"
)

// CheckOptions tell what kind of snap the files belong to.
type CheckOptions struct {
	// Base and Classic snaps may contain set-uid and set-gid files, which the
	// mount makes ineffective.
	Base, Classic bool
}

// Check tells whether a snap may contain what List found. Its errors are of
// the kind ErrForbidden and name the first file that is wrong.
//
// Symlinks may point anywhere: bases are full of absolute ones, they are only
// ever followed inside a unit. What the daemon itself reads, the root and meta
// with its hooks, must be what it seems.
func Check(entries []Entry, opts CheckOptions) error {
	if len(entries) == 0 {
		return fmt.Errorf("%w: it is empty", ErrForbidden)
	}
	for _, e := range entries {
		if err := e.check(opts); err != nil {
			return err
		}
	}
	return checkMeta(entries)
}

func (e Entry) check(opts CheckOptions) error {
	switch {
	case !cleanPath(e.Path):
		return fmt.Errorf("%w: the file name %q", ErrForbidden, e.Path)
	case hasControl(e.Path):
		return fmt.Errorf("%w: a control character in the file name %q", ErrForbidden, e.Path)
	case hasControl(e.Target):
		return fmt.Errorf("%w: a control character in the target %q of symlink %s", ErrForbidden, e.Target, e.Path)
	case e.Mode&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0:
		return fmt.Errorf("%w: %s is %s", ErrForbidden, e.Path, kindOf(e.Mode))
	case e.Mode.IsRegular() && e.Mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 && !opts.Base && !opts.Classic:
		return fmt.Errorf("%w: %s is set-uid or set-gid (only bases and classic snaps may contain such files)", ErrForbidden, e.Path)
	}
	return nil
}

// checkMeta checks the places that the daemon reads, writes into or mounts.
// Entries that occur twice are each checked.
func checkMeta(entries []Entry) error {
	var root, meta, yaml bool
	for _, e := range entries {
		var err error
		switch {
		case e.Path == ".":
			root, err = true, wantDir(e, 0o555)
		case e.Path == "meta":
			meta, err = true, wantDir(e, 0)
		case e.Path == "meta/hooks":
			err = wantDir(e, 0)
		case e.Path == "meta/snap.yaml":
			yaml, err = true, wantFile(e)
		case strings.HasPrefix(e.Path, "meta/hooks/"):
			err = wantFile(e)
		}
		if err != nil {
			return err
		}
	}
	if !root || !meta || !yaml {
		return fmt.Errorf("%w: it has no meta/snap.yaml", ErrForbidden)
	}
	return nil
}

func wantDir(e Entry, perm fs.FileMode) error {
	name := e.Path
	if name == "." {
		name = "its root"
	}
	if !e.Mode.IsDir() {
		return fmt.Errorf("%w: %s is %s (want a directory)", ErrForbidden, name, describe(e))
	}
	if e.Mode.Perm()&perm != perm {
		return fmt.Errorf("%w: %s has mode %04o (everybody must be able to read and enter it)", ErrForbidden, name, e.Mode.Perm())
	}
	return nil
}

func wantFile(e Entry) error {
	if !e.Mode.IsRegular() {
		return fmt.Errorf("%w: %s is %s (want a regular file)", ErrForbidden, e.Path, describe(e))
	}
	return nil
}

func describe(e Entry) string {
	if e.Mode.IsRegular() {
		return "a regular file"
	}
	return kindOf(e.Mode)
}
