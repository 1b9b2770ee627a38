package snapdata

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

// The second pass waits for what it has changed, with the directories that lead there, and for
// nothing else.
func TestSecondSyncsWhatItChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	write := func(name, text string) error { return os.WriteFile(filepath.Join(src, name), []byte(text), 0o600) }
	err := os.MkdirAll(filepath.Join(src, "kept/still"), 0o700)
	for _, name := range []string{"changed", "kept/same", "kept/still/same", "gone"} {
		err = errors.Join(err, write(name, "before"))
	}
	if err != nil {
		t.Fatal(err)
	}
	pass, err := First(t.Context(), src, dst, Options{})
	if err == nil {
		// No doubt about what was written just before.
		pass.Start = later(t, dir, src) + slack
		err = errors.Join(write("changed", "after"), os.Mkdir(filepath.Join(src, "kept/new"), 0o700), write("kept/new/file", "x"), os.Remove(filepath.Join(src, "gone")))
	}
	if err != nil {
		t.Fatal(err)
	}
	from, err := openRoot(src)
	if err != nil {
		t.Fatal(err)
	}
	defer from.close()
	to, err := openRoot(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer to.close()
	r := newRun(Options{}, to.fd)
	defer r.unsynced.forget()
	if err := pass.update(t.Context(), r, from, to); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, fd := range r.unsynced.fds {
		path, err := os.Readlink(procPath(fd))
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, strings.TrimPrefix(strings.TrimPrefix(path, dst), "/"))
	}
	slices.Sort(seen)
	if diff := cmp.Diff([]string{"", "changed", "kept", "kept/new", "kept/new/file"}, seen); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if err := r.unsynced.sync(to.fd); err != nil {
		t.Error(err)
	}
	// Descriptors of many files are not kept.
	for range smallCopy {
		if err := r.touch(to.fd); err != nil {
			t.Fatal(err)
		}
	}
	if !r.unsynced.many || len(r.unsynced.fds) != 0 {
		t.Errorf("%d descriptors are kept, many: %v", len(r.unsynced.fds), r.unsynced.many)
	}
	if err := r.unsynced.sync(to.fd); err != nil {
		t.Error(err)
	}
}

// later is a time of change, in nanoseconds, after that of path: what is written from now on has
// no earlier one.
func later(t *testing.T, dir, path string) int64 {
	t.Helper()
	var before, now unix.Stat_t
	err := unix.Stat(path, &before)
	for err == nil && now.Ctim.Nano() <= before.Ctim.Nano() {
		probe := filepath.Join(dir, "probe")
		err = errors.Join(os.WriteFile(probe, []byte("x"), 0o600), unix.Stat(probe, &now))
	}
	if err != nil {
		t.Fatal(err)
	}
	return now.Ctim.Nano()
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
