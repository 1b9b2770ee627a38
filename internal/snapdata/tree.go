package snapdata

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDepth bounds the descriptors that are open at a time: two and a bit for
// each level.
const maxDepth = 1000

// run is one pass over a tree.
type run struct {
	opts  Options
	stats Stats
	top   int
	// update tells that the copy may have something already.
	update bool
	known  knowledge
	// dirs collects the directories of the first pass.
	dirs map[uint64]bool
	// beforeData, if set, is called once, before the first regular file is read.
	beforeData func() error
	// links has, for each file with several names in the source, its first name
	// in the copy.
	links map[Inode]link
	data  copier
	// unsynced is what the second pass has changed; touched counts it.
	unsynced unsynced
	touched  int
}

// link is a file in the copy that may get further names.
type link struct {
	path string
	file Inode
}

func newRun(opts Options, top int) *run {
	return &run{opts: opts, top: top, links: map[Inode]link{}}
}

// pair is a directory of the source and the one that becomes its copy.
type pair struct {
	src, dst int
	path     string
	depth    int
	// inPlace tells that the source directory is the one that the first pass
	// found here.
	inPlace bool
}

func (r *run) tree(ctx context.Context, src, dst *root) error {
	d := pair{src: src.fd, dst: dst.fd}
	if err := r.dir(ctx, d, &src.st); err != nil {
		return err
	}
	r.progress()
	return nil
}

// dir copies what is in a directory, removes what is no longer, and last gives
// the copy the attributes of the original.
func (r *run) dir(ctx context.Context, d pair, st *unix.Stat_t) error {
	if d.depth > maxDepth {
		return fmt.Errorf("%w (more than %d): %.200s", ErrTooDeep, maxDepth, d.path)
	}
	r.stats.Dirs++
	if r.dirs != nil {
		r.dirs[dirKey(st, d.path)] = true
	}
	d.inPlace = r.known.inPlace(st, d.path)
	before := r.touched
	err := eachName(d.src, func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := r.entry(ctx, d, name)
		if vanished(err) {
			return nil
		}
		return err
	})
	if err == nil && r.update {
		err = r.prune(ctx, d)
	}
	if err != nil {
		return err
	}
	if err := copyAttributes(d.src, d.dst, st); err != nil {
		return fmt.Errorf("copy attributes of directory %q: %w", d.path, err)
	}
	if r.touched != before {
		return r.touch(d.dst)
	}
	return nil
}

// errVanished means that a file of the source is no longer what its name said.
var errVanished = errors.New("the file has vanished")

func vanished(err error) bool { return errors.Is(err, errVanished) }

// entry copies one name.
func (r *run) entry(ctx context.Context, d pair, name string) error {
	fd, st, err := peek(d.src, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return errVanished
	case errors.Is(err, unix.EXDEV):
		return r.mountPoint(ctx, d, name)
	case err != nil:
		return fmt.Errorf("look at %q: %w", filepath.Join(d.path, name), err)
	}
	defer unix.Close(fd) //nolint:errcheck // Only looked at.
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return r.subdir(ctx, d, name, fd, &st)
	}
	r.stats.Files++
	if st.Mode&unix.S_IFMT == unix.S_IFREG && r.beforeData != nil {
		before := r.beforeData
		r.beforeData = nil
		if err := before(); err != nil {
			return err
		}
	}
	f := file{pair: d, name: name, src: fd, st: &st}
	if err := r.file(ctx, f); err != nil && !vanished(err) {
		return fmt.Errorf("copy %q: %w", f.full(), err)
	}
	if r.stats.Files%64 == 0 {
		r.progress()
	}
	return nil
}

func (r *run) progress() {
	if r.opts.Progress != nil {
		r.opts.Progress(r.stats)
	}
}

// subdir copies a directory that was peeked at.
func (r *run) subdir(ctx context.Context, d pair, name string, fd int, st *unix.Stat_t) error {
	dst, err := r.makeDir(ctx, d, name)
	if err != nil {
		return fmt.Errorf("make directory %q: %w", filepath.Join(d.path, name), err)
	}
	defer unix.Close(dst) //nolint:errcheck // A directory.
	return r.dir(ctx, pair{src: fd, dst: dst, path: filepath.Join(d.path, name), depth: d.depth + 1}, st)
}

// makeDir opens the directory name in the copy, and makes it if it is missing
// or something else.
func (r *run) makeDir(ctx context.Context, d pair, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	if r.update {
		fd, err := openAt(d.dst, name, flags, 0)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.ENOENT) {
			if err := r.clear(ctx, d, name); err != nil {
				return -1, err
			}
		}
	}
	if err := unix.Mkdirat(d.dst, name, 0o700); err != nil {
		return -1, err
	}
	r.touched++
	return openAt(d.dst, name, flags, 0)
}

// mountPoint copies a name that something is mounted on: as an empty directory,
// or an empty file, that the same can be mounted on.
func (r *run) mountPoint(ctx context.Context, d pair, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(d.src, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		return errVanished
	}
	if r.update {
		if err := r.clear(ctx, d, name); err != nil {
			return err
		}
	}
	var err error
	r.touched++
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		r.stats.Dirs++
		err = unix.Mkdirat(d.dst, name, st.Mode&0o7777)
	} else {
		r.stats.Files++
		err = unix.Mknodat(d.dst, name, unix.S_IFREG|0o600, 0)
	}
	if err == nil {
		err = unix.Fchownat(d.dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("make %q, on which something is mounted: %w", filepath.Join(d.path, name), err)
	}
	return nil
}

// prune removes from the copy what is not in the source.
func (r *run) prune(ctx context.Context, d pair) error {
	return eachName(d.dst, func(name string) error {
		var st unix.Stat_t
		err := unix.Fstatat(d.src, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
		if !errors.Is(err, unix.ENOENT) {
			return ctx.Err()
		}
		r.stats.Removed++
		return r.clear(ctx, d, name)
	})
}

// clear removes a name from the copy, with all that is below.
func (r *run) clear(ctx context.Context, d pair, name string) error {
	r.touched++
	w := wrecker{top: d.dst}
	if err := w.remove(ctx, d.dst, name, 0); err != nil {
		return fmt.Errorf("remove %q from the copy: %w", filepath.Join(d.path, name), err)
	}
	return nil
}

// linkTo gives a file of the copy another name. It reports false if the file is
// no longer where it was put.
func (r *run) linkTo(l link, dir int, name string) (bool, error) {
	parent := r.top
	names := strings.Split(l.path, "/")
	for _, n := range names[:len(names)-1] {
		fd, err := openAt(parent, n, unix.O_PATH|unix.O_DIRECTORY, 0)
		if parent != r.top {
			_ = unix.Close(parent)
		}
		if err != nil {
			return false, err
		}
		parent = fd
	}
	if parent != r.top {
		defer unix.Close(parent) //nolint:errcheck // A directory.
	}
	if err := unix.Linkat(parent, names[len(names)-1], dir, name, 0); err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	if inodeOf(&st) == l.file {
		return true, nil
	}
	return false, unix.Unlinkat(dir, name, 0)
}
