package snapdata

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrMounted means that something is mounted in a directory that was to be
// removed. What is mounted is never touched.
var ErrMounted = errors.New("something is mounted in it")

// Remove removes a directory with all that is in it. It follows no symlink and
// crosses no mount point. It is no error if there is none. If it fails, or its
// context ends, a part may be left and it can be called again.
func Remove(ctx context.Context, dir string) error {
	// The way to dir is the caller's choice; it may be one of /proc's links to descriptors.
	parent, err := openDir(filepath.Dir(dir), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer parent.close()
		w := wrecker{top: parent.fd}
		err = w.remove(ctx, parent.fd, filepath.Base(dir), 0)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// wreckDepth is how far directories are followed down; what is deeper is first
// moved up, so that a tree can be as deep as it likes.
const wreckDepth = 100

// wrecker removes trees.
type wrecker struct {
	// top is the directory that deep directories are moved to: at first the
	// parent of the tree, then its top.
	top int
}

// remove removes one name.
func (w *wrecker) remove(ctx context.Context, dir int, name string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := unix.Unlinkat(dir, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %s", ErrMounted, name)
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		return fmt.Errorf("remove %q: %w", name, err)
	}
	if depth > wreckDepth {
		return w.raise(dir, name)
	}
	return w.directory(ctx, dir, name, depth)
}

// raise moves what is too deep to the top. Its new name is one that nobody foresees: who has made the tree
// could have a directory of that name there with this one in it, and nothing can be moved into what is below it.
func (w *wrecker) raise(dir int, name string) error {
	err := unix.Renameat(dir, name, w.top, ".tenure-remove-"+rand.Text())
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %s", ErrMounted, name)
	}
	return fmt.Errorf("move %q up: %w", name, err)
}

// directory removes a directory. It reads it again until it is empty, for deep
// directories may have been moved into it.
func (w *wrecker) directory(ctx context.Context, dir int, name string, depth int) error {
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("%w: %s", ErrMounted, name)
	case err != nil:
		return fmt.Errorf("open %q: %w", name, err)
	}
	defer unix.Close(fd) //nolint:errcheck // Only read.
	if depth == 0 {
		w.top = fd
	}
	for {
		err := eachName(fd, func(n string) error { return w.remove(ctx, fd, n, depth+1) })
		if err != nil {
			return err
		}
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("%w: %s", ErrMounted, name)
		case !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST):
			return fmt.Errorf("remove directory %q: %w", name, err)
		}
	}
}

const asideSuffix = ".aside"

// AsidePath is where Aside keeps dir.
func AsidePath(dir string) string { return filepath.Clean(dir) + asideSuffix }

// AsideOf is the directory that is kept aside at path, if one is.
func AsideOf(path string) (dir string, ok bool) { return strings.CutSuffix(path, asideSuffix) }

// Aside moves a directory out of the way, to AsidePath, where Restore finds it.
// It is no error if it was done before. It fails with fs.ErrExist if there is
// both a directory and an older one kept aside.
func Aside(dir string) error { return move(dir, AsidePath(dir)) }

// Restore moves back what Aside has moved away. It is no error if it was done
// before, or if there was nothing to move. It fails with fs.ErrExist if another
// directory has taken the place.
func Restore(dir string) error { return move(AsidePath(dir), dir) }

// move renames a directory durably, never onto another.
func move(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.LinkError{Op: "move", Old: from, New: to, Err: err}
	}
	d, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("move %s to %s: %w", from, to, err)
	}
	return nil
}
