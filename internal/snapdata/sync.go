package snapdata

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// smallCopy is how many files and directories of a copy are waited for one by one.
const smallCopy = 64

// Sync makes copies survive a power failure after their first pass. A small one is waited for
// by itself; for another the whole file system is, with all that others have written
// there. Both belong outside of the gap; what the second pass changes, it waits for itself.
func Sync(ctx context.Context, passes ...*Pass) error {
	done := map[uint64]bool{}
	for _, p := range passes {
		if err := p.sync(ctx, done); err != nil {
			return fmt.Errorf("sync %s: %w", p.Dst, err)
		}
	}
	return nil
}

// sync is Sync for one copy; whole has the file systems that were waited for as a whole.
func (p *Pass) sync(ctx context.Context, whole map[uint64]bool) error {
	dst, err := openRoot(p.Dst)
	if err != nil {
		return err
	}
	defer dst.close()
	if whole[dst.st.Dev] {
		return nil
	}
	if p.Stats.Files+p.Stats.Dirs > smallCopy {
		whole[dst.st.Dev] = true
		return unix.Syncfs(dst.fd)
	}
	err = each(ctx, dst.fd)
	if err == nil {
		err = syncDir(filepath.Dir(p.Dst))
	}
	if errors.Is(err, errGrown) {
		return unix.Syncfs(dst.fd)
	}
	return err
}

func syncDir(path string) error {
	dir, err := openDir(path, 0)
	if err != nil {
		return err
	}
	defer dir.close()
	return unix.Fsync(dir.fd)
}

// each waits for every file and directory of a copy.
func each(ctx context.Context, top int) error {
	// First everything is on its way to the disk, so that the waits are one.
	begin := visitor{left: 2 * smallCopy, file: func(fd int) error { return unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) }}
	if err := begin.visit(ctx, top); err != nil {
		return err
	}
	wait := visitor{left: 2 * smallCopy, file: unix.Fsync, dir: unix.Fsync}
	return wait.visit(ctx, top)
}

// errGrown means that there is more in a copy than was copied: who owns a part of it
// may do anything there.
var errGrown = errors.New("there is more than was copied")

// visitor goes over what is in a directory.
type visitor struct {
	// left is how many names there may be.
	left int
	// file is called for every regular file, dir, if it is set, for every directory
	// after what is below it.
	file, dir func(fd int) error
}

func (v *visitor) visit(ctx context.Context, top int) error {
	err := eachName(top, func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if v.left--; v.left < 0 {
			return errGrown
		}
		if err := v.entry(ctx, top, name); !elsewhere(err) {
			return err
		}
		return nil
	})
	if err == nil && v.dir != nil {
		err = v.dir(top)
	}
	return err
}

// elsewhere tells whether a name is no longer what was copied to it.
func elsewhere(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

func (v *visitor) entry(ctx context.Context, top int, name string) error {
	fd, st, err := peek(top, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // Only looked at.
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		below, err := openAt(top, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(below) //nolint:errcheck // Only read.
		return v.visit(ctx, below)
	case unix.S_IFREG:
		opened, err := openPeeked(fd)
		if err != nil {
			return err
		}
		defer unix.Close(opened) //nolint:errcheck // Only read.
		return v.file(opened)
	}
	return nil
}

// unsynced are the files and directories of a copy that have been changed, and that no disk may
// have yet. Many of them are not kept: the whole file system is waited for then.
type unsynced struct {
	fds  []int
	many bool
}

// touch notes that what fd is open at was changed in the second pass, and sends it on its way to
// the disk, so that the waits for all are one.
func (r *run) touch(fd int) error {
	if !r.update || r.unsynced.many {
		return nil
	}
	if len(r.unsynced.fds) == smallCopy {
		r.unsynced.forget()
		r.unsynced.many = true
		return nil
	}
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("keep what was changed: %w", err)
	}
	r.unsynced.fds = append(r.unsynced.fds, kept)
	// A directory, and a file system that cannot do it, are waited for at the end.
	_ = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	return nil
}

// sync waits until everything is on the disk that top is on.
func (u *unsynced) sync(top int) error {
	if u.many {
		return unix.Syncfs(top)
	}
	for _, fd := range u.fds {
		if err := unix.Fsync(fd); err != nil {
			return err
		}
	}
	return nil
}

func (u *unsynced) forget() {
	for _, fd := range u.fds {
		_ = unix.Close(fd) // What was written is waited for by sync.
	}
	u.fds = nil
}
