package dir_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tenure/internal/source"
	"tenure/internal/source/dir"
	"tenure/internal/source/sourcetest"
)

// shelf is a directory that is a source.
type shelf struct {
	t    *testing.T
	path string
}

func newShelf(t *testing.T) shelf {
	t.Helper()
	path := t.TempDir()
	if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // As people have it.
		t.Fatal(err)
	}
	return shelf{t, path}
}

func (s shelf) open() source.Source {
	s.t.Helper()
	opened, err := dir.Open(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	return opened
}

// write puts a file into the directory, in one instant.
func (s shelf) write(name string, text []byte) {
	s.t.Helper()
	path := filepath.Join(s.path, name)
	if err := errors.Join(os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		s.t.Fatal(err)
	}
}

func describe(r source.Release) string {
	var channels []string
	for _, c := range r.Channels {
		channels = append(channels, string(c))
	}
	return fmt.Sprintf("version: '%s'\nsummary: %s\nchannels: [%s]\nreleased: %s\nurgency: %s\nsize: %d\nsha256: %s\n",
		r.Version, r.Summary, strings.Join(channels, ", "), r.Released.Format(time.RFC3339), r.Urgency, r.Size, r.Digest)
}

func stem(r source.Release) string { return r.Snap + "_" + r.Revision.String() }

func (s shelf) place() sourcetest.Place {
	return sourcetest.Place{
		Source: s.open(),
		Publish: func(r source.Release, file []byte) {
			s.write(stem(r)+".snap", file)
			s.write(stem(r)+".yaml", []byte(describe(r)))
		},
		Spoil: func(r source.Release, file []byte) { s.write(stem(r)+".snap", file) },
		Withdraw: func(r source.Release) {
			for _, ext := range []string{".yaml", ".snap"} {
				if err := os.Remove(filepath.Join(s.path, stem(r)+ext)); err != nil {
					s.t.Error(err)
				}
			}
		},
	}
}

func TestADirectoryKeepsTheLaw(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, func(t *testing.T) sourcetest.Place { t.Helper(); return newShelf(t).place() })
}

// What is wrong is told of and is not there; what is right beside it is.
func TestWhatIsWrongInADirectoryIsNotThere(t *testing.T) {
	t.Parallel()
	right, file := sourcetest.Of("fine", 1)
	other, _ := sourcetest.Of("bad", 1)
	changed := func(old, replaced string) func(s shelf) {
		return func(s shelf) {
			text := strings.Replace(describe(other), old, replaced, 1)
			if text == describe(other) {
				s.t.Fatalf("%q is not in %s", old, text)
			}
			s.write("bad_1.snap", bytes.Repeat([]byte("x"), int(other.Size)))
			s.write("bad_1.yaml", []byte(text))
		}
	}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, file, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(s shelf){
		"want at most 32 printable characters":  changed("'1.0'", `"\e[2J"`),
		"want at most 128 printable characters": changed("the snap bad", strings.Repeat("long ", 40)),
		"(want [TRACK/]RISK[/BRANCH]":           changed("latest/stable", "a/b/c/d"),
		"0 channels":                            changed("[latest/stable]", "[]"),
		"want a date":                           changed("released: 2026", "released: 1926"),
		"cannot parse":                          changed("released: ", "released: not"),
		"want one of [low normal high critical": changed("urgency: normal", "urgency: now"),
		"want 1 to 68719476736":                 changed("size: ", "size: -"),
		"want 64 digits":                        changed("sha256: ", "sha256: ab"),
		"field command not found":               changed("version", "command"),
		"has 606 bytes, and not 1":              changed("size: 606", "size: 1"),
		"longer than 16384 bytes":               changed("version", strings.Repeat("#", 20<<10)+"\nversion"),
		"want NAME_REVISION.yaml":               func(s shelf) { s.write("bad_x1.yaml", nil) },
		"want NAME_REVISION.yaml, with":         func(s shelf) { s.write("bad.yaml", nil) },
		"EOF":                                   func(s shelf) { s.write("bad_1.yaml", nil) },
		"invalid name":                          func(s shelf) { s.write("-bad_1.yaml", []byte(describe(other))) },
		"no such file": func(s shelf) {
			s.write("bad_1.yaml", []byte(describe(other)))
		},
		"bad_1.snap is a link": func(s shelf) {
			s.write("bad_1.yaml", []byte(describe(other)))
			s.must(os.Symlink(outside, filepath.Join(s.path, "bad_1.snap")))
		},
		"bad_1.yaml is a link": func(s shelf) {
			s.must(os.Symlink("fine_1.yaml", filepath.Join(s.path, "bad_1.yaml")))
		},
		"bad_1.yaml: it is not a file": func(s shelf) { s.must(os.Mkdir(filepath.Join(s.path, "bad_1.yaml"), 0o700)) },
		"bad_1.snap: it is not a file": func(s shelf) {
			s.write("bad_1.yaml", []byte(describe(other)))
			s.must(syscall.Mkfifo(filepath.Join(s.path, "bad_1.snap"), 0o600))
		},
		"others than root can write to it": func(s shelf) {
			s.write("bad_1.yaml", []byte(describe(other)))
			s.write("bad_1.snap", nil)
			s.must(os.Chmod(filepath.Join(s.path, "bad_1.snap"), 0o602))
		},
		"belongs to uid 1000": func(s shelf) {
			s.write("bad_1.yaml", []byte(describe(other)))
			s.must(os.Chown(filepath.Join(s.path, "bad_1.yaml"), 1000, 1000))
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t)
			s.place().Publish(right, file)
			s.write("README", []byte("a note"))
			spoil(s)
			all, err := dir.Source.All(s.open().(dir.Source), t.Context()) //nolint:forcetypeassert // It is made of one.
			if err != nil {
				t.Fatal(err)
			}
			if len(all.Releases) != 1 || all.Releases[0].Snap != "fine" {
				t.Errorf("releases: %v", all.Releases)
			}
			if len(all.Problems) != 1 || !strings.Contains(all.Problems[0].Error(), want) {
				t.Errorf("problems: %v", all.Problems)
			}
			if err := s.open().Fetch(t.Context(), other, &bytes.Buffer{}); err == nil {
				t.Error("what is wrong is fetched")
			}
		})
	}
}

func (s shelf) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// A directory that others can write to is no source, also if it becomes one later.
func TestADirectoryIsRootsAlone(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	opened := s.open()
	s.must(os.Chmod(s.path, 0o777)) //nolint:gosec // That is what is tried.
	if _, err := dir.Open(s.path); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("open: %v", err)
	}
	if _, err := opened.Releases(t.Context(), "fine"); err == nil {
		t.Error("it is read")
	}
	for _, path := range []string{"", "relative", s.path + "/", s.path + "/..", "/proc/version"} {
		if _, err := dir.Open(path); err == nil {
			t.Errorf("%q is opened", path)
		}
	}
	if _, err := dir.Open(s.path + "/nosuch"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

// FuzzDescription reads anything as what describes a release: it is a release that
// passes every check, or a problem.
func FuzzDescription(f *testing.F) {
	r, file := sourcetest.Of("fine", 1)
	f.Add([]byte(describe(r)))
	f.Add([]byte("channels: &a [*a]\n"))
	f.Add([]byte("released: 2026-01-01\nsize: 1e9\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := newShelf(t)
		s.write("fine_1.snap", file)
		s.write("fine_1.yaml", text)
		listing, err := s.open().Releases(t.Context(), "fine")
		if err != nil || len(listing.Releases)+len(listing.Problems) != 1 {
			t.Fatalf("%+v, %v", listing, err)
		}
		for _, r := range listing.Releases {
			if err := r.Check(); err != nil || r.Size != int64(len(file)) {
				t.Errorf("%+v: %v", r, err)
			}
		}
	})
}
