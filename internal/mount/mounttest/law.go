// Package mounttest is the law of package mount: what every mount table must do. It also has the one in memory,
// which keeps it.
//
// What always holds: Run asks nothing of a table that mount.Table does not promise. Any number of Runs may go on
// at the same time, in directories of their own.
package mounttest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/mount"
)

// Bench is a table under test.
type Bench struct {
	mount.Table
	// File makes a snap file.
	File func(t *testing.T, name string) string
	// Use has a process use what is mounted at a directory, until end is called.
	Use func(t *testing.T, dir string) (user tenure.Process, end func())
}

// Run holds the tables that build gives to the law.
func Run(t *testing.T, build func(t *testing.T) Bench) {
	t.Helper()
	for name, law := range map[string]func(*testing.T, Bench){
		"what is mounted is there until it is unmounted": mounted,
		"a place is not taken twice":                     occupied,
		"what is in use stays":                           busy,
		"what is shared stays so":                        shared,
		"trees go from their leaves":                     trees,
		"users are told":                                 users,
		"a file that is missing leaves nothing":          missing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			law(t, build(t))
		})
	}
}

// check fails the test with what went wrong.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// at fails the test unless what is mounted at and below dir is at those directories, in this order.
func (b Bench) at(t *testing.T, dir string, want ...string) {
	t.Helper()
	infos, err := b.Below(dir)
	check(t, err)
	got := []string{}
	for _, info := range infos {
		got = append(got, info.Dir)
	}
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		t.Errorf("mounted below %s (-want +got):\n%s", dir, diff)
	}
}

func mounted(t *testing.T, b Bench) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "snap", "x1")
	file := b.File(t, "one")
	info, err := b.Mount(t.Context(), file, dir)
	check(t, err)
	again, err := b.Mount(t.Context(), file, dir)
	check(t, err)
	there, found, err := b.Mounted(dir)
	check(t, err)
	if !found || info != again || info != there || info.Dir != dir || info.Type != "squashfs" {
		t.Errorf("mounted %+v, then %+v, and %t: %+v is there", info, again, found, there)
	}
	b.at(t, filepath.Dir(dir), dir)
	if err := os.Remove(dir); err == nil {
		t.Error("the directory of a mount was removed")
	}
	check(t, b.settled(t, dir))
	check(t, b.Unmount(t.Context(), dir))
	b.at(t, filepath.Dir(dir))
	check(t, os.Remove(dir))
}

// settled unmounts, for whoever has just looked may still use it.
func (b Bench) settled(t *testing.T, dir string) error {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := b.UnmountTree(t.Context(), dir)
		if !errors.Is(err, mount.ErrBusy) {
			return err
		}
		select {
		case <-again.C:
		case <-t.Context().Done():
			return err
		}
	}
}

func occupied(t *testing.T, b Bench) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "x1")
	_, err := b.Mount(t.Context(), b.File(t, "one"), dir)
	check(t, err)
	if _, err := b.Mount(t.Context(), b.File(t, "two"), dir); !errors.Is(err, mount.ErrOccupied) {
		t.Errorf("another file at the same place: %v", err)
	}
	b.at(t, dir, dir)
	check(t, b.settled(t, dir))
}

func busy(t *testing.T, b Bench) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "x1")
	_, err := b.Mount(t.Context(), b.File(t, "one"), dir)
	check(t, err)
	_, end := b.Use(t, dir)
	for name, unmount := range map[string]error{"Unmount": b.Unmount(t.Context(), dir), "UnmountTree": b.UnmountTree(t.Context(), dir)} {
		if !errors.Is(unmount, mount.ErrBusy) {
			t.Errorf("%s of what is in use: %v", name, unmount)
		}
	}
	b.at(t, dir, dir)
	end()
	check(t, b.settled(t, dir))
	_, err = b.Mount(t.Context(), b.File(t, "two"), dir)
	check(t, err)
	_, end = b.Use(t, dir)
	defer end()
	check(t, b.DetachTree(t.Context(), dir))
	b.at(t, dir)
}

func shared(t *testing.T, b Bench) {
	t.Helper()
	dir := t.TempDir()
	check(t, errors.Join(b.Share(dir), b.Share(dir)))
	info, found, err := b.Mounted(dir)
	check(t, err)
	if !found || !info.Shared {
		t.Errorf("what is shared is %t: %+v", found, info)
	}
	b.at(t, dir, dir)
	check(t, b.settled(t, dir))
	b.at(t, dir)
	if err := b.Share(filepath.Join(dir, "missing")); err == nil {
		t.Error("a directory that is missing is shared")
	}
}

func trees(t *testing.T, b Bench) {
	t.Helper()
	top := t.TempDir()
	first, second := filepath.Join(top, "x1"), filepath.Join(top, "x2")
	check(t, b.Share(top))
	for _, dir := range []string{first, second} {
		_, err := b.Mount(t.Context(), b.File(t, filepath.Base(dir)), dir)
		check(t, err)
	}
	b.at(t, top, top, first, second)
	if err := b.Unmount(t.Context(), top); !errors.Is(err, mount.ErrBusy) {
		t.Errorf("what has other mounts below it is unmounted: %v", err)
	}
	b.at(t, top, top, first, second)
	check(t, b.settled(t, first))
	b.at(t, top, top, second)
	check(t, b.settled(t, top))
	b.at(t, top)
}

func users(t *testing.T, b Bench) {
	t.Helper()
	top := t.TempDir()
	used, err := b.Mount(t.Context(), b.File(t, "used"), filepath.Join(top, "x1"))
	check(t, err)
	other, err := b.Mount(t.Context(), b.File(t, "other"), filepath.Join(top, "x2"))
	check(t, err)
	user, end := b.Use(t, used.Dir)
	all, err := b.UsersOf(t.Context(), used, other)
	check(t, err)
	by := func(use mount.Use) bool { return use.Process == user }
	if !slices.ContainsFunc(all[used.Dev], by) || slices.ContainsFunc(all[other.Dev], by) {
		t.Errorf("the users are %v, want %v of %s alone", all, user, used.Dev)
	}
	whats, err := b.UsedBy(user, used, other)
	check(t, err)
	if len(whats[used.Dev]) == 0 || len(whats[other.Dev]) > 0 {
		t.Errorf("%v uses %v, want something of %s alone", user, whats, used.Dev)
	}
	end()
	check(t, b.settled(t, top))
}

func missing(t *testing.T, b Bench) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "x1")
	if _, err := b.Mount(t.Context(), filepath.Join(t.TempDir(), "missing.snap"), dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is missing is mounted: %v", err)
	}
	b.at(t, dir)
	check(t, errors.Join(b.Unmount(t.Context(), dir), b.UnmountTree(t.Context(), dir), b.DetachTree(t.Context(), dir)))
}
