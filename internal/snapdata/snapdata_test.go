package snapdata_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure/internal/snapdata"
)

// pair makes a source with everything in it, and names its copy.
func pair(t *testing.T, dir string) (src, dst string) {
	t.Helper()
	top, err := os.MkdirTemp(dir, "data")
	must(t, err)
	src, dst = filepath.Join(top, "1"), filepath.Join(top, "2")
	must(t, os.Mkdir(src, 0o750))
	return src, dst
}

func TestEverythingIsKept(t *testing.T) {
	t.Parallel()
	for kind, dir := range filesystems(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			src, dst := pair(t, dir)
			everything(t, src)
			before := accessed(t, filepath.Join(src, "dir/deep/er/x"))
			pass := first(t, src, dst)
			if after := accessed(t, filepath.Join(src, "dir/deep/er/x")); !after.Equal(before) {
				t.Errorf("the copy has touched the source at %v", after)
			}
			if got := accessed(t, filepath.Join(dst, "file")); got.Unix() != 1e9 {
				t.Errorf("the copy was accessed at %v", got)
			}
			same(t, src, dst)
			second(t, pass)
			same(t, src, dst)
			second(t, snapdata.Resume(src, dst))
			same(t, src, dst)
			if blocks := blocksOf(t, filepath.Join(dst, "sparse")); blocks > 2048 {
				t.Errorf("the sparse file takes %d blocks", blocks)
			}
			if shares := kind == "xfs" || kind == "btrfs"; shares && pass.Stats.Cloned == 0 {
				t.Errorf("no blocks are shared: %+v", pass.Stats)
			}
		})
	}
}

func accessed(t *testing.T, path string) time.Time {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return time.Unix(st.Atim.Unix())
}

func blocksOf(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Blocks
}

// settle returns when the clock that stamps files has moved well past what the
// second pass takes for the time of the first.
func settle(t *testing.T) {
	t.Helper()
	tick := time.NewTimer(40 * time.Millisecond)
	defer tick.Stop()
	<-tick.C
}

// changes are what a service may do between the passes.
func changes(t *testing.T, src string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(src, name) }
	must(t,
		os.Remove(at("socket")),
		os.RemoveAll(at("empty")),
		os.Rename(at("zero"), at("renamed")),
		os.Rename(at("dir/deep"), at("moved")),
		os.Remove(at("symlink2")),
		os.Mkdir(at("symlink2"), 0o700),
		os.Remove(at("null")),
		os.Remove(at("dir/link")),
		unix.Setxattr(at("su"), "trusted.new", []byte("x"), 0),
		os.Chmod(at("block"), 0o640),
		os.Link(at("su"), at("su2")),
	)
	write(t, at("null"), "a file now")
	write(t, at("new"), "new")
	write(t, at("symlink2/inside"), "inside")
	// The same length and times as before.
	var st unix.Stat_t
	must(t, unix.Stat(at("file"), &st))
	write(t, at("file"), "CONTENT")
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at("file"), []unix.Timespec{st.Atim, st.Mtim}, 0))
	f, err := os.OpenFile(at("sparse"), os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("elsewhere"), 70<<20)
	must(t, err, f.Truncate(90<<20), f.Close())
}

func TestSecondPassSeesEveryChange(t *testing.T) {
	t.Parallel()
	for kind, dir := range filesystems(t) {
		for _, how := range []string{"told", "stored", "lost"} {
			t.Run(kind+" "+how, func(t *testing.T) {
				t.Parallel()
				src, dst := pair(t, dir)
				everything(t, src)
				settle(t)
				pass := first(t, src, dst)
				settle(t)
				changes(t, src)
				switch how {
				case "stored":
					b, err := json.Marshal(pass)
					must(t, err)
					pass = &snapdata.Pass{}
					must(t, json.Unmarshal(b, pass))
				case "lost":
					pass = snapdata.Resume(src, dst)
				}
				second(t, pass)
				same(t, src, dst)
				if blocks := blocksOf(t, filepath.Join(dst, "sparse")); blocks > 4096 {
					t.Errorf("the sparse file takes %d blocks", blocks)
				}
			})
		}
	}
}

// TestSecondPassIsShort shows that the second pass leaves alone what did not
// change, where the file system lets it know.
func TestSecondPassIsShort(t *testing.T) {
	t.Parallel()
	dir, ok := formatted(t, "ext4")
	if !ok {
		t.Fatal("mkfs.ext4 is part of every Debian machine (e2fsprogs)")
	}
	src, dst := pair(t, dir)
	for i := range 200 {
		write(t, filepath.Join(src, "f"+strings.Repeat("x", i)), "content")
	}
	settle(t)
	pass := first(t, src, dst)
	settle(t)
	write(t, filepath.Join(src, "f"), "another")
	stats := second(t, pass)
	same(t, src, dst)
	if stats.Copied != 1 || stats.Bytes != 7 || stats.Files != 200 {
		t.Errorf("the second pass did %+v", stats)
	}
}

// TestSwappedDirectories exchanges two directories whose files differ in
// nothing but their bytes: no file has a new time.
func TestSwappedDirectories(t *testing.T) {
	t.Parallel()
	for kind, dir := range filesystems(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			src, dst := pair(t, dir)
			when := time.Unix(1e9, 0)
			for _, name := range []string{"a", "b"} {
				must(t, os.MkdirAll(filepath.Join(src, name, "sub"), 0o755))
				for _, file := range []string{"file", "sub/file"} {
					path := filepath.Join(src, name, file)
					write(t, path, name)
					must(t, os.Chtimes(path, when, when))
				}
			}
			settle(t)
			pass := first(t, src, dst)
			settle(t)
			must(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(src, "a"), unix.AT_FDCWD, filepath.Join(src, "b"), unix.RENAME_EXCHANGE))
			second(t, pass)
			same(t, src, dst)
		})
	}
}

// TestStoresThroughMappings writes through a mapping that is dirty before the
// first pass: no time moves, and no system call is made.
func TestStoresThroughMappings(t *testing.T) {
	t.Parallel()
	for kind, dir := range filesystems(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			src, dst := pair(t, dir)
			path := filepath.Join(src, "mapped")
			write(t, path, strings.Repeat("a", 8192))
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(t, err, f.Close())
			m[0] = 'b'
			settle(t)
			pass := first(t, src, dst)
			m[0], m[5000] = 'c', 'c'
			must(t, unix.Munmap(m))
			second(t, pass)
			same(t, src, dst)
		})
	}
}

// TestDoubtfulKnowledge has a Pass that does not hold any more.
func TestDoubtfulKnowledge(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, spoil := range map[string]func(*snapdata.Pass){
		"another boot":     func(p *snapdata.Pass) { p.Boot = "x" },
		"a step back":      func(p *snapdata.Pass) { p.Offset += int64(time.Hour) },
		"a step forward":   func(p *snapdata.Pass) { p.Offset -= int64(time.Second) },
		"another source":   func(p *snapdata.Pass) { p.SrcRoot.Ino++ },
		"another copy":     func(p *snapdata.Pass) { p.DstRoot.Ino++ },
		"a half digest":    func(p *snapdata.Pass) { p.Dirs = p.Dirs[:3] },
		"nothing but name": func(p *snapdata.Pass) { *p = snapdata.Pass{Src: p.Src, Dst: p.Dst} },
	} {
		src, dst := pair(t, t.TempDir())
		write(t, filepath.Join(src, "file"), "source")
		settle(t)
		pass := first(t, src, dst)
		// A difference that nothing but a look inside can find.
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(dst, "file"), &st))
		write(t, filepath.Join(dst, "file"), "wrong!")
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dst, "file"), []unix.Timespec{st.Atim, st.Mtim}, 0))
		spoil(pass)
		second(t, pass)
		if got, err := os.ReadFile(filepath.Join(dst, "file")); string(got) != "source" {
			t.Errorf("%s: the copy says %q, %v", name, got, err)
		}
	}
}

func TestMountPointsAreNotCrossed(t *testing.T) {
	t.Parallel()
	needRoot(t)
	src, dst := pair(t, t.TempDir())
	must(t, os.Mkdir(filepath.Join(src, "mnt"), 0o755))
	write(t, filepath.Join(src, "single"), "below")
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.Mkdir(outside, 0o755))
	write(t, filepath.Join(outside, "secret"), "secret")
	// A bind mount of the same file system: its device number tells nothing.
	must(t, unix.Mount(outside, filepath.Join(src, "mnt"), "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(src, "mnt"), 0) })
	must(t, unix.Mount(filepath.Join(outside, "secret"), filepath.Join(src, "single"), "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(src, "single"), 0) })
	pass := first(t, src, dst)
	second(t, pass)
	if names, err := os.ReadDir(filepath.Join(dst, "mnt")); len(names) != 0 || err != nil {
		t.Errorf("copied from beyond the mount point: %v, %v", names, err)
	}
	if got, err := os.ReadFile(filepath.Join(dst, "single")); len(got) != 0 || err != nil {
		t.Errorf("copied from beyond the mounted file: %q, %v", got, err)
	}
	if err := snapdata.Remove(t.Context(), src); !errors.Is(err, snapdata.ErrMounted) {
		t.Errorf("remove: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(outside, "secret")); string(got) != "secret" {
		t.Errorf("what is mounted says %q, %v", got, err)
	}
	must(t, unix.Unmount(filepath.Join(src, "mnt"), 0), unix.Unmount(filepath.Join(src, "single"), 0))
	must(t, snapdata.Remove(t.Context(), src))
	if _, err := os.Lstat(src); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}

func TestFirstFails(t *testing.T) {
	t.Parallel()
	needRoot(t)
	src, dst := pair(t, t.TempDir())
	everything(t, src)
	if _, err := snapdata.First(t.Context(), src+"nothing", dst, snapdata.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no source: %v", err)
	}
	must(t, os.Symlink(src, src+"link"))
	if _, err := snapdata.First(t.Context(), src+"link", dst, snapdata.Options{}); !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a symlink as source: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stop := snapdata.Options{Progress: func(snapdata.Stats) { cancel() }}
	for i := range 100 {
		write(t, filepath.Join(src, "f"+strings.Repeat("x", i)), "content")
	}
	if _, err := snapdata.First(ctx, src, dst, stop); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := snapdata.First(t.Context(), src, dst, snapdata.Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto what is there: %v", err)
	}
	// What was interrupted can be finished, and can be removed.
	second(t, snapdata.Resume(src, dst))
	same(t, src, dst)
	must(t, snapdata.Remove(t.Context(), dst), snapdata.Remove(t.Context(), dst))
	if _, err := os.Lstat(dst); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}

// deepBelow makes levels directories in dir, each in the one before.
func deepBelow(t *testing.T, dir string, levels int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range levels {
		must(t, unix.Mkdirat(fd, "directory", 0o755))
		next, err := unix.Openat(fd, "directory", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(t, err, unix.Close(fd))
		fd = next
	}
	must(t, unix.Close(fd))
}

func TestDepth(t *testing.T) {
	t.Parallel()
	needRoot(t)
	top := t.TempDir()
	deep := filepath.Join(top, "deep")
	must(t, os.Mkdir(deep, 0o755))
	deepBelow(t, deep, 3000)
	if _, err := snapdata.First(t.Context(), deep, deep+"2", snapdata.Options{}); !errors.Is(err, snapdata.ErrTooDeep) {
		t.Errorf("copy: %.300v", err)
	}
	must(t, snapdata.Remove(t.Context(), deep), snapdata.Remove(t.Context(), deep+"2"))
	if names, err := os.ReadDir(top); len(names) != 0 || err != nil {
		t.Errorf("left: %v, %v", names, err)
	}
}

// What is deep is removed whatever it is in is called, also if that is what others were called that were removed before.
func TestRemoveForeseen(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	dir := filepath.Join(top, "dir")
	for i := range 3 {
		below := filepath.Join(dir, fmt.Sprintf(".tenure-remove-%d", i))
		must(t, os.MkdirAll(below, 0o755))
		deepBelow(t, below, 250)
	}
	must(t, snapdata.Remove(t.Context(), dir))
	if names, err := os.ReadDir(top); len(names) != 0 || err != nil {
		t.Errorf("left: %v, %v", names, err)
	}
}

func TestRemoveFollowsNothing(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	dir, outside := filepath.Join(top, "dir"), filepath.Join(top, "outside")
	must(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755), os.Mkdir(outside, 0o755))
	write(t, filepath.Join(outside, "keep"), "keep")
	must(t, os.Symlink(outside, filepath.Join(dir, "sub/link")), os.Symlink(outside, filepath.Join(top, "alias")))
	must(t, snapdata.Remove(t.Context(), dir), snapdata.Remove(t.Context(), filepath.Join(top, "alias")))
	must(t, snapdata.Remove(t.Context(), filepath.Join(top, "no/where")))
	if got, err := os.ReadFile(filepath.Join(outside, "keep")); string(got) != "keep" {
		t.Errorf("%q, %v", got, err)
	}
	if names, err := os.ReadDir(top); len(names) != 1 || err != nil {
		t.Errorf("left: %v, %v", names, err)
	}
}

func TestAside(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "1")
	must(t, snapdata.Aside(dir), snapdata.Restore(dir))
	must(t, os.Mkdir(dir, 0o755))
	write(t, filepath.Join(dir, "old"), "old")
	must(t, snapdata.Aside(dir), snapdata.Aside(dir))
	if _, err := os.Stat(filepath.Join(snapdata.AsidePath(dir), "old")); err != nil {
		t.Error(err)
	}
	must(t, os.Mkdir(dir, 0o755))
	if err := snapdata.Aside(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("aside onto another: %v", err)
	}
	if err := snapdata.Restore(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("restore onto another: %v", err)
	}
	must(t, os.Remove(dir), snapdata.Restore(dir), snapdata.Restore(dir))
	if got, err := os.ReadFile(filepath.Join(dir, "old")); string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestRemoveBelowADescriptor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{"gone/sub", "stays"} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	held, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close() //nolint:errcheck // Only read.
	if err := snapdata.Remove(t.Context(), fmt.Sprintf("/proc/self/fd/%d/gone", held.Fd())); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "stays" {
		t.Errorf("left: %v, %v, want only what was not to be removed", entries, err)
	}
}
