package squash

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"
)

// Compression is the name of a compressor as mksquashfs spells it.
type Compression string

// The compressors that the kernel can mount.
const (
	Gzip Compression = "gzip"
	LZO  Compression = "lzo"
	XZ   Compression = "xz"
	LZ4  Compression = "lz4"
	Zstd Compression = "zstd"
)

// Superblock is what the checked first 96 bytes of an image say.
type Superblock struct {
	Inodes      uint32
	BlockSize   uint32
	Compression Compression
	// BytesUsed is the size of the image without padding.
	BytesUsed int64
}

// The layout is that of the kernel's fs/squashfs/squashfs_fs.h, version 4.0:
// little-endian, at the start of the file.
const (
	superblockSize = 96
	magic          = 0x73717368
	minBlock       = 4 << 10
	maxBlock       = 1 << 20
	// maxInodes is far beyond any real snap, and below what the kernel and
	// unsquashfs need unreasonable memory for.
	maxInodes = 4 << 20
	noTable   = ^uint64(0)
)

// CheckSuperblock reads and checks the superblock in b for a file of size
// bytes. Its errors are of the kind ErrNotSquashfs and say what was found.
func CheckSuperblock(b []byte, size int64) (Superblock, error) {
	if len(b) < superblockSize || size < superblockSize {
		return Superblock{}, fmt.Errorf("%w: %d bytes are too few for a squashfs image", ErrNotSquashfs, min(int64(len(b)), size))
	}
	le := binary.LittleEndian
	if got := le.Uint32(b); got != magic {
		return Superblock{}, fmt.Errorf("%w: it starts with %q instead of the squashfs magic \"hsqs\"", ErrNotSquashfs, b[:4])
	}
	if major, minor := le.Uint16(b[28:]), le.Uint16(b[30:]); major != 4 || minor != 0 {
		return Superblock{}, fmt.Errorf("%w: squashfs version %d.%d (want 4.0)", ErrNotSquashfs, major, minor)
	}
	comp, err := compressionOf(le.Uint16(b[20:]))
	if err != nil {
		return Superblock{}, err
	}
	sb := Superblock{Inodes: le.Uint32(b[4:]), BlockSize: le.Uint32(b[12:]), Compression: comp}
	if err := sb.checkCounts(le.Uint16(b[22:]), le.Uint32(b[16:]), le.Uint16(b[26:])); err != nil {
		return Superblock{}, err
	}
	used := le.Uint64(b[40:])
	if used < superblockSize || used > uint64(size) {
		return Superblock{}, fmt.Errorf("%w: its superblock says %d bytes, the file has %d (cut off?)", ErrNotSquashfs, used, size)
	}
	sb.BytesUsed = int64(used) //nolint:gosec // At most size, which is an int64.
	return sb, checkTables(b, used)
}

func compressionOf(id uint16) (Compression, error) {
	switch id {
	case 1:
		return Gzip, nil
	case 3:
		return LZO, nil
	case 4:
		return XZ, nil
	case 5:
		return LZ4, nil
	case 6:
		return Zstd, nil
	default:
		return "", fmt.Errorf("%w: unknown compressor %d (want gzip 1, lzo 3, xz 4, lz4 5 or zstd 6)", ErrNotSquashfs, id)
	}
}

func (sb Superblock) checkCounts(blockLog uint16, fragments uint32, ids uint16) error {
	switch {
	case sb.BlockSize < minBlock || sb.BlockSize > maxBlock || bits.OnesCount32(sb.BlockSize) != 1:
		return fmt.Errorf("%w: block size %d (want a power of two from %d to %d)", ErrNotSquashfs, sb.BlockSize, minBlock, maxBlock)
	case int(blockLog) != bits.TrailingZeros32(sb.BlockSize):
		return fmt.Errorf("%w: block size %d with logarithm %d", ErrNotSquashfs, sb.BlockSize, blockLog)
	case sb.Inodes == 0 || sb.Inodes > maxInodes:
		return fmt.Errorf("%w: %d inodes (want 1 to %d)", ErrNotSquashfs, sb.Inodes, maxInodes)
	case fragments > sb.Inodes:
		return fmt.Errorf("%w: %d fragment blocks for %d inodes", ErrNotSquashfs, fragments, sb.Inodes)
	case ids == 0:
		return fmt.Errorf("%w: no table of owners", ErrNotSquashfs)
	}
	return nil
}

// checkTables checks that every table lies inside the image, in the order in
// which mksquashfs has always written them and the kernel expects them.
func checkTables(b []byte, used uint64) error {
	tables := []struct {
		name     string
		at       int
		optional bool
	}{
		{"inode", 64, false},
		{"directory", 72, false},
		{"fragment", 80, true},
		{"export", 88, true},
		{"owner", 48, false},
		{"xattr", 56, true},
	}
	last := uint64(superblockSize)
	for _, t := range tables {
		start := binary.LittleEndian.Uint64(b[t.at:])
		if t.optional && (start == noTable || t.name == "fragment" && binary.LittleEndian.Uint32(b[16:]) == 0) {
			continue
		}
		if start < last || start >= used {
			return fmt.Errorf("%w: its %s table is at %d (want %d to %d)", ErrNotSquashfs, t.name, start, last, used-1)
		}
		last = start
	}
	return nil
}

// openRegular opens path without ever waiting for another process, and
// refuses what is not a regular file.
func openRegular(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ENXIO) {
		return nil, fmt.Errorf("%w: not a regular file", ErrNotSquashfs)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: not a regular file (it is %s)", ErrNotSquashfs, kindOf(info.Mode()))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func superblockOf(f *os.File) (Superblock, error) {
	info, err := f.Stat()
	if err != nil {
		return Superblock{}, err
	}
	b := make([]byte, superblockSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Superblock{}, err
	}
	return CheckSuperblock(b[:n], info.Size())
}

func kindOf(m os.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&os.ModeSymlink != 0:
		return "a symlink"
	case m&os.ModeNamedPipe != 0:
		return "a fifo"
	case m&os.ModeSocket != 0:
		return "a socket"
	case m&os.ModeDevice != 0:
		return "a device"
	default:
		return "a file of an unknown kind"
	}
}
