package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// archived is an archive of one file that says to have a size, and to be of parts with offsets and lengths, all of
// one stored content.
func archived(t *testing.T, size string, stored int, parts ...int64) *bytes.Buffer {
	t.Helper()
	var content []byte
	for _, n := range parts {
		content = binary.BigEndian.AppendUint64(content, uint64(n)) //nolint:gosec // Negative ones are meant.
		if len(content)%(partHead+4) == partHead {
			content = append(content, "text"...)
		}
	}
	content = append(content, make([]byte, partHead)...)[:stored]
	var text bytes.Buffer
	compressed := gzip.NewWriter(&text)
	out := tar.NewWriter(compressed)
	header := &tar.Header{
		Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: "file", Mode: 0o600, Uid: os.Getuid(), Gid: os.Getgid(), Size: int64(stored),
		PAXRecords: map[string]string{sparse: size},
	}
	err := out.WriteHeader(header)
	if err == nil {
		_, err = out.Write(content)
	}
	if err := errors.Join(err, out.Close(), compressed.Close()); err != nil {
		t.Fatal(err)
	}
	return &text
}

// What an archive says of the parts of a file leads nowhere out of the file.
func TestPartsAreInTheirFile(t *testing.T) {
	t.Parallel()
	const one, two = partHead + 4, 2 * (partHead + 4)
	for i, c := range []struct {
		size   string
		stored int
		parts  []int64
		want   string
	}{
		{"8", one, []int64{2, 4}, "\x00\x00text\x00\x00"},
		{"8", two, []int64{0, 4, 4, 4}, "texttext"},
		{"3", 0, nil, "\x00\x00\x00"},
		{"", 0, nil, ""},
		{"-1", 0, nil, ""},
		{"8", one, []int64{5, 4}, ""},
		{"8", one, []int64{-4, 4}, ""},
		{"8", one, []int64{2, 5}, ""},
		{"8", one, []int64{2, 0}, ""},
		{"8", one, []int64{2, -4}, ""},
		{"8", two, []int64{4, 4, 0, 4}, ""},
		{"8", one, []int64{1<<63 - 1, 4}, ""},
		{strconv.Itoa(1<<63 - 1), one, []int64{2, 1<<63 - 1}, ""},
		{"8", partHead - 1, nil, ""},
	} {
		dir := t.TempDir()
		err := unpack(t.Context(), archived(t, c.size, c.stored, c.parts...), dir)
		text, readErr := os.ReadFile(filepath.Join(dir, "file"))
		switch {
		case c.want == "" && !errors.Is(err, ErrBroken):
			t.Errorf("%d: %q, %v", i, text, err)
		case c.want != "" && (err != nil || readErr != nil || string(text) != c.want):
			t.Errorf("%d: %q, %v, %v", i, text, err, readErr)
		}
	}
}
