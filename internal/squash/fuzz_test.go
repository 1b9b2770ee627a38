package squash

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

// soundSuperblock is that of a small image made by mksquashfs 4.5.1.
func soundSuperblock() []byte {
	b := make([]byte, superblockSize)
	le := binary.LittleEndian
	le.PutUint32(b, magic)
	le.PutUint32(b[4:], 9)
	le.PutUint32(b[12:], 131072)
	le.PutUint32(b[16:], 1)
	le.PutUint16(b[20:], 4)
	le.PutUint16(b[22:], 17)
	le.PutUint16(b[26:], 1)
	le.PutUint16(b[28:], 4)
	le.PutUint64(b[40:], 900)
	le.PutUint64(b[48:], 892)
	le.PutUint64(b[56:], math.MaxUint64)
	le.PutUint64(b[64:], 400)
	le.PutUint64(b[72:], 600)
	le.PutUint64(b[80:], 800)
	le.PutUint64(b[88:], 850)
	return b
}

func TestSuperblockErrors(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	cases := map[string]struct {
		change func(b []byte)
		says   string
	}{
		"magic":       {func(b []byte) { copy(b, "PK\x03\x04") }, `"PK\x03\x04"`},
		"old version": {func(b []byte) { le.PutUint16(b[28:], 3) }, "version 3.0"},
		"compressor":  {func(b []byte) { le.PutUint16(b[20:], 2) }, "unknown compressor 2"},
		"block size":  {func(b []byte) { le.PutUint32(b[12:], 1<<30) }, "block size 1073741824"},
		"odd block":   {func(b []byte) { le.PutUint32(b[12:], 131073) }, "block size 131073"},
		"block log":   {func(b []byte) { le.PutUint16(b[22:], 12) }, "logarithm 12"},
		"no inodes":   {func(b []byte) { le.PutUint32(b[4:], 0) }, "0 inodes"},
		"inodes":      {func(b []byte) { le.PutUint32(b[4:], math.MaxUint32) }, "4294967295 inodes"},
		"fragments":   {func(b []byte) { le.PutUint32(b[16:], 1<<20) }, "1048576 fragment"},
		"owners":      {func(b []byte) { le.PutUint16(b[26:], 0) }, "owners"},
		"size":        {func(b []byte) { le.PutUint64(b[40:], 5000) }, "5000 bytes, the file has 4096"},
		"huge size":   {func(b []byte) { le.PutUint64(b[40:], math.MaxUint64) }, "the file has 4096"},
		"inode table": {func(b []byte) { le.PutUint64(b[64:], 90) }, "inode table is at 90"},
		"order":       {func(b []byte) { le.PutUint64(b[72:], 300) }, "directory table is at 300"},
		"owner table": {func(b []byte) { le.PutUint64(b[48:], 1<<48) }, "owner table is at 281474976710656"},
		"xattr table": {func(b []byte) { le.PutUint64(b[56:], 1<<40) }, "xattr table"},
	}
	if _, err := CheckSuperblock(soundSuperblock(), 4096); err != nil {
		t.Fatal(err)
	}
	for name, c := range cases {
		b := soundSuperblock()
		c.change(b)
		if _, err := CheckSuperblock(b, 4096); !errors.Is(err, ErrNotSquashfs) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.says)
		}
	}
	if _, err := CheckSuperblock(soundSuperblock()[:90], 90); !errors.Is(err, ErrNotSquashfs) {
		t.Errorf("short: %v", err)
	}
}

func FuzzSuperblock(f *testing.F) {
	f.Add(soundSuperblock(), int64(4096))
	f.Add([]byte("hsqs"), int64(4))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		sb, err := CheckSuperblock(b, size)
		if err != nil {
			if !errors.Is(err, ErrNotSquashfs) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		if sb.BytesUsed < superblockSize || sb.BytesUsed > size || sb.Inodes == 0 || sb.Inodes > maxInodes ||
			sb.BlockSize < minBlock || sb.BlockSize > maxBlock || sb.Compression == "" {
			t.Errorf("accepted %+v for %d bytes", sb, size)
		}
	})
}

const listing = `drwxr-xr-x 0/0                     115 2026-11-24 00:16 squashfs-root
crw-r--r-- 0/0                   1,  3 2026-11-24 00:16 squashfs-root/dev
lrwxrwxrwx 0/0                       6 2026-11-24 00:16 squashfs-root/li -> nk -> a -> b
-rwsr-xr-x 1000/4294967294      300000 2026-11-24 00:16 squashfs-root/sp ace 
drwxrwxrwt 0/0                       3 12345-11-24 00:16 squashfs-root/meta
`

func FuzzList(f *testing.F) {
	f.Add([]byte(listing), 7)
	f.Add([]byte("lrwxrwxrwx 0/0 9 2026-11-24 00:16 squashfs-root/nl -> tgt\nline2\n"), 1)
	f.Add([]byte("-rw-r--r-- 0/0 9 2026-11-24 00:16 squashfs-root/../../x\n"), 1)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		const limit = 1000
		whole := listParser{limit: limit}
		err := whole.write(b)
		for _, e := range whole.entries {
			if !cleanPath(e.Path) || e.Size < 0 || strings.Contains(e.Path, "\n") {
				t.Errorf("accepted %+v", e)
			}
		}
		if len(whole.entries) > limit {
			t.Errorf("%d entries", len(whole.entries))
		}
		// The pieces in which the bytes come do not matter.
		pieces := listParser{limit: limit}
		var pieceErr error
		for part := range slices.Chunk(b, min(max(1, piece), 1<<16)) {
			if pieceErr == nil {
				pieceErr = pieces.write(part)
			}
		}
		if (err == nil) != (pieceErr == nil) || !slices.Equal(whole.entries, pieces.entries) {
			t.Errorf("in pieces of %d: %v, %v", piece, err, pieceErr)
		}
	})
}
