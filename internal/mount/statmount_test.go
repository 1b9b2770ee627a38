package mount

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestAt holds what the kernel says of one mount against its list of all.
func TestAt(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	odd, link, file := filepath.Join(dir, `a b\c`), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := errors.Join(os.Mkdir(odd, 0o700), os.Symlink(odd, link), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, below := range []string{dir, odd, link, filepath.Join(dir, "none"), filepath.Join(file, "none")} {
		if info, ok, err := at(below); ok || err != nil {
			t.Errorf("%s: %v, %v, %v", below, info, ok, err)
		}
	}
	for depth, propagation := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		err := unix.Mount("x y", odd, "tmpfs", 0, "")
		if err == nil {
			t.Cleanup(func() {
				if err := unix.Unmount(odd, 0); err != nil {
					t.Error(err)
				}
			})
			err = unix.Mount("", odd, "", propagation, "")
		}
		if err != nil {
			t.Fatal(err)
		}
		entries, err := readMountinfo("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		listed, found := topmost(entries, odd)
		got, ok, err := at(odd)
		if diff := cmp.Diff(listed.info(), got); diff != "" || err != nil || !ok || !found || got.Shared != (depth == 1) {
			t.Errorf("depth %d: %v, %v (-listed +got):\n%s", depth, ok, err, diff)
		}
	}
	if info, ok, err := at(link); ok || err != nil {
		t.Errorf("through a link: %v, %v, %v", info, ok, err)
	}
}
