package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// attribute is the name of a record of an extended attribute, as GNU tar and others have it.
const attribute = "SCHILY.xattr."

// escaped makes the name of an attribute one that can be in a record, whose name ends at the first
// "=", as GNU tar does.
func escaped(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "%", "%25"), "=", "%3D")
}

// plain is a name before escaped.
func plain(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "%3D", "="), "%25", "%")
}

// maxAttributes bounds the attributes of one file, in bytes: a tar header with its records, of which
// the path is one, has a MiB of room.
const maxAttributes = 512 << 10

// sparse is the name of the record that a file has which is more hole than data: its size. Its content
// then is its parts, each as its offset and its length (64 bits, the highest byte first) and that many bytes.
const sparse = "TENURE.sparse.size"

// partHead is how long what is before the bytes of a part is.
const partHead = 16

// pack writes a tree: names, contents, modes, owners, times, extended attributes,
// symlinks, hard links, fifos and devices. Sockets are nothing without who listens, and left out.
// What cannot be written of a file is given to note in a sentence. Paths may be longer than the system takes.
func pack(ctx context.Context, to io.Writer, dir string, note func(string)) error {
	compressed, err := gzip.NewWriterLevel(to, gzip.BestSpeed)
	if err != nil {
		return err
	}
	p := packer{out: tar.NewWriter(compressed), first: map[inode]string{}, note: note}
	top, err := os.Open(dir)
	if err == nil {
		err = p.dir(ctx, top, "")
	}
	return errors.Join(err, p.out.Close(), compressed.Close())
}

type inode struct{ dev, ino uint64 }

type packer struct {
	out *tar.Writer
	// first is the first name of each file that has several.
	first map[inode]string
	note  func(string)
}

// dir writes what is in a directory, and closes it.
func (p *packer) dir(ctx context.Context, dir *os.File, path string) error {
	defer dir.Close() //nolint:errcheck // Only read.
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read directory %q: %w", path, err)
	}
	slices.Sort(names)
	for _, base := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e := packed{in: int(dir.Fd()), base: base, path: filepath.Join(path, base)}
		if err := unix.Fstatat(e.in, base, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("look at %q: %w", e.path, err)
		}
		if err := p.entry(ctx, e); err != nil {
			return fmt.Errorf("%.1000s: %w", e.path, err)
		}
		if e.st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		below, err := e.open(unix.O_DIRECTORY)
		if err == nil {
			err = p.dir(ctx, below, e.path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// packed is one name in a directory, and what it is.
type packed struct {
	in         int
	base, path string
	st         unix.Stat_t
}

func (e *packed) open(flags int) (*os.File, error) {
	fd, err := unix.Openat(e.in, e.base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: e.path, Err: err}
	}
	return os.NewFile(uintptr(fd), e.path), nil
}

func (p *packer) entry(ctx context.Context, e packed) error {
	header, err := p.header(&e)
	if err != nil || header == nil {
		return err
	}
	if header.Typeflag != tar.TypeLink {
		if err := p.attributes(&e, header.PAXRecords); err != nil {
			return err
		}
	}
	if header.Size == 0 {
		return p.out.WriteHeader(header)
	}
	return p.file(ctx, &e, header)
}

// header is that of a file; nil is that it is left out.
func (p *packer) header(e *packed) (header *tar.Header, err error) {
	st := &e.st
	header = &tar.Header{
		Format: tar.FormatPAX, Name: e.path, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), PAXRecords: map[string]string{},
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		header.Typeflag, header.Size = tar.TypeReg, st.Size
		file := inode{st.Dev, st.Ino}
		if linked, seen := p.first[file]; seen {
			header.Typeflag, header.Size, header.Linkname = tar.TypeLink, 0, linked
		} else if st.Nlink > 1 {
			p.first[file] = e.path
		}
	case unix.S_IFDIR:
		header.Typeflag, header.Name = tar.TypeDir, e.path+"/"
	case unix.S_IFLNK:
		header.Typeflag = tar.TypeSymlink
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(e.in, e.base, target)
		if err != nil {
			return nil, err
		}
		header.Linkname = string(target[:n])
	case unix.S_IFIFO:
		header.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		header.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			header.Typeflag = tar.TypeBlock
		}
		header.Devmajor, header.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil, nil //nolint:nilnil // As it says.
	}
	return header, nil
}

// file writes a file that has content: all of it, or the parts that are no holes where those
// are less than half. So what is written is never far more than what is on the disk.
func (p *packer) file(ctx context.Context, e *packed, header *tar.Header) error {
	file, err := e.open(0)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // Only read.
	size, parts, data := header.Size, int64(0), int64(0)
	err = eachPart(ctx, file, size, func(_, n int64) error {
		parts++
		data += n
		return nil
	})
	if err != nil {
		return err
	}
	if data >= size-data {
		if err := p.out.WriteHeader(header); err != nil {
			return err
		}
		_, err = io.Copy(p.out, watched{ctx, io.LimitReader(file, size)})
		return err
	}
	header.PAXRecords[sparse] = strconv.FormatInt(size, 10)
	header.Size = parts*partHead + data
	if err := p.out.WriteHeader(header); err != nil {
		return err
	}
	return eachPart(ctx, file, size, func(at, n int64) error {
		head := binary.BigEndian.AppendUint64(nil, uint64(at))                                 //nolint:gosec // It is not negative.
		if _, err := p.out.Write(binary.BigEndian.AppendUint64(head, uint64(n))); err != nil { //nolint:gosec // As above.
			return err
		}
		_, err := io.Copy(p.out, watched{ctx, io.NewSectionReader(file, at, n)})
		return err
	})
}

// eachPart calls do for each part of a file that is no hole. Where the file system does not tell, that is all.
func eachPart(ctx context.Context, file *os.File, size int64, do func(at, n int64) error) error {
	fd := int(file.Fd())
	for at := int64(0); at < size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		start, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		end := size
		if err != nil {
			start = at
		} else if hole, err := unix.Seek(fd, start, unix.SEEK_HOLE); err == nil && hole > start {
			end = min(end, hole)
		}
		if start >= size {
			break
		}
		if err := do(start, end-start); err != nil {
			return err
		}
		at = end
	}
	_, err := unix.Seek(fd, 0, io.SeekStart)
	return err
}

// watched ends with its context.
type watched struct {
	ctx  context.Context //nolint:containedctx // It is that of the one call that reads.
	from io.Reader
}

func (w watched) Read(b []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.from.Read(b)
}

// attributes adds the extended attributes of a file to records, as many as there is room for.
func (p *packer) attributes(e *packed, records map[string]string) error {
	path := fmt.Sprintf("/proc/self/fd/%d/%s", e.in, e.base)
	names, err := readAll(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	if len(names) == 0 {
		return nil
	}
	room := maxAttributes
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		value, err := readAll(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return fmt.Errorf("attribute %q: %w", name, err)
		}
		key := attribute + escaped(name)
		// A record has its length, a blank, a "=" and a line feed besides.
		if room -= len(key) + len(value) + len("1234567 =\n"); room < 0 {
			p.note(fmt.Sprintf("%.200q has more than %d bytes of attributes: %q and those after it are not saved", e.path, maxAttributes, name))
			return nil
		}
		records[key] = string(value)
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
			if _, err := io.Copy(io.Discard, compressed); err != nil { //nolint:gosec // It is kept nowhere.
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
	if size, is := h.PAXRecords[sparse]; is {
		err = u.parts(file, h.Size, size)
	} else if err = sparsely(file, u.in, 0, h.Size); err == nil {
		err = file.Truncate(h.Size)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return u.finishOne(h)
}

// parts fills a file that is more hole than data. What the archive says of a part has to be after
// the part before, in the file, and in what is stored.
func (u *unpacker) parts(file *os.File, stored int64, text string) error {
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil || size < 0 {
		return fmt.Errorf("%w: its size is %.50q", ErrBroken, text)
	}
	for end := int64(0); stored > 0; {
		var head [partHead]byte
		if _, err := io.ReadFull(u.in, head[:]); err != nil {
			return broken(err)
		}
		stored -= partHead
		at, n := int64(binary.BigEndian.Uint64(head[:8])), int64(binary.BigEndian.Uint64(head[8:])) //nolint:gosec // What is negative then is refused.
		if at < end || n <= 0 || n > stored || at > size-n {
			return fmt.Errorf("%w: a part of %d bytes at %d", ErrBroken, n, at)
		}
		if err := sparsely(file, u.in, at, n); err != nil {
			return err
		}
		end, stored = at+n, stored-n
	}
	return file.Truncate(size)
}

// block is how long a run of zeros has to be to become a hole.
const block = 64 << 10

// sparsely copies size bytes to a place in a file, with holes for zeros.
func sparsely(file *os.File, from io.Reader, at, size int64) error {
	buf, zeros := make([]byte, block), make([]byte, block)
	for end := at + size; at < end; {
		n, err := io.ReadFull(from, buf[:min(block, end-at)])
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
	return nil
}

// parent opens the directory that a file is in. What is no directory is not opened: a pipe would not
// let go before somebody writes to it, and a device may do something.
func (u *unpacker) parent(h *tar.Header) (*os.File, error) {
	return u.root.OpenFile(filepath.Dir(h.Name), os.O_RDONLY|unix.O_DIRECTORY, 0)
}

func (u *unpacker) node(h *tar.Header, kind uint32, dev int) error {
	parent, err := u.parent(h)
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
	parent, err := u.parent(h)
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
			if err := unix.Lsetxattr(path, plain(name), []byte(value), 0); err != nil {
				return fmt.Errorf("attribute %q: %w", name, err)
			}
		}
	}
	stamp := unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	return unix.UtimesNanoAt(at, base, []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW)
}
