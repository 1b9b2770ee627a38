package snapdata

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A small copy is waited for file by file; no link of it leads out.
func TestSyncVisitsTheCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	err := errors.Join(
		os.MkdirAll(filepath.Join(src, "sub/empty"), 0o700),
		os.WriteFile(filepath.Join(src, "a"), []byte("a"), 0o600),
		os.WriteFile(filepath.Join(src, "sub/b"), []byte("b"), 0o400),
		unix.Mkfifo(filepath.Join(src, "fifo"), 0o600),
		os.WriteFile(filepath.Join(dir, "outside"), nil, 0o600),
		os.Symlink(filepath.Join(dir, "outside"), filepath.Join(src, "link")),
	)
	if err != nil {
		t.Fatal(err)
	}
	pass, err := First(t.Context(), src, dst, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Sync(t.Context(), pass, pass); err != nil {
		t.Fatal(err)
	}
	root, err := openRoot(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer root.close()
	var seen []string
	see := func(fd int) error {
		path, err := os.Readlink(procPath(fd))
		seen = append(seen, path)
		return err
	}
	v := visitor{left: 6, file: see, dir: see}
	if err := v.visit(t.Context(), root.fd); err != nil {
		t.Fatal(err)
	}
	if last := seen[len(seen)-1]; last != dst {
		t.Errorf("%s comes last", last)
	}
	slices.Sort(seen)
	want := []string{dst, filepath.Join(dst, "a"), filepath.Join(dst, "sub"), filepath.Join(dst, "sub/b"), filepath.Join(dst, "sub/empty")}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	v.left = 5
	if err := v.visit(t.Context(), root.fd); !errors.Is(err, errGrown) {
		t.Errorf("more than there may be: %v", err)
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, n := range []int{0, 1, smallCopy + 1} {
		src, dst := filepath.Join(dir, strconv.Itoa(n)), filepath.Join(dir, strconv.Itoa(n)+".copy")
		if err := os.Mkdir(src, 0o700); err != nil {
			t.Fatal(err)
		}
		for k := range n {
			if err := os.WriteFile(filepath.Join(src, strconv.Itoa(k)), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		pass, err := First(t.Context(), src, dst, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := Sync(t.Context(), pass); err != nil {
			t.Errorf("%d files: %v", n, err)
		}
		if n == 1 {
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := Sync(ended, pass); !errors.Is(err, context.Canceled) {
				t.Errorf("a context that has ended: %v", err)
			}
		}
	}
	if err := Sync(t.Context(), &Pass{Dst: filepath.Join(dir, "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no copy: %v", err)
	}
}
