package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/durable"
)

// TestLeft: what is in the name of a directory is no pattern.
func TestLeft(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), `a[b*?\`)
	if left, err := durable.Left(dir, ".new-*"); err != nil || left != nil {
		t.Errorf("without a directory there is %v, %v", left, err)
	}
	left, other := filepath.Join(dir, ".new-1"), filepath.Join(dir, "kept")
	err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(left, nil, 0o600), os.WriteFile(other, nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	found, err := durable.Left(dir, ".new-*")
	if diff := cmp.Diff([]string{left}, found); diff != "" || err != nil {
		t.Errorf("it finds (-want +got):\n%s%v", diff, err)
	}
}
