package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"tenure/internal/durable"
)

func TestMkdirAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "x/y/a"), filepath.Join(dir, "x/y/b")
	for range 2 {
		if err := durable.MkdirAll(0o750, a, b, dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{a, b, filepath.Dir(a)} {
		if info, err := os.Stat(path); err != nil || info.Mode() != fs.ModeDir|0o750 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.MkdirAll(0o750, filepath.Join(file, "below")); err == nil {
		t.Error("a directory below a file")
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := durable.Sync(dir, dir, filepath.Join(dir, "missing")); err != nil {
		t.Error(err)
	}
	closed := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", closed); err != nil {
		t.Fatal(err)
	}
	if err := durable.Sync(closed); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link to itself: %v", err)
	}
}
