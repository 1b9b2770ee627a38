package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadBelow has programs read alone, and never more than is wanted.
func TestReadBelow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	const size = 1 << 20
	program := make([]byte, size)
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "program"), program, 0o700), //nolint:gosec // A program.
		os.WriteFile(filepath.Join(dir, "data"), program, 0o600),
		os.WriteFile(outside, program, 0o700), //nolint:gosec // A program.
		os.Symlink("program", filepath.Join(dir, "within")),
		os.Symlink(outside, filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close() //nolint:errcheck // Only read.
	ended, end := context.WithCancel(t.Context())
	end()
	for _, c := range []struct {
		ctx     context.Context
		program string
		most    int
		read    int
	}{
		{t.Context(), "program", maxReadAhead, size},
		{t.Context(), "within", maxReadAhead, size},
		{t.Context(), "program", 128 << 10, 128 << 10},
		{ended, "program", maxReadAhead, 0},
		{t.Context(), "data", maxReadAhead, 0},
		{t.Context(), "link", maxReadAhead, 0},
		{t.Context(), "fifo", maxReadAhead, 0},
		{t.Context(), "missing", maxReadAhead, 0},
	} {
		if read := readBelow(c.ctx, root, c.program, c.most); read != c.read {
			t.Errorf("%d bytes of %s were read, want %d", read, c.program, c.read)
		}
	}
}
