package mount_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/mount"
)

// needRoot fails or, where a person runs the tests by hand, skips.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if ci, _ := os.LookupEnv("CI"); ci == "true" {
		t.Fatal("mounting needs root")
	}
	t.Skip("mounting needs root")
}

// image makes a snap file with bin/sleep, which runs without libraries, and a
// file that tells the images apart.
func image(t *testing.T, name string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	for file, content := range map[string]string{"name": name, "a/b/c": "c", "lib/data": strings.Repeat("data", 5000)} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(self, filepath.Join(dir, "prog")); err != nil {
		copyFile(t, self, filepath.Join(dir, "prog"))
	}
	out := filepath.Join(t.TempDir(), name+".snap")
	cmd := exec.CommandContext(t.Context(), "mksquashfs", dir, out, "-comp", "lz4", "-no-progress", "-quiet", "-all-root")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs: %v: %s", err, said)
	}
	return out
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

// mounted mounts a file and checks at the end that nothing is left of it.
func mounted(t *testing.T, file, dir string) mount.Info {
	t.Helper()
	info, err := mount.Mount(t.Context(), file, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unmounted(context.WithoutCancel(t.Context()), dir); err != nil {
			t.Error(err)
		}
		free(t, file)
	})
	return info
}

// unmounted unmounts what this test used. A process that another test is just
// forking has our descriptors until it executes its program, so that the
// mount may be in use for a moment.
func unmounted(ctx context.Context, dir string) error {
	deadline := time.After(5 * time.Second)
	for {
		err := mount.UnmountTree(ctx, dir)
		if !errors.Is(err, mount.ErrBusy) {
			return err
		}
		select {
		case <-deadline:
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// free waits until no loop device shows the file. A moment may pass: whoever
// makes a mount namespace on this machine has a copy of our mounts in it until
// it has thrown them out.
func free(t *testing.T, file string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var devs []mount.Dev
	var err error
	for range 1000 {
		devs, err = mount.Attached(file)
		if err != nil || len(devs) == 0 {
			break
		}
		<-tick.C
	}
	if err != nil || len(devs) != 0 {
		t.Errorf("still attached to %s: %v, %v", file, devs, err)
	}
}

func TestMountAndUnmount(t *testing.T) {
	t.Parallel()
	file := image(t, "one")
	dir := filepath.Join(t.TempDir(), "with space", "x1")
	info := mounted(t, file, dir)
	if info.Dir != dir || info.Type != "squashfs" || info.Dev.Major != 7 {
		t.Errorf("mounted as %+v", info)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if want := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV); st.Flags&want != want {
		t.Errorf("flags %x lack read-only, nosuid or nodev", st.Flags)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "name")); err != nil || string(got) != "one" {
		t.Errorf("name: %q, %v", got, err)
	}
	again, err := mount.Mount(t.Context(), file, dir)
	if err != nil || again != info {
		t.Errorf("mounted again as %+v, %v", again, err)
	}
	attached, err := mount.Attached(file)
	if diff := cmp.Diff([]mount.Dev{info.Dev}, attached); diff != "" || err != nil {
		t.Errorf("attached: %v (-want +got):\n%s", err, diff)
	}
	if err := mount.Unmount(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	free(t, file)
	if _, ok, err := mount.Mounted(dir); ok || err != nil {
		t.Errorf("still mounted: %v, %v", ok, err)
	}
	for _, d := range []string{dir, filepath.Join(dir, "nothing")} {
		if err := mount.Unmount(t.Context(), d); err != nil {
			t.Errorf("unmount %s, where nothing is mounted: %v", d, err)
		}
	}
}

func TestMountRefusesWhatIsOccupied(t *testing.T) {
	t.Parallel()
	one, two := image(t, "one"), image(t, "two")
	dir := filepath.Join(t.TempDir(), "x1")
	mounted(t, one, dir)
	if _, err := mount.Mount(t.Context(), two, dir); !errors.Is(err, mount.ErrOccupied) {
		t.Errorf("another file: %v", err)
	}
	// The same name with other bytes is another file.
	copyFile(t, two, one+".new")
	if err := os.Rename(one+".new", one); err != nil {
		t.Fatal(err)
	}
	if _, err := mount.Mount(t.Context(), one, dir); !errors.Is(err, mount.ErrOccupied) {
		t.Errorf("a replaced file: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "name")); err != nil || string(got) != "one" {
		t.Errorf("what is mounted changed: %q, %v", got, err)
	}
}

func TestMountFailsWithoutTrace(t *testing.T) {
	t.Parallel()
	needRoot(t)
	file := filepath.Join(t.TempDir(), "bad.snap")
	if err := os.WriteFile(file, bytes.Repeat([]byte("hsqs"), 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "x1")
	if _, err := mount.Mount(t.Context(), file, dir); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
	free(t, file)
	if _, err := mount.Mount(t.Context(), file+".nothing", dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := mount.Mount(ctx, file, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// TestUnpaddedImage mounts an image whose size is no multiple of the block size
// of the device.
func TestUnpaddedImage(t *testing.T) {
	t.Parallel()
	file := image(t, "one")
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "x1")
	mounted(t, file, dir)
	if got, err := os.ReadFile(filepath.Join(dir, "lib/data")); err != nil || len(got) != 20000 {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	file := image(t, "many")
	top := t.TempDir()
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		wg.Go(func() {
			dir := filepath.Join(top, fmt.Sprint(i))
			_, err := mount.Mount(t.Context(), file, dir)
			_, readErr := os.ReadFile(filepath.Join(dir, "name"))
			errs[i] = errors.Join(err, readErr)
		})
	}
	wg.Wait()
	all, err := mount.Below(top)
	if err != nil || len(all) != len(errs) {
		t.Errorf("%d mounts, %v", len(all), err)
	}
	if err := errors.Join(errors.Join(errs...), mount.UnmountTree(t.Context(), top)); err != nil {
		t.Error(err)
	}
	free(t, file)
}

func TestUnmountIsNeverLazy(t *testing.T) {
	t.Parallel()
	file := image(t, "busy")
	dir := filepath.Join(t.TempDir(), "x1")
	info := mounted(t, file, dir)
	f, err := os.Open(filepath.Join(dir, "a/b/c"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // Closed below in the good case.
	if err := mount.Unmount(t.Context(), dir); !errors.Is(err, mount.ErrBusy) {
		t.Errorf("got %v", err)
	}
	if got, ok, err := mount.Mounted(dir); got != info || !ok || err != nil {
		t.Errorf("afterwards: %+v, %v, %v", got, ok, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mount.Unmount(t.Context(), dir); err != nil {
		t.Error(err)
	}
	free(t, file)
}

// looking ends looking at a file when it is asked for the second time: when one attempt
// has failed.
type looking struct {
	context.Context //nolint:containedctx // It is one.
	at              *os.File
	asked           int
}

func (l *looking) Err() error {
	if l.asked++; l.asked == 2 {
		return l.at.Close()
	}
	return l.Context.Err()
}

// Who looks at the links of a process, as ps and lsof do, uses what they point at.
func TestUnmountGoesOnWhenSomebodyHasLooked(t *testing.T) {
	t.Parallel()
	file := image(t, "looked")
	dir := filepath.Join(t.TempDir(), "x1")
	mounted(t, file, dir)
	f, err := os.Open(filepath.Join(dir, "a/b/c"))
	if err != nil {
		t.Fatal(err)
	}
	if err := mount.Unmount(&looking{Context: t.Context(), at: f}, dir); err != nil {
		t.Error(err)
	}
	free(t, file)
}

func TestShare(t *testing.T) {
	t.Parallel()
	file := image(t, "shared")
	top := filepath.Join(t.TempDir(), "snap")
	if err := os.Mkdir(top, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountTree(context.WithoutCancel(t.Context()), top); err != nil {
			t.Error(err)
		}
	})
	for range 3 {
		if err := mount.Share(top); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := mount.Mount(t.Context(), file, filepath.Join(top, "x1")); err != nil {
		t.Fatal(err)
	}
	all, err := mount.Below(top)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, m := range all {
		if !m.Shared {
			t.Errorf("%s is not shared", m.Dir)
		}
		dirs = append(dirs, m.Dir)
	}
	if diff := cmp.Diff([]string{top, filepath.Join(top, "x1")}, dirs); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	if err := mount.UnmountTree(t.Context(), top); err != nil {
		t.Error(err)
	}
	if left, err := mount.Below(top); len(left) != 0 || err != nil {
		t.Errorf("left: %+v, %v", left, err)
	}
	free(t, file)
}

func rev(t *testing.T, s string) tenure.Revision {
	t.Helper()
	r, err := tenure.ParseRevision(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestStore(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := mount.New(mount.Config{Root: root})
	x1, r12 := rev(t, "x1"), rev(t, "12")
	if got, want := s.File("virt_dev", r12), root+"/var/lib/tenure/snaps/virt_dev_12.snap"; got != want {
		t.Errorf("file %s, want %s", got, want)
	}
	if got, want := s.Dir("virt", x1), root+"/snap/virt/x1"; got != want {
		t.Errorf("dir %s, want %s", got, want)
	}
	for _, content := range []string{"first", "second"} {
		file, err := s.Put(t.Context(), "virt_dev", r12, strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != content {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
	if _, err := s.Put(t.Context(), "virt", x1, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	files, err := s.Files()
	want := []mount.Stored{{"virt_dev", r12}, {"virt", x1}}
	if diff := cmp.Diff(want, files, cmp.Comparer(func(a, b tenure.Revision) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("files: %v (-want +got):\n%s", err, diff)
	}
	for range 2 {
		if err := s.Remove("virt_dev", r12); err != nil {
			t.Error(err)
		}
	}
	if files, err := s.Files(); len(files) != 1 || err != nil {
		t.Errorf("after removal: %v, %v", files, err)
	}
}

func TestPutFailsWithoutTrace(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := mount.New(mount.Config{Root: root})
	file, err := s.Put(t.Context(), "virt", rev(t, "x1"), strings.NewReader("before"))
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		src  io.Reader
		kind error
	}{
		"source fails": {t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(syscall.EIO)), syscall.EIO},
		"canceled":     {canceled, strings.NewReader("x"), context.Canceled},
	} {
		if _, err := s.Put(c.ctx, "virt", rev(t, "x1"), c.src); !errors.Is(err, c.kind) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "before" {
		t.Errorf("the old file became %q, %v", got, err)
	}
	names, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(names) != 1 {
		t.Errorf("left: %v, %v", names, err)
	}
	stale := filepath.Join(filepath.Dir(file), ".put-123")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Error(err)
	}
	if names, err := os.ReadDir(filepath.Dir(file)); err != nil || len(names) != 1 {
		t.Errorf("after the sweep: %v, %v", names, err)
	}
}
