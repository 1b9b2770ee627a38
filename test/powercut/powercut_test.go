package powercut_test

import (
	"bytes"
	"errors"
	"hash/maphash"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/internal/journal"
	"tenure/test/powercut"
)

// mounted is a disk at its place.
func mounted(t *testing.T, d *powercut.Disk) string {
	t.Helper()
	dir := t.TempDir()
	m, err := d.Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// must fails the test over the first of several errors.
func must(t *testing.T, all ...error) {
	t.Helper()
	if err := errors.Join(all...); err != nil {
		t.Fatal(err)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// replace puts text at a path by a rename, having synced it before if that is wanted.
func replace(path, text string, synced bool) error {
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if synced && err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), os.Rename(path+".new", path))
}

// cuts are states that a cut at a moment may leave: the four plain ones of each model, and
// some drawn ones.
func cuts(log *powercut.Log, before int, models ...powercut.Model) []*powercut.Disk {
	var all []*powercut.Disk
	for _, model := range models {
		for _, landed := range []powercut.Landed{powercut.Nothing, powercut.All, powercut.Names, powercut.Contents} {
			all = append(all, log.Cut(powercut.Cut{Before: before, Model: model, Landed: landed}))
		}
		for seed := range uint64(50) {
			all = append(all, log.Cut(powercut.Cut{Before: before, Model: model, Landed: powercut.Any, Seed: seed}))
		}
	}
	return all
}

// found are the different contents of a file in several disks; "-" is none.
func found(disks []*powercut.Disk, path string) []string {
	var all []string
	for _, d := range disks {
		text, ok := d.File(path)
		if !ok {
			text = []byte("-")
		}
		all = append(all, string(text))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// inside is where the environment says in which directory another process is to work: memory that shows a
// file of the disk must not be touched in the process that serves it, which could not serve it then.
const inside = "TENURE_POWERCUT_DIR"

// TestFileSystem does to a disk what the journal, the data and the services do.
func TestFileSystem(t *testing.T) {
	if dir := os.Getenv(inside); dir != "" {
		use(t, dir)
		return
	}
	t.Parallel()
	d := powercut.New(powercut.Config{Volatile: []string{"run"}})
	other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFileSystem$")
	other.Env = append(os.Environ(), inside+"="+mounted(t, d))
	if out, err := other.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	last := d.Log().Cut(powercut.Cut{Before: d.Done(), Landed: powercut.All})
	if text, _ := last.File("y/3"); string(text) != "One and more" {
		t.Errorf("it has %q", text)
	}
	if last.Digest(digests) != d.Digest(digests) {
		t.Errorf("what was recorded is not what was done: %q", last.Differences(d))
	}
	if slices.Contains(last.Names(""), "run") {
		t.Error("what is in memory has survived")
	}
}

// use works on the disk at dir.
func use(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	db, err := journal.Open(journal.Config{Path: at("db")})
	must(t, err)
	texts := journal.NewCollection[string](db, "texts")
	for _, key := range []string{"a", "b", "c"} {
		must(t, texts.Put(key, strings.Repeat(key, 3*os.Getpagesize())))
	}
	text, _, err := texts.Get("b")
	must(t, err, db.Close())
	if text != strings.Repeat("b", 3*os.Getpagesize()) {
		t.Errorf("read back %d bytes", len(text))
	}
	must(t, os.Mkdir(at("x"), 0o755), os.Mkdir(at("y"), 0o750), os.WriteFile(at("x/1"), []byte("one"), 0o600), os.WriteFile(at("y/2"), []byte("two"), 0o600))
	must(t, unix.Renameat2(unix.AT_FDCWD, at("x"), unix.AT_FDCWD, at("y"), unix.RENAME_EXCHANGE))
	if _, err := os.Stat(at("y/1")); err != nil {
		t.Error(err)
	}
	if err := os.Remove(at("x")); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a directory that is not empty: %v", err)
	}
	must(t, os.Link(at("y/1"), at("y/3")), os.Symlink("3", at("y/4")), unix.Setxattr(at("y/1"), "user.a", []byte("b"), 0), os.Chown(at("y/1"), 7, 8), os.Chmod(at("y/1"), 0o640))
	f, err := os.OpenFile(at("y/4"), os.O_APPEND|os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteString(" and more")
	must(t, err)
	memory, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	memory[0] = 'O'
	must(t, unix.Msync(memory, unix.MS_SYNC), unix.Munmap(memory), f.Close())
	must(t, os.MkdirAll(at("run/a"), 0o755), os.WriteFile(at("run/a/b"), []byte("gone"), 0o600))
}

var digests = maphash.MakeSeed()

// TestModels has each model lose what it may, and nothing else.
func TestModels(t *testing.T) {
	t.Parallel()
	const ordered, posix = powercut.Ordered, powercut.Posix
	d := powercut.New(powercut.Config{})
	dir := mounted(t, d)
	path := filepath.Join(dir, "file")
	must(t, replace(path, "old", true), syncDir(dir))
	check := func(what string, model powercut.Model, want ...string) {
		t.Helper()
		if got := found(cuts(d.Log(), d.Done(), model), "file"); !slices.Equal(got, want) {
			t.Errorf("%s, %s: it may have %q, and is to have %q", what, model, got, want)
		}
	}
	check("synced", ordered, "old")
	check("synced", posix, "old")
	must(t, replace(path, "new", false))
	check("renamed unsynced", ordered, "", "new", "old")
	check("renamed unsynced", posix, "", "\x00\x00\x00", "new", "old")
	must(t, syncDir(dir))
	check("the directory alone synced", ordered, "", "new")
	check("the directory alone synced", posix, "", "\x00\x00\x00", "new")
	must(t, replace(path, "newer", true))
	if got := found(cuts(d.Log(), d.Done(), posix), "file"); !slices.Equal(got, []string{"", "\x00\x00\x00", "new", "newer"}) {
		t.Errorf("renamed synced: it may have %q", got)
	}
	must(t, syncDir(dir))
	check("all synced", ordered, "newer")
	check("all synced", posix, "newer")

	f, err := os.Create(filepath.Join(dir, "made"))
	must(t, err, f.Sync(), f.Close())
	if got := found(cuts(d.Log(), d.Done(), ordered), "made"); !slices.Equal(got, []string{""}) {
		t.Errorf("a journal loses the name of a synced file: %q", got)
	}
	if got := found(cuts(d.Log(), d.Done(), posix), "made"); !slices.Equal(got, []string{"", "-"}) {
		t.Errorf("the name of a synced file in a directory that was not: %q", got)
	}

	must(t, syncDir(dir), os.WriteFile(filepath.Join(dir, "a"), nil, 0o600), os.WriteFile(filepath.Join(dir, "b"), nil, 0o600))
	for model, wanted := range map[powercut.Model]bool{ordered: false, posix: true} {
		later := slices.ContainsFunc(cuts(d.Log(), d.Done(), model), func(d *powercut.Disk) bool {
			names := d.Names("")
			return slices.Contains(names, "b") && !slices.Contains(names, "a")
		})
		if later != wanted {
			t.Errorf("%s: the later of two names alone is %t", model, later)
		}
	}
}

// TestPages has a page of a file be there and another not, and also a part of one.
func TestPages(t *testing.T) {
	t.Parallel()
	d := powercut.New(powercut.Config{})
	path := filepath.Join(mounted(t, d), "file")
	must(t, os.WriteFile(path, bytes.Repeat([]byte{'o'}, 3*4096), 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err, f.Sync())
	before := d.Done()
	_, err = f.WriteAt(bytes.Repeat([]byte{'n'}, 3*4096), 0)
	must(t, err, f.Close())
	var some, torn bool
	for _, cut := range cuts(d.Log(), d.Done(), powercut.Ordered) {
		text, _ := cut.File("file")
		if len(text) != 3*4096 {
			t.Fatalf("it has %d bytes", len(text))
		}
		for page := range slices.Chunk(text, 4096) {
			switch bytes.Count(page, []byte{'n'}) {
			case 0, 4096:
			default:
				torn = true
			}
		}
		some = some || text[0] != text[4096]
	}
	if !some || !torn {
		t.Errorf("some pages alone: %t; a part of one: %t", some, torn)
	}
	for _, cut := range cuts(d.Log(), before, powercut.Posix) {
		if text, _ := cut.File("file"); bytes.Contains(text, []byte{'n'}) {
			t.Error("a cut knows what comes after it")
		}
	}
}

// TestAgain cuts the power while what a cut has left is worked on.
func TestAgain(t *testing.T) {
	t.Parallel()
	d := powercut.New(powercut.Config{})
	dir := mounted(t, d)
	must(t, replace(filepath.Join(dir, "first"), "kept", true), syncDir(dir))
	second := d.Log().Cut(powercut.Cut{Before: d.Done()})
	dir = mounted(t, second)
	must(t, replace(filepath.Join(dir, "second"), "lost", false))
	third := second.Log().Cut(powercut.Cut{Before: second.Done()})
	if got := third.Names(""); !slices.Equal(got, []string{"first"}) {
		t.Errorf("there is %q", got)
	}
}
