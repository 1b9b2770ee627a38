package journal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

// A copy that is kept while a newer program tries the journal can be put back until that has written
// anything, and is gone then.
func TestKeptJournal(t *testing.T) {
	t.Parallel()
	newer := append(migrations(), func(*bolt.Tx) error { return nil })
	for name, c := range map[string]struct {
		trial, writes, kept bool
	}{
		"a rehearsal":                  {trial: true, kept: true},
		"a rehearsal that writes":      {trial: true, writes: true, kept: true},
		"a start that writes nothing":  {kept: true},
		"a start that writes anything": {writes: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Path: filepath.Join(t.TempDir(), "state.db"), Trial: c.trial}
			settings := func(db *DB) *Collection[string] { return NewCollection[string](db, Settings) }
			old := must(Open(cfg))(t)
			if err := errors.Join(settings(old).Put("from", "old"), old.Keep(), old.Close()); err != nil {
				t.Fatal(err)
			}
			next := must(open(cfg, newer))(t)
			var err error
			if c.writes {
				err = settings(next).Put("from", "new")
			}
			if err := errors.Join(err, next.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(cfg); !errors.Is(err, ErrNewer) {
				t.Fatalf("the old program opens what the new one has migrated: %v", err)
			}
			if got := Kept(cfg.Path); got != c.kept {
				t.Fatalf("the copy is there: %t, want %t", got, c.kept)
			}
			if err := Restore(cfg.Path); (err == nil) != c.kept {
				t.Fatalf("restore: %v", err)
			}
			if !c.kept {
				return
			}
			db := must(Open(cfg))(t)
			defer db.Close() //nolint:errcheck // Only read.
			if from, _, err := settings(db).Get("from"); err != nil || from != "old" {
				t.Errorf("what was restored says %q, %v", from, err)
			}
		})
	}
}

// must is a value without an error.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// The directory of a journal may have any name.
func TestAnyDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), `root [1`)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Path: filepath.Join(dir, "state.db")}
	for range 2 {
		db := must(Open(cfg))(t)
		if err := errors.Join(db.Keep(), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// gate looks at what is kept when it is locked, and when it is given back.
type gate struct {
	path string
	kept []bool
}

func (g *gate) Lock()   { g.kept = append(g.kept, Kept(g.path)) }
func (g *gate) Unlock() { g.kept = append(g.kept, Kept(g.path)) }

// Whoever has the gate keeps the copy from going, and the first write from beginning.
func TestGate(t *testing.T) {
	t.Parallel()
	cfg := Config{Path: filepath.Join(t.TempDir(), "state.db")}
	old := must(Open(cfg))(t)
	if err := errors.Join(old.Keep(), old.Close()); err != nil {
		t.Fatal(err)
	}
	g := &gate{path: cfg.Path}
	cfg.Gate = g
	next := must(Open(cfg))(t)
	settings := NewCollection[string](next, Settings)
	if err := errors.Join(settings.Put("a", "1"), settings.Put("b", "2"), next.Close()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]bool{true, false}, g.kept); diff != "" {
		t.Errorf("the copy at the gate (-want +got):\n%s", diff)
	}
}

// A copy that cannot be removed keeps nobody from writing but for as long as that is so.
func TestDiscardIsTriedAgain(t *testing.T) {
	t.Parallel()
	cfg := Config{Path: filepath.Join(t.TempDir(), "state.db")}
	inTheWay := filepath.Join(keptPath(cfg.Path), "in the way")
	db := must(Open(cfg))(t)
	defer closeDB(t, db)
	if err := os.MkdirAll(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	settings := NewCollection[string](db, Settings)
	if err := settings.Put("a", "1"); err == nil {
		t.Error("something is written while the copy is there")
	}
	if err := errors.Join(os.Remove(inTheWay), settings.Put("a", "1"), settings.Put("b", "2")); err != nil {
		t.Errorf("write when the copy can be removed: %v", err)
	}
	if Kept(cfg.Path) {
		t.Error("the copy is there still")
	}
}
