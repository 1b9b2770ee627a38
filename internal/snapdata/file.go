package snapdata

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// file is one name in a directory that is not a directory itself.
type file struct {
	pair
	name string
	// src is the file, peeked at; st what it was then.
	src int
	st  *unix.Stat_t
}

func (f file) full() string { return filepath.Join(f.path, f.name) }

func (f file) kind() uint32 { return f.st.Mode & unix.S_IFMT }

// file copies one file, or finds its copy right, or gives another name to a
// copy that was made under the first one.
func (r *run) file(ctx context.Context, f file) error {
	old, exists, err := r.existing(f)
	if err != nil {
		return err
	}
	first, linked := r.links[inodeOf(f.st)]
	if linked {
		done, err := r.relink(ctx, f, first, old, exists)
		if err != nil || done {
			return err
		}
		exists = false
	}
	if exists && r.right(f, &old) {
		r.remember(f, inodeOf(&old))
		return nil
	}
	r.stats.Copied++
	r.touched++
	if exists && f.kind() == unix.S_IFREG && isRegular(&old) && f.st.Nlink == 1 && old.Nlink == 1 {
		return r.rewrite(ctx, f)
	}
	if exists {
		if err := r.clear(ctx, f.pair, f.name); err != nil {
			return err
		}
	}
	return r.create(ctx, f)
}

func isRegular(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG }

// existing is what the copy has under this name.
func (r *run) existing(f file) (st unix.Stat_t, exists bool, err error) {
	if !r.update {
		return st, false, nil
	}
	err = unix.Fstatat(f.dst, f.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return st, false, nil
	}
	return st, err == nil, err
}

// relink makes the name one more of the file that l is. It reports false if
// that is no longer possible; then nothing has that name.
func (r *run) relink(ctx context.Context, f file, l link, old unix.Stat_t, exists bool) (bool, error) {
	if exists {
		if inodeOf(&old) == l.file {
			return true, nil
		}
		if err := r.clear(ctx, f.pair, f.name); err != nil {
			return false, err
		}
	}
	r.touched++
	return r.linkTo(l, f.dst, f.name)
}

// right tells whether the copy is known to be right without a look inside.
func (r *run) right(f file, old *unix.Stat_t) bool {
	return f.inPlace && r.known.trusts(f.st) &&
		old.Mode == f.st.Mode && old.Uid == f.st.Uid && old.Gid == f.st.Gid && old.Size == f.st.Size &&
		old.Mtim == f.st.Mtim && old.Rdev == f.st.Rdev && (old.Nlink == 1) == (f.st.Nlink == 1)
}

func (r *run) remember(f file, made Inode) {
	if f.st.Nlink > 1 {
		r.links[inodeOf(f.st)] = link{path: f.full(), file: made}
	}
}

// create makes the copy of a file under a name that is free.
func (r *run) create(ctx context.Context, f file) error {
	var err error
	switch f.kind() {
	case unix.S_IFREG:
		return r.createRegular(ctx, f)
	case unix.S_IFLNK:
		err = copySymlink(f)
	case unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
		err = unix.Mknodat(f.dst, f.name, f.kind()|0o600, int(f.st.Rdev)) //nolint:gosec // The call's own type.
	default:
		return fmt.Errorf("unknown kind of file (mode %o)", f.st.Mode)
	}
	if err != nil {
		return err
	}
	fd, made, err := peek(f.dst, f.name)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // Only looked at.
	if made.Mode&unix.S_IFMT != f.kind() {
		return errors.New("the copy was changed by somebody else")
	}
	r.remember(f, inodeOf(&made))
	return copyAttributes(f.src, fd, f.st)
}

func copySymlink(f file) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(f.src, "", buf)
	if err != nil {
		return err
	}
	return unix.Symlinkat(string(buf[:n]), f.dst, f.name)
}

func (r *run) createRegular(ctx context.Context, f file) error {
	dst, err := openAt(f.dst, f.name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(dst) //nolint:errcheck // Durability is the matter of Sync, and of unsynced.
	var made unix.Stat_t
	if err := unix.Fstat(dst, &made); err != nil {
		return err
	}
	if err := r.contents(ctx, f, dst, r.data.copy); err != nil {
		return err
	}
	r.remember(f, inodeOf(&made))
	return r.finish(f, dst)
}

// rewrite makes a copy right that has one name, like its original.
func (r *run) rewrite(ctx context.Context, f file) error {
	dst, err := openAt(f.dst, f.name, unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dst) //nolint:errcheck // Durability is the matter of Sync, and of unsynced.
	if err := r.contents(ctx, f, dst, r.data.update); err != nil {
		return err
	}
	return r.finish(f, dst)
}

// finish gives a copy, which has its contents, the attributes of the original.
func (r *run) finish(f file, dst int) error {
	if err := copyAttributes(f.src, dst, f.st); err != nil {
		return err
	}
	return r.touch(dst)
}

// contents has how fill dst from the source.
func (r *run) contents(ctx context.Context, f file, dst int, how func(ctx context.Context, dst, src int) (int64, bool, error)) error {
	src, err := openPeeked(f.src)
	if err != nil {
		return err
	}
	defer unix.Close(src) //nolint:errcheck // Only read.
	n, cloned, err := how(ctx, dst, src)
	r.stats.Bytes += n
	if cloned {
		r.stats.Cloned++
	}
	return err
}
