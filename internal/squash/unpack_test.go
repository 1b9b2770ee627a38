package squash_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/squash"
)

// unpacked is what is in a tree: modes, sizes, and where links lead.
func unpacked(t *testing.T, tree string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(tree, path) // It is below.
		found[name] = info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(path)
			found[name] += string(text)
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			found[name] += to
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	dir := snapTree(t)
	write(t, filepath.Join(dir, "locked/file"), "locked", 0o400)
	if err := os.Chmod(filepath.Join(dir, "locked"), 0o555); err != nil { //nolint:gosec // As snaps have it.
		t.Fatal(err)
	}
	for _, compression := range []squash.Compression{squash.XZ, squash.LZ4, squash.Zstd} {
		snap, r, into := build(t, dir, squash.BuildOptions{Compression: compression}), squash.Open(squash.Config{}), t.TempDir()
		entries, err := r.List(t.Context(), snap)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := r.Unpack(t.Context(), snap, entries, into, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(unpacked(t, dir), unpacked(t, tree)); diff != "" {
			t.Errorf("%s: %s", compression, diff)
		}
		if _, err := r.Unpack(t.Context(), snap, entries, t.TempDir(), 300_000); !errors.Is(err, squash.ErrTooBig) {
			t.Errorf("more than there is room for: %v", err)
		}
		// It is not what was listed.
		if _, err := r.Unpack(t.Context(), snap, nil, t.TempDir(), 1<<20); err == nil {
			t.Error("a file of any size can be written")
		}
	}
}

// unpackProbe is run in place of unsquashfs, and tells what it may do where it unpacks.
const unpackProbe = `#!/bin/sh
mkdir /proc/self/fd/4/tree
{ cat /proc/self/status; tr -s " " </proc/self/limits; readlink /proc/self/ns/user; } >/proc/self/fd/4/tree/said
`

func TestUnpackHasNoRights(t *testing.T) {
	t.Parallel()
	snap := build(t, snapTree(t), squash.BuildOptions{})
	program := filepath.Join(t.TempDir(), "probe")
	write(t, program, unpackProbe, 0o755)
	open(t, filepath.Dir(program))
	r := squash.Open(squash.Config{Unsquashfs: program, Time: 5 * time.Second})
	tree, err := r.Unpack(t.Context(), snap, []squash.Entry{{Path: "a", Size: 70_000}, {Path: "b", Size: 3}}, t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(filepath.Join(tree, "said"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "NoNewPrivs:\t1", "CapEff:\t0000000000000000",
		"Max address space 268435456 268435456", "Max file size 70000 70000", "Max cpu time 5 5",
	} {
		if !strings.Contains(string(said), want) {
			t.Errorf("the child's state lacks %q:\n%s", want, said)
		}
	}
	ours, err := os.Readlink("/proc/self/ns/user")
	if err != nil || strings.Contains(string(said), ours) {
		t.Errorf("the child, whom others share a number with, shares our namespace %s, too (%v)", ours, err)
	}
}
