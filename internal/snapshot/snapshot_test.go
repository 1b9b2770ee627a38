package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/snapshot"
)

// tree makes a directory with one of everything.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	steps := []error{
		os.MkdirAll(at("x1/deep/er"), 0o755),
		os.WriteFile(at("x1/deep/file"), []byte("text"), 0o640),
		os.WriteFile(at("x1/big"), append(make([]byte, 1<<20), "end"...), 0o600),
		os.WriteFile(at("x1/empty"), nil, 0o600),
		os.Link(at("x1/deep/file"), at("x1/linked")),
		os.Symlink("/etc/passwd", at("x1/out")),
		unix.Mkfifo(at("x1/pipe"), 0o622),
		unix.Mknod(at("x1/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		os.Mkdir(at("common"), 0o1777),
		os.Chown(at("x1/deep"), 33, 100),
		os.Lchown(at("x1/out"), 33, 33),
		os.Chmod(at("x1/deep"), 0o2750),
		os.Chown(at("x1/deep/file"), 33, 33),
		unix.Setxattr(at("x1/deep/file"), "trusted.note", []byte("a\x00b"), 0),
		os.Chtimes(at("x1/deep/file"), time.Unix(7, 8), time.Unix(1234567890, 123456789)),
		os.Chtimes(at("x1/deep"), time.Unix(7, 8), time.Unix(1234567000, 5)),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	return dir
}

// listing says all of a tree that is to be kept.
func listing(t *testing.T, dir string) (lines []string) {
	t.Helper()
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir)
		line := fmt.Sprintf("%s %o %d:%d %d", name, st.Mode, st.Uid, st.Gid, st.Rdev)
		if entry.Type().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			line += fmt.Sprintf(" %d %x is %s", st.Mtim.Nano(), text, first[st.Ino])
			value := make([]byte, 10)
			if n, err := unix.Lgetxattr(path, "trusted.note", value); err == nil {
				line += fmt.Sprintf(" note %q", value[:n])
			}
		}
		if entry.IsDir() {
			line += fmt.Sprintf(" %d", st.Mtim.Nano())
		}
		if target, err := os.Readlink(path); err == nil {
			line += " to " + target
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func all(string) bool { return true }

func saved(t *testing.T) (snapshot.Store, string) {
	t.Helper()
	s, dir := snapshot.Store{Dir: filepath.Join(t.TempDir(), "snapshots")}, tree(t)
	d := snapshot.Description{Set: 3, Snap: "hello", Revision: tenure.LocalRevision(1), Version: "1", Time: time.Now()}
	trees := map[string]string{snapshot.System: dir, snapshot.UserArchive("ann"): dir}
	if err := s.Save(t.Context(), d, trees); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func TestWhatIsSavedComesBack(t *testing.T) {
	t.Parallel()
	s, dir := saved(t)
	into := t.TempDir()
	d, err := s.Unpack(t.Context(), 3, "hello", into, all)
	if err != nil || d.Version != "1" || !slices.Equal(d.Users(), []string{"ann"}) {
		t.Fatalf("%+v, %v", d, err)
	}
	want := listing(t, dir)
	for _, name := range []string{snapshot.System, snapshot.UserArchive("ann")} {
		if diff := cmp.Diff(want, listing(t, filepath.Join(into, name))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(into, snapshot.System, "x1/big"), &st); err != nil || st.Blocks > 64<<10/512 {
		t.Errorf("a file of zeros takes %d blocks, %v", st.Blocks, err)
	}
	if err := s.Check(t.Context(), 3, "hello", all); err != nil {
		t.Error(err)
	}
	found, err := s.List(0)
	if err != nil || len(found) != 1 || found[0].Size == 0 || found[0].Broken != "" {
		t.Errorf("%+v, %v", found, err)
	}
	if found, err := s.List(4); err != nil || len(found) != 0 {
		t.Errorf("another set: %+v, %v", found, err)
	}
	if err := errors.Join(s.Forget(3, "hello"), s.Forget(3, "hello")); err != nil {
		t.Error(err)
	}
	if found, err := s.List(0); err != nil || len(found) != 0 {
		t.Errorf("when it is forgotten: %+v, %v", found, err)
	}
}

// Whatever byte is another, nothing is made of the archive, or it is what was saved all the same.
func TestABrokenSnapshotIsNotUnpacked(t *testing.T) {
	t.Parallel()
	s, dir := saved(t)
	path := s.Path(3, "hello")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := listing(t, dir)
	refused, room := 0, t.TempDir()
	for at := 0; at < len(whole); at += 97 {
		text := slices.Clone(whole)
		text[at] ^= 0x41
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		into := filepath.Join(room, strconv.Itoa(at))
		if _, err := s.Unpack(t.Context(), 3, "hello", into, all); err == nil {
			if diff := cmp.Diff(want, listing(t, filepath.Join(into, snapshot.System))); diff != "" {
				t.Fatalf("byte %d: %s", at, diff)
			}
			continue
		}
		refused++
		if left, err := os.ReadDir(into); err == nil && len(left) > 0 {
			t.Errorf("byte %d: of what is broken there is left %v", at, left)
		}
		if found, err := s.List(0); err != nil || len(found) != 1 {
			t.Errorf("byte %d: the list is %v, %v", at, found, err)
		}
	}
	if refused < len(whole)/97/2 {
		t.Errorf("of %d only %d are refused", len(whole)/97, refused)
	}
	if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := s.List(0); err != nil || len(found) != 1 || found[0].Broken == "" {
		t.Errorf("half of it is listed as %+v, %v", found, err)
	}
	if err := s.Check(t.Context(), 3, "hello", all); !errors.Is(err, snapshot.ErrBroken) {
		t.Errorf("half of it: %v", err)
	}
}

func TestASaveThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	s := snapshot.Store{Dir: t.TempDir()}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := snapshot.Description{Set: 1, Snap: "hello"}
	if err := s.Save(ctx, d, map[string]string{snapshot.System: tree(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("it was not told to end: %v", err)
	}
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
