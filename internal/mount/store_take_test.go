package mount

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure"
)

// TestTake has a file at its place, from the same file system and from another.
func TestTake(t *testing.T) {
	t.Parallel()
	s, other := New(Config{Root: t.TempDir()}), t.TempDir()
	if err := unix.Mount("tenure-test", other, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(other, 0); err != nil {
			t.Error(err)
		}
	})
	for n, dir := range []string{s.Root(), other} {
		from, rev := filepath.Join(dir, "staged"), tenure.LocalRevision(n+1)
		if err := os.WriteFile(from, []byte(dir), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := s.Take(t.Context(), "hello", rev, from)
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(file)
		if err != nil || string(content) != dir || file != s.File("hello", rev) {
			t.Errorf("%s has %q, %v", file, content, err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%v, %v", info, err)
		}
		if _, err := os.Stat(from); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is still where it was: %v", err)
		}
		_, err = s.Take(t.Context(), "hello", rev, from)
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "store "+file) {
			t.Errorf("what is not there was taken: %v", err)
		}
	}
}
