package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// attribute is the name of a record of an extended attribute, as GNU tar and others have it.
const attribute = "SCHILY.xattr."

// pack writes a tree: names, contents, modes, owners, times, extended attributes,
// symlinks, hard links, fifos and devices. Sockets are nothing without who listens, and left out.
func pack(ctx context.Context, to io.Writer, dir string) error {
	// Holes are zeros here; those compress to nothing at any level.
	compressed, err := gzip.NewWriterLevel(to, gzip.BestSpeed)
	if err != nil {
		return err
	}
	p := packer{out: tar.NewWriter(compressed), first: map[inode]string{}}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		if err := p.entry(path, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	return errors.Join(err, p.out.Close(), compressed.Close())
}

type inode struct{ dev, ino uint64 }

type packer struct {
	out *tar.Writer
	// first is the first name of each file that has several.
	first map[inode]string
}

func (p *packer) entry(path, name string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	header := &tar.Header{
		Format: tar.FormatPAX, Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), PAXRecords: map[string]string{},
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		header.Typeflag, header.Size = tar.TypeReg, st.Size
		file := inode{st.Dev, st.Ino}
		if linked, seen := p.first[file]; seen {
			header.Typeflag, header.Size, header.Linkname = tar.TypeLink, 0, linked
		} else if st.Nlink > 1 {
			p.first[file] = name
		}
	case unix.S_IFDIR:
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
	case unix.S_IFLNK:
		header.Typeflag = tar.TypeSymlink
		header.Linkname, err = os.Readlink(path)
	case unix.S_IFIFO:
		header.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		header.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			header.Typeflag = tar.TypeBlock
		}
		header.Devmajor, header.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil
	}
	if err == nil && header.Typeflag != tar.TypeLink {
		err = attributesOf(path, header.PAXRecords)
	}
	if err == nil {
		err = p.out.WriteHeader(header)
	}
	if err != nil || header.Size == 0 {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // Only read.
	_, err = io.Copy(p.out, file)
	return err
}

// attributesOf adds the extended attributes of a file to records.
func attributesOf(path string, records map[string]string) error {
	names, err := readAll(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.EOPNOTSUPP) || len(names) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		value, err := readAll(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
		records[attribute+name] = string(value)
	}
	return nil
}

// readAll asks with no room, and again with enough.
func readAll(read func([]byte) (int, error)) ([]byte, error) {
	n, err := read(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	b := make([]byte, n)
	n, err = read(b)
	return b[:max(n, 0)], err
}

// unpack makes in dir what pack has written, or, with no dir, only reads it.
func unpack(ctx context.Context, from io.Reader, dir string) error {
	compressed, err := gzip.NewReader(from)
	if err != nil {
		return broken(err)
	}
	in := tar.NewReader(compressed)
	u := &unpacker{in: in}
	if dir != "" {
		if u.root, err = os.OpenRoot(dir); err != nil {
			return err
		}
		defer u.root.Close() //nolint:errcheck // Nothing is pending in it.
	}
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			// So that its digest is seen.
			if _, err := io.Copy(io.Discard, compressed); err != nil {
				return broken(err)
			}
			return u.finish()
		}
		if err != nil {
			return broken(err)
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := u.entry(header); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
	}
}

type unpacker struct {
	in   *tar.Reader
	root *os.Root
	// dirs get their modes and times when all is in them.
	dirs []*tar.Header
}

func (u *unpacker) entry(h *tar.Header) error {
	name := filepath.Clean(h.Name)
	if !filepath.IsLocal(name) {
		return fmt.Errorf("%w: it leads out of the archive", ErrBroken)
	}
	if u.root == nil {
		_, err := io.Copy(io.Discard, u.in)
		if err != nil {
			return broken(err)
		}
		return nil
	}
	h.Name = name
	switch h.Typeflag {
	case tar.TypeDir:
		u.dirs = append(u.dirs, h)
		return u.root.Mkdir(name, 0o700)
	case tar.TypeReg:
		return u.file(h)
	case tar.TypeLink:
		return u.root.Link(filepath.Clean(h.Linkname), name)
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
	case tar.TypeFifo:
		return u.node(h, unix.S_IFIFO, 0)
	case tar.TypeChar, tar.TypeBlock:
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		return u.node(h, kind, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))) //nolint:gosec // As pack has written them.
	default:
		return fmt.Errorf("%w: it is of kind %q", ErrBroken, h.Typeflag)
	}
	return u.finishOne(h)
}

func (u *unpacker) file(h *tar.Header) error {
	file, err := u.root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = sparsely(file, u.in, h.Size)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return u.finishOne(h)
}

// block is how long a run of zeros has to be to become a hole.
const block = 64 << 10

// sparsely copies with holes for zeros.
func sparsely(file *os.File, from io.Reader, size int64) error {
	buf, zeros := make([]byte, block), make([]byte, block)
	for at := int64(0); at < size; {
		n, err := io.ReadFull(from, buf[:min(block, size-at)])
		if err != nil {
			return broken(err)
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := file.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return file.Truncate(size)
}

func (u *unpacker) node(h *tar.Header, kind uint32, dev int) error {
	parent, err := u.root.Open(filepath.Dir(h.Name))
	if err != nil {
		return err
	}
	defer parent.Close() //nolint:errcheck // Opened for its name.
	if err := unix.Mknodat(int(parent.Fd()), filepath.Base(h.Name), kind|0o600, dev); err != nil {
		return err
	}
	return u.finishOne(h)
}

// finish gives directories what is theirs, the innermost first.
func (u *unpacker) finish() error {
	for _, dir := range slices.Backward(u.dirs) {
		if err := u.finishOne(dir); err != nil {
			return fmt.Errorf("%s: %w", dir.Name, err)
		}
	}
	return nil
}

// finishOne gives a file its owner, its mode, its attributes and its time, in this order: a new
// owner takes capabilities away.
func (u *unpacker) finishOne(h *tar.Header) error {
	parent, err := u.root.Open(filepath.Dir(h.Name))
	if err != nil {
		return err
	}
	defer parent.Close() //nolint:errcheck // Opened for its name.
	at, base := int(parent.Fd()), filepath.Base(h.Name)
	if err := unix.Fchownat(at, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(at, base, uint32(h.Mode)&0o7777, 0); err != nil { //nolint:gosec // As pack has written it.
			return err
		}
	}
	path := fmt.Sprintf("/proc/self/fd/%d/%s", at, base)
	for name, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(name, attribute); ok {
			if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
				return fmt.Errorf("attribute %s: %w", name, err)
			}
		}
	}
	stamp := unix.NsecToTimespec(h.ModTime.UnixNano())
	return unix.UtimesNanoAt(at, base, []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW)
}
