package api

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// What cannot be removed goes when something else is removed, and it can.
func TestLitter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stubborn, in := filepath.Join(dir, "stubborn"), filepath.Join(dir, "stubborn", "in")
	if err := os.MkdirAll(in, 0o700); err != nil {
		t.Fatal(err)
	}
	var l litter
	l.remove(stubborn, filepath.Join(dir, "missing"))
	if err := os.Remove(in); err != nil {
		t.Fatal(err)
	}
	l.remove()
	if _, err := os.Stat(stubborn); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what could not be removed is there: %v", err)
	}
	if len(l.paths) > 0 {
		t.Errorf("%q are removed again and again", l.paths)
	}
}
