package test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/examples/clients/hello"
	"tenure/internal/mount"
	"tenure/test/rig"
)

// disk is a file system of its own, on a loop device, in a directory.
type disk struct {
	t   *testing.T
	dir string
}

// newDisk makes a disk of some MiB.
func newDisk(t *testing.T, mib int64) *disk {
	t.Helper()
	memory := t.TempDir() // The machine's own disk is what tests wait for most.
	must(t, unix.Mount("tenure-test", memory, "tmpfs", 0, "size=512m"))
	image := filepath.Join(memory, "disk")
	t.Cleanup(func() {
		if err := unix.Unmount(memory, 0); err != nil {
			t.Error(err)
		}
	})
	must(t, errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, mib<<20)))
	dir, err := os.MkdirTemp("", "td-") //nolint:usetesting // Sockets need a short path.
	must(t, err)
	runs(t, "mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-N", "4096", image)
	runs(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), rig.Patience)
		defer cancel()
		if err := errors.Join(mount.Unmount(ctx, dir), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	return &disk{t: t, dir: dir}
}

func runs(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill leaves some KiB free.
func (d *disk) fill(kib int64) {
	d.t.Helper()
	d.free()
	f, err := os.Create(d.ballast())
	must(d.t, err)
	defer f.Close() //nolint:errcheck // What counts is what is allocated.
	var st unix.Statfs_t
	must(d.t, unix.Fstatfs(int(f.Fd()), &st))
	for size := int64(st.Bavail)*st.Bsize - kib<<10; size > 0; size -= st.Bsize {
		// The file takes blocks for itself.
		if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err == nil {
			return
		} else if !errors.Is(err, unix.ENOSPC) {
			d.t.Fatal(err)
		}
	}
}

// free gives everything back.
func (d *disk) free() {
	d.t.Helper()
	must(d.t, removeIfThere(d.ballast()))
}

// filesOf are the files of the instance that are to be the same after what was refused.
func filesOf(t *testing.T, i *rig.Instance) []string {
	t.Helper()
	var found []string
	for _, top := range []string{"snap", "var/snap", "var/lib/tenure/snaps", "var/lib/tenure/staging", "var/lib/tenure/snapshots"} {
		err := filepath.WalkDir(i.Path(top), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			found = append(found, path)
			if entry.IsDir() && strings.Count(strings.TrimPrefix(path, i.Path(top)), "/") > 1 {
				return fs.SkipDir
			}
			return nil
		})
		must(t, err)
	}
	return append(found, rig.Mounts(i.Root)...)
}

// TestFullDisk has everything that Tenure writes on a disk with ever more room: what is asked for is
// refused or undone, wholly and in plain words, until there is enough; services go on serving, the daemon
// answers, and what makes room can always be done.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	more, natively := int64(often(8, 16)), often(1, 0) == 1
	d := newDisk(t, 48)
	i := rig.New(t, rig.Config{Dir: d.dir, Disk: true, RunSize: 8 << 20})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	i.Tenure("forget", saved(t, i, "hello"))
	socket := i.Path("var/snap/hello/common/hello.sock")
	must(t, os.WriteFile(i.Path("var/snap/hello/x1/data"), make([]byte, 3<<20), 0o600))
	for _, c := range []struct {
		what string
		args []string
		// always is that there is no disk that is too full for it.
		always bool
	}{
		{"install", []string{"install", "--dangerous", "--name", "hello_b", snap(t, "hello", "1")}, false},
		{"set", []string{"set", "system", "refresh.retain=4"}, true},
		{"refresh", []string{"refresh", "--dangerous", snap(t, "hello", "2")}, false},
		{"save", []string{"save", "hello"}, false},
		{"restart", []string{"restart", "hello_b"}, true},
		{"revert", []string{"revert", "hello"}, true},
		{"remove", []string{"remove", "--purge", "hello_b"}, true},
	} {
		if c.what == "revert" && !natively {
			// The file of the unit is on the same disk: without room for it the service that runs is
			// started again, which is undone and no more.
			d.free()
			i.Tenure(c.args...)
			continue
		}
		refused := 0
		for kib := int64(0); ; kib = max(64, kib*more) {
			d.fill(kib)
			before, main := filesOf(t, i), i.Main("hello.hellod")
			got := i.Try(c.args...)
			if got.Status == 0 {
				t.Logf("%s: refused %d times, done with %d KiB", c.what, refused, kib)
				break
			}
			if refused++; c.always || kib > 32<<10 {
				t.Fatalf("%s with %d KiB: exit status %d: %s", c.what, kib, got.Status, got.Stderr)
			}
			for _, want := range []string{"no space left on", "make room"} {
				if !strings.Contains(got.Stderr, want) {
					t.Errorf("%s with %d KiB says nothing of %q: %s", c.what, kib, want, got.Stderr)
				}
			}
			equal(t, fmt.Sprintf("main process after %s with %d KiB", c.what, kib), i.Main("hello.hellod"), main)
			equal(t, fmt.Sprintf("files after %s with %d KiB", c.what, kib), filesOf(t, i), before)
			if answer, err := hello.Ask(t.Context(), socket); err != nil || answer.PID != main.PID {
				t.Errorf("after %s with %d KiB: %v, %v", c.what, kib, answer, err)
			}
		}
		if refused == 0 && !c.always {
			t.Errorf("%s was never refused: the disk was not full", c.what)
		}
	}
	d.free()
	units := i.Units()
	if _, left := units["hello_b.hellod"]; left || !slices.Contains([]string{"running"}, string(units["hello.hellod"].State)) {
		t.Errorf("units: %v", units)
	}
}

// saved is the number of the set that it saves the data of a snap in.
func saved(t *testing.T, i *rig.Instance, snap string) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(i.Tenure("save", snap)), "\n")
	return strings.Fields(lines[len(lines)-1])[0]
}

// TestFullRun has no room where the records of units are: nothing is stopped that could not be started again.
func TestFullRun(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{RunSize: 4 << 20})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before := i.Main("hello.hellod")
	run := &disk{t: t, dir: i.Path("run")}
	run.fill(0)
	for _, args := range [][]string{
		{"restart", "hello"}, {"refresh", "--dangerous", snap(t, "hello", "2")}, {"install", "--dangerous", "--name", "hello_b", snap(t, "hello", "1")},
	} {
		got := i.Try(args...)
		if got.Status == 0 || !strings.Contains(got.Stderr, "no space left on "+i.Path("run/tenure")) {
			t.Errorf("%v: exit status %d, %s", args, got.Status, got.Stderr)
		}
		equal(t, "main process", i.Main("hello.hellod"), before)
	}
	for _, end := range []func(){i.Stop, i.Kill} {
		end()
		i.Start()
		equal(t, "main process", i.Main("hello.hellod"), before)
	}
	i.Tenure("stop", "hello")
	must(t, rig.Gone(t.Context(), before))
	run.free()
	i.Tenure("start", "hello")
	run.fill(0)
	i.Tenure("remove", "hello")
}

// TestDaemonStartsOnAFullDisk ends and kills the daemon there.
func TestDaemonStartsOnAFullDisk(t *testing.T) {
	t.Parallel()
	d := newDisk(t, 32)
	i := rig.New(t, rig.Config{Dir: d.dir, Disk: true, RunSize: 8 << 20})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before := i.Main("hello.hellod")
	for _, end := range []func(){i.Stop, i.Kill} {
		d.fill(0)
		end()
		i.Start()
		equal(t, "main process", i.Main("hello.hellod"), before)
		i.Tenure("restart", "hello")
		before = i.Main("hello.hellod")
	}
	i.Tenure("remove", "--purge", "hello")
}
