package squash

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// unpackArg is where a child unpacks: below its second extra file.
const unpackArg = "/proc/self/fd/4/tree"

// chatter bounds what unsquashfs says when it unpacks.
const chatter = 1 << 20

// Unpack unpacks a snap file into a new directory below dir, which it returns. It takes
// entries, as List gave them, for what is in it, and fails with ErrTooBig if that is more
// than size bytes, or, if size is 0, than half of the disk space that is free there: the
// other half is for what is made of it. Who lets others change the file in between gets an error or another
// snap, of no more than that many bytes in each file. The child owns dir and all that is
// below it: nobody else should get at it.
func (r *Reader) Unpack(ctx context.Context, snapPath string, entries []Entry, dir string, size int64) (tree string, err error) {
	if size == 0 {
		if size, err = halfFree(dir); err != nil {
			return "", fmt.Errorf("unpack snap file %s: %w", snapPath, err)
		}
	}
	var largest, all int64
	for i := range entries {
		largest, all = max(largest, entries[i].Size), all+entries[i].Size
		if entries[i].Size > size || all > size {
			return "", fmt.Errorf("unpack snap file %s: %w: it has more than %d bytes", snapPath, ErrTooBig, size)
		}
	}
	if err := r.unpack(ctx, snapPath, dir, largest); err != nil {
		return "", fmt.Errorf("unpack snap file %s: %w", snapPath, err)
	}
	return dir + "/tree", nil
}

// halfFree is half of the bytes that are free in the file system of a directory.
func halfFree(dir string) (int64, error) {
	var free unix.Statfs_t
	err := unix.Statfs(dir, &free)
	return int64(free.Bavail) * free.Bsize / 2, err //nolint:gosec // No file system is as large.
}

func (r *Reader) unpack(ctx context.Context, snapPath, dir string, largest int64) error {
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, int(r.cfg.UID), int(r.cfg.GID)); err != nil {
			return err
		}
	}
	into, err := os.Open(dir)
	if err != nil {
		return err
	}
	lim := limits{output: chatter, memory: r.cfg.Memory, file: largest, into: into}
	silent := func([]byte) error { return nil }
	return errors.Join(
		r.run(ctx, snapPath, lim, silent, "-no-progress", "-no-xattrs", "-da", "16", "-fr", "16", "-d", unpackArg, imageArg),
		into.Close(),
	)
}
