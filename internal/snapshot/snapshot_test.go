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
	"sync/atomic"
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
func listing(t testing.TB, dir string) (lines []string) {
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

// quiet has nothing to be left out.
func quiet(t *testing.T) func(string) {
	t.Helper()
	return func(said string) { t.Errorf("left out: %s", said) }
}

// through saves a tree and gives what comes back, and what was said.
func through(ctx context.Context, t *testing.T, dir string) (back string, said []string) {
	t.Helper()
	s := snapshot.Store{Dir: filepath.Join(t.TempDir(), "snapshots")}
	trees := map[string]string{snapshot.System: dir}
	if err := s.Save(ctx, snapshot.Description{Set: 1, Snap: "hello"}, trees, func(text string) { said = append(said, text) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(ctx, 1, "hello", all); err != nil {
		t.Fatal(err)
	}
	into := t.TempDir()
	if _, err := s.Unpack(ctx, 1, "hello", into, all); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(into, snapshot.System), said
}

// A file that is a hole of terabytes takes no time and no room, on the way there and back.
func TestHolesAreNotSaved(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const size, place = 4 << 40, 1<<40 + 123
	dir := t.TempDir()
	for name, texts := range map[string]map[int64]string{
		"data": {0: "first", place: strings.Repeat("second", 50_000), size - 4: "last"}, "hole": nil,
	} {
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		err = file.Truncate(size)
		for at, text := range texts {
			_, written := file.WriteAt([]byte(text), at)
			err = errors.Join(err, written)
		}
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	back, said := through(ctx, t, dir)
	for name, texts := range map[string]map[int64]string{"data": {0: "first\x00", place: strings.Repeat("second", 50_000) + "\x00", size - 4: "last"}, "hole": {place: "\x00"}} {
		file, err := os.Open(filepath.Join(back, name))
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &st); err != nil || st.Size != size || st.Blocks > 1<<20/512 {
			t.Errorf("%s has %d bytes, and takes %d blocks, %v", name, st.Size, st.Blocks, err)
		}
		for at, want := range texts {
			text := make([]byte, len(want))
			if _, err := file.ReadAt(text, at); err != nil || string(text) != want {
				t.Errorf("%s at %d is %.20q, %v", name, at, text, err)
			}
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(said) > 0 {
		t.Errorf("left out: %v", said)
	}
}

// Paths that are longer than the system takes are saved, as are attributes of whatever name.
func TestWhateverIsInATree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parent, err := os.OpenRoot(dir)
	name := strings.Repeat("n", 250)
	for range 20 {
		if err != nil {
			t.Fatal(err)
		}
		below := parent
		if err = below.Mkdir(name, 0o700); err == nil {
			parent, err = below.OpenRoot(name)
		}
		err = errors.Join(err, below.Close())
	}
	attributes := map[string]string{"trusted.a=b": "1", "trusted.%3D": "a=b\n", "trusted.%": "\x00", "trusted.none": ""}
	path := filepath.Join(dir, "file")
	steps := []error{err, parent.WriteFile("end", []byte("text"), 0o600), parent.Close(), os.WriteFile(path, nil, 0o600)}
	for name, value := range attributes {
		steps = append(steps, unix.Setxattr(path, name, []byte(value), 0))
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	back, said := through(t.Context(), t, dir)
	root, err := os.OpenRoot(back)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close() //nolint:errcheck // Only read.
	if text, err := root.ReadFile(strings.Repeat(name+"/", 20) + "end"); err != nil || string(text) != "text" {
		t.Errorf("at the end of the path: %q, %v", text, err)
	}
	for name, want := range attributes {
		value := make([]byte, 10)
		if n, err := unix.Getxattr(filepath.Join(back, "file"), name, value); err != nil || string(value[:n]) != want {
			t.Errorf("attribute %q is %q, %v", name, value[:max(n, 0)], err)
		}
	}
	if len(said) > 0 {
		t.Errorf("left out: %v", said)
	}
}

// asked is a context that ends when it has been asked about its end so often.
type asked struct {
	context.Context //nolint:containedctx // It is one.

	left *atomic.Int64
}

func (a asked) Err() error {
	if a.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// One large file keeps nobody from ending a save.
func TestASaveEndsWithinAFile(t *testing.T) {
	t.Parallel()
	s, dir := snapshot.Store{Dir: t.TempDir()}, t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := asked{context.Background(), &atomic.Int64{}} //nolint:usetesting // It has no cause of its own.
	ctx.left.Store(20)
	err := s.Save(ctx, snapshot.Description{Set: 1, Snap: "hello"}, map[string]string{snapshot.System: dir}, quiet(t))
	if left, listErr := os.ReadDir(s.Dir); !errors.Is(err, context.Canceled) || listErr != nil || len(left) != 0 {
		t.Errorf("%v; left: %v, %v", err, left, listErr)
	}
}

func saved(t *testing.T) (snapshot.Store, string) {
	t.Helper()
	s, dir := snapshot.Store{Dir: filepath.Join(t.TempDir(), "snapshots")}, tree(t)
	d := snapshot.Description{Set: 3, Snap: "hello", Revision: tenure.LocalRevision(1), Version: "1", Time: time.Now()}
	trees := map[string]string{snapshot.System: dir, snapshot.UserArchive("ann"): dir}
	if err := s.Save(t.Context(), d, trees, quiet(t)); err != nil {
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
	if err := s.Save(ctx, d, map[string]string{snapshot.System: tree(t)}, quiet(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("it was not told to end: %v", err)
	}
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
