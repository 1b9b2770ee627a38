package dir

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tenure/internal/source/sourcetest"
)

// What was read of files that have settled is not read again until one of them changes, and
// not kept when they are gone.
func TestKnownUntilItChanges(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	r, file := sourcetest.Of("fine", 1)
	yaml := func(version string) []byte {
		return []byte("version: '" + version + "'\nsummary: x\nchannels: [stable]\nreleased: " + r.Released.Format(time.RFC3339) +
			"\nsize: " + strconv.FormatInt(r.Size, 10) + "\nsha256: " + r.Digest + "\n")
	}
	described, packed := filepath.Join(path, "fine_1.yaml"), filepath.Join(path, "fine_1.snap")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(errors.Join(os.Chmod(path, 0o755), os.WriteFile(packed, file, 0o600), os.WriteFile(described, yaml("1"), 0o600))) //nolint:gosec // As people have it.
	opened, err := Open(path)
	must(err)
	s := opened.(Source) //nolint:forcetypeassert // It is made of one.
	want := func(version, problem string) {
		t.Helper()
		found, err := s.Releases(t.Context(), "fine")
		must(err)
		if version != "" && (len(found.Releases) != 1 || found.Releases[0].Version != version) {
			t.Errorf("want version %s: %+v", version, found)
		}
		if problem != "" && (len(found.Problems) != 1 || !strings.Contains(found.Problems[0].Error(), problem)) {
			t.Errorf("want a problem with %q: %+v", problem, found)
		}
	}
	want("1", "")
	if len(s.known.of) != 0 {
		t.Error("files are taken for settled that have been written just now")
	}
	s.known.now = func() time.Time { return time.Now().Add(time.Hour) }
	want("1", "")
	// What is known is what is said.
	mark := s.known.of["fine_1"]
	mark.release.Version = "marked"
	s.known.of["fine_1"] = mark
	want("marked", "")
	must(os.WriteFile(described, yaml("22"), 0o600))
	want("22", "")
	must(os.Chmod(packed, 0o602))
	want("", "others than root can write")
	want("", "others than root can write")
	must(os.Chmod(packed, 0o600))
	want("22", "")
	// What cannot be read for a moment can be read again, though its files are as they were:
	// nobody opens a file that is leased to somebody else.
	lease, err := os.OpenFile(packed, os.O_RDWR, 0)
	must(err)
	s.known.of = map[string]reading{}
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, lease.Fd(), syscall.F_SETLEASE, syscall.F_WRLCK); errno != 0 {
		t.Fatal(errno)
	}
	want("", "temporarily unavailable")
	must(lease.Close())
	want("22", "")
	must(os.WriteFile(packed, file[1:], 0o600))
	want("", "bytes, and not "+strconv.FormatInt(r.Size, 10))
	must(errors.Join(os.Remove(packed), os.Remove(described)))
	if found, err := s.All(t.Context()); err != nil || len(found.Releases)+len(found.Problems)+len(s.known.of) != 0 {
		t.Errorf("%+v, %v; known are %v", found, err, s.known.of)
	}
}
