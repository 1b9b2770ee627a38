package snapdata

import (
	"bytes"
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

const (
	// chunk is what is copied between two looks at the context.
	chunk = 16 << 20
	block = 256 << 10
)

// copier copies the bytes of files, in the best way that has not failed yet.
type copier struct {
	noClone, noRange bool
	a, b             []byte
}

// copy fills dst, which is empty, from src.
func (c *copier) copy(ctx context.Context, dst, src int) (n int64, cloned bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return 0, false, err
	}
	if st.Size == 0 {
		return 0, false, nil
	}
	if c.clone(dst, src) {
		return st.Size, true, nil
	}
	err = extents(src, 0, st.Size, func(from, to int64) error {
		m, err := c.span(ctx, dst, src, from, to)
		n += m
		return err
	})
	if err == nil {
		err = unix.Ftruncate(dst, st.Size)
	}
	return n, false, err
}

// update makes the contents of dst, whatever they are, those of src: by sharing
// blocks, else by writing only what differs.
func (c *copier) update(ctx context.Context, dst, src int) (n int64, cloned bool, err error) {
	var st, old unix.Stat_t
	if err := errors.Join(unix.Fstat(src, &st), unix.Fstat(dst, &old)); err != nil {
		return 0, false, err
	}
	if !c.noClone && st.Size > 0 {
		if err := unix.Ftruncate(dst, 0); err != nil {
			return 0, false, err
		}
		if c.clone(dst, src) {
			return st.Size, true, nil
		}
	}
	if err := unix.Ftruncate(dst, st.Size); err != nil {
		return 0, false, err
	}
	at := int64(0)
	err = extents(src, 0, st.Size, func(from, to int64) error {
		if err := punch(dst, at, from); err != nil {
			return err
		}
		at = to
		m, err := c.patch(ctx, dst, src, from, to)
		n += m
		return err
	})
	if err == nil {
		err = punch(dst, at, st.Size)
	}
	return n, false, err
}

// clone shares all blocks of src with dst. It reports false if that is not
// possible, and does not try again if it is not possible here at all.
func (c *copier) clone(dst, src int) bool {
	if c.noClone {
		return false
	}
	err := unix.IoctlFileClone(dst, src)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOSYS) {
		c.noClone = true
	}
	return err == nil
}

// extents calls do for every part of a file from one offset to another that has
// data. A file system that does not tell holes has none.
func extents(fd int, from, to int64, do func(from, to int64) error) error {
	for from < to {
		start, err := unix.Seek(fd, from, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return do(from, to)
		}
		if start >= to {
			return nil
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if err != nil || end <= start {
			end = to
		}
		end = min(end, to)
		if err := do(start, end); err != nil {
			return err
		}
		from = end
	}
	return nil
}

// span copies a part of a file, in the kernel where that is possible. A file
// that has become shorter ends the copy; its times tell.
func (c *copier) span(ctx context.Context, dst, src int, from, to int64) (int64, error) {
	start := from
	for from < to && !c.noRange {
		if err := ctx.Err(); err != nil {
			return from - start, err
		}
		in, out := from, from
		n, err := unix.CopyFileRange(src, &in, dst, &out, int(min(to-from, chunk)), 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			c.noRange = true
		case err != nil:
			return from - start, err
		case n == 0:
			return from - start, nil
		}
		from += int64(max(n, 0))
	}
	if from == to {
		return from - start, nil
	}
	n, err := c.patch(ctx, dst, src, from, to)
	return from - start + n, err
}

// patch compares a part of two files and writes what differs.
func (c *copier) patch(ctx context.Context, dst, src int, from, to int64) (written int64, err error) {
	if c.a == nil {
		c.a, c.b = make([]byte, block), make([]byte, block)
	}
	for from < to {
		if err := ctx.Err(); err != nil {
			return written, err
		}
		want := int(min(to-from, block))
		n, err := pread(src, c.a[:want], from)
		if err != nil || n == 0 {
			return written, err
		}
		m, err := pread(dst, c.b[:n], from)
		if err != nil {
			return written, err
		}
		if !bytes.Equal(c.a[:n], c.b[:m]) {
			if err := pwrite(dst, c.a[:n], from); err != nil {
				return written, err
			}
			written += int64(n)
		}
		from += int64(n)
	}
	return written, nil
}

// punch makes a part of a file read as zeros, and take no space where the file
// system can.
func punch(fd int, from, to int64) error {
	return extents(fd, from, to, func(from, to int64) error {
		err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
			return err
		}
		zeros := make([]byte, block)
		for ; from < to; from += block {
			if err := pwrite(fd, zeros[:min(to-from, block)], from); err != nil {
				return err
			}
		}
		return nil
	})
}

// pread reads until b is full or the file ends.
func pread(fd int, b []byte, at int64) (int, error) {
	n := 0
	for n < len(b) {
		m, err := unix.Pread(fd, b[n:], at+int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, nil
		}
		n += m
	}
	return n, nil
}

func pwrite(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}
