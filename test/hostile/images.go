package hostile

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// pick is one of list.
func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// flipped changes one to eight bytes anywhere in a compressed image, or a run of
// them.
func (m *Maker) flipped(_ context.Context, rng *rand.Rand, n int) (Case, error) {
	from := m.images[n/20%len(m.images)]
	b := bytes.Clone(from.bytes)
	var at []int
	for range 1 + rng.IntN(8) {
		// The tail is padding, which means nothing.
		where := rng.IntN(int(binary.LittleEndian.Uint64(from.bytes[40:]))) //nolint:gosec // The size of a small image.
		b[where] ^= byte(1 + rng.IntN(255))
		at = append(at, where)
	}
	file, err := m.write(b)
	return Case{What: fmt.Sprintf("%s with changed bytes at %v", from.compression, at), File: file, Name: from.name}, err
}

// field is a number in an image.
type field struct {
	name     string
	at, size int
}

// superblockFields are those of fs/squashfs/squashfs_fs.h, version 4.0.
func superblockFields() []field {
	return []field{
		{"magic", 0, 4},
		{"inodes", 4, 4},
		{"mkfs time", 8, 4},
		{"block size", 12, 4},
		{"fragments", 16, 4},
		{"compression", 20, 2},
		{"block log", 22, 2},
		{"flags", 24, 2},
		{"ids", 26, 2},
		{"major", 28, 2},
		{"minor", 30, 2},
		{"root inode", 32, 8},
		{"bytes used", 40, 8},
		{"id table", 48, 8},
		{"xattr table", 56, 8},
		{"inode table", 64, 8},
		{"directory table", 72, 8},
		{"fragment table", 80, 8},
		{"export table", 88, 8},
	}
}

// put writes an interesting number into a field, and says which.
func (f field) put(rng *rand.Rand, b []byte) string {
	raw := make([]byte, 8)
	copy(raw, b[f.at:f.at+f.size])
	old := binary.LittleEndian.Uint64(raw)
	values := []uint64{
		0, 1, 2, 7, 14, 0x7f, 0xff, 0x7fff, 0xffff, 1 << 16, 1 << 20, 0x7fffffff, 0xffffffff, 1 << 32, 1 << 48, 1<<63 - 1, 1<<64 - 1,
		uint64(len(b)), uint64(len(b)) - 1, old + 1, old - 1, old * 2, old / 2, old ^ 1<<rng.IntN(8*f.size), rng.Uint64(),
	}
	value := pick(rng, values)
	binary.LittleEndian.PutUint64(raw, value)
	copy(b[f.at:f.at+f.size], raw)
	return fmt.Sprintf("%s at %d (%d bytes) is %#x instead of %#x", f.name, f.at, f.size, value, old)
}

// superblock puts wrong numbers into the superblock.
func (m *Maker) superblock(_ context.Context, rng *rand.Rand, n int) (Case, error) {
	from := m.images[n/20%len(m.images)]
	b := bytes.Clone(from.bytes)
	var what []string
	for range 1 + rng.IntN(2) {
		what = append(what, pick(rng, superblockFields()).put(rng, b))
	}
	file, err := m.write(b)
	return Case{What: from.compression + ": " + strings.Join(what, ", "), File: file, Name: from.name}, err
}

// tables puts wrong numbers into the tables of an uncompressed image: types,
// modes, sizes, counts and places of inodes, directories and fragments.
func (m *Maker) tables(_ context.Context, rng *rand.Rand, _ int) (Case, error) {
	b := bytes.Clone(m.plain.bytes)
	start, end := m.plain.metadata()
	var what []string
	for range 1 + rng.IntN(3) {
		f := field{name: "number", size: pick(rng, []int{1, 2, 4, 8})}
		f.at = start + rng.IntN(end-start-f.size)
		if rng.IntN(2) == 0 {
			f.at &^= f.size - 1
		}
		what = append(what, f.put(rng, b))
	}
	file, err := m.write(b)
	return Case{What: strings.Join(what, ", "), File: file, Name: m.plain.name}, err
}

// metadata is where the tables of an image are: from the inodes to the end.
func (i *image) metadata() (start, end int) {
	le := binary.LittleEndian
	return int(le.Uint64(i.bytes[64:])), int(le.Uint64(i.bytes[40:])) //nolint:gosec // A small image.
}

// names puts names that no file may have into the directory table.
func (m *Maker) names(_ context.Context, rng *rand.Rand, _ int) (Case, error) {
	b := bytes.Clone(m.plain.bytes)
	start, end := m.plain.metadata()
	var what []string
	for range 1 + rng.IntN(2) {
		old := pick(rng, []string{"meta", "hooks", "configure", "snap.yaml", "probe", "share", "text", "link"})
		bad := pick(rng, []string{"..", "../x", "../../../../etc", "/etc", "a/b", ".", "a\nb", "\x1b[2J", "\x00", "a\x00b", "\xff\xfe", "meta", "bin"})
		fill := append([]byte(bad), bytes.Repeat([]byte{'x'}, len(old))...)[:len(old)]
		at := bytes.LastIndex(b[start:end], []byte(old))
		if at < 0 {
			continue // It was replaced already.
		}
		copy(b[start+at:], fill)
		if rng.IntN(2) == 0 && len(bad) < len(old) {
			// The entry's own length, which stands before the name, is one less.
			binary.LittleEndian.PutUint16(b[start+at-2:], uint16(len(bad)-1)) //nolint:gosec // It is short.
		}
		what = append(what, fmt.Sprintf("%q is called %q", old, fill))
	}
	file, err := m.write(b)
	return Case{What: strings.Join(what, ", "), File: file, Name: m.plain.name}, err
}

// cut makes an image shorter, or longer.
func (m *Maker) cut(_ context.Context, rng *rand.Rand, n int) (Case, error) {
	from := m.images[n/20%len(m.images)]
	b := bytes.Clone(from.bytes)
	what := from.compression
	switch rng.IntN(4) {
	case 0:
		b = append(b, bytes.Repeat([]byte("more"), rng.IntN(4096))...)
		what += " with more at its end"
	case 1:
		at := rng.IntN(len(b))
		b = slices.Insert(b, at, 0)
		what += fmt.Sprintf(" with one byte more at %d", at)
	default:
		b = b[:rng.IntN(len(b))]
		what += fmt.Sprintf(" cut to %d bytes", len(b))
	}
	file, err := m.write(b)
	return Case{What: what, File: file, Name: from.name}, err
}

// foreign makes files that are something else.
func (m *Maker) foreign(_ context.Context, rng *rand.Rand, _ int) (Case, error) {
	from := pick(rng, m.images)
	random := make([]byte, 8192)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	_, err := zip.Write(from.bytes)
	err = errors.Join(err, zip.Close())
	swapped := bytes.Clone(from.bytes)
	slices.Reverse(swapped[:4])
	list := []struct {
		what  string
		bytes []byte
	}{
		{"nothing", nil},
		{"one byte", []byte("h")},
		{"the magic alone", []byte("hsqs")},
		{"zeroes", make([]byte, 8192)},
		{"random bytes", random},
		{"random bytes after the magic", append([]byte("hsqs"), random...)},
		{"random bytes after a superblock", append(bytes.Clone(from.bytes[:96]), random...)},
		{"zeroes after a superblock", append(bytes.Clone(from.bytes[:96]), make([]byte, 8192)...)},
		{"a packed snap", packed.Bytes()},
		{"a snap for the other byte order", swapped},
		{"a program", m.probe},
		{"a description", []byte(m.soundYAML("x"))},
		{"a snap behind something", append(make([]byte, 512), from.bytes...)},
	}
	one := pick(rng, list)
	file, writeErr := m.write(one.bytes)
	return Case{What: one.what, File: file, Name: from.name}, errors.Join(err, writeErr)
}

// slotMark fills the description of an image in which it can be replaced: a
// comment, so that what is left of it means nothing.
const slotMark = "#TENURE-HOSTILE\n"

// slot is an uncompressed image with room for a description of any content.
type slot struct {
	bytes []byte
	// pieces are where the description's blocks are, in order.
	pieces [][2]int
	room   int
}

// newSlot finds the description in an image.
func newSlot(b []byte, room int) (slot, error) {
	s := slot{bytes: b}
	mark := []byte(slotMark)
	for at := 0; ; {
		next := bytes.Index(b[at:], mark)
		if next < 0 {
			break
		}
		start := at + next
		for at = start; bytes.HasPrefix(b[at:], mark); at += len(mark) {
		}
		s.pieces = append(s.pieces, [2]int{start, at})
		s.room += at - start
	}
	if s.room != room {
		return s, fmt.Errorf("an image for descriptions has room for %d bytes instead of %d", s.room, room)
	}
	return s, nil
}

// with is the image with another description; what it does not fill is a comment.
func (s *slot) with(yaml string) []byte {
	b := bytes.Clone(s.bytes)
	if left := s.room - len(yaml); left > 0 {
		yaml += "\n" + strings.Repeat("#", left-1)
	}
	for _, piece := range s.pieces {
		yaml = yaml[copy(b[piece[0]:piece[1]], yaml):]
	}
	return b
}
