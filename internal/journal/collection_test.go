package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/change"
)

type doc struct {
	Name string          `json:"name"`
	Rev  tenure.Revision `json:"rev"`
}

func put[T any](t *testing.T, c *Collection[T], key string, doc T) {
	t.Helper()
	if err := c.Put(key, doc); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

func wantAll[T any](t *testing.T, c *Collection[T], want map[string]T) {
	t.Helper()
	got, err := c.All()
	if err != nil {
		t.Fatalf("All: %v", err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(tenure.Revision{})); diff != "" {
		t.Errorf("documents (-want +got):\n%s", diff)
	}
}

func TestCollection(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	snaps := NewCollection[doc](db, Snaps)
	wantAll(t, snaps, map[string]doc{})
	if _, found, err := snaps.Get("virt"); found || err != nil {
		t.Errorf("Get of nothing: %v, %v", found, err)
	}
	if err := snaps.Delete("virt"); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
	virt, qemu := doc{"virt", tenure.LocalRevision(1)}, doc{"qemu", tenure.SourceRevision(7)}
	put(t, snaps, "virt", doc{Name: "before"})
	put(t, snaps, "virt", virt)
	put(t, snaps, "qemu", qemu)
	put(t, snaps, "gone", doc{})
	put(t, NewCollection[doc](db, "other"), "virt", doc{Name: "other"})
	if err := snaps.Delete("gone"); err != nil {
		t.Errorf("Delete: %v", err)
	}
	closeDB(t, db)
	db = openDB(t, path)
	defer closeDB(t, db)
	snaps = NewCollection[doc](db, Snaps)
	wantAll(t, snaps, map[string]doc{"virt": virt, "qemu": qemu})
	if got, found, err := snaps.Get("virt"); got != virt || !found || err != nil {
		t.Errorf("Get: %v, %v, %v", got, found, err)
	}
	if keys, err := snaps.Keys(); fmt.Sprint(keys, err) != "[qemu virt] <nil>" {
		t.Errorf("Keys: %v, %v", keys, err)
	}
	if err := snaps.Put("", virt); err == nil {
		t.Error("a document without a key is accepted")
	}
}

func TestUpdateIsAtomic(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	snaps, pins := NewCollection[string](db, Snaps), NewCollection[[]string](db, Pins)
	boom := errors.New("boom")
	write := func(tx *Tx) error {
		return errors.Join(snaps.In(tx).Put("a", "one"), pins.In(tx).Put("a", []string{"x1"}))
	}
	err := db.Update(func(tx *Tx) error { return errors.Join(write(tx), boom) })
	if !errors.Is(err, boom) {
		t.Errorf("Update: %v", err)
	}
	wantAll(t, snaps, map[string]string{})
	wantAll(t, pins, map[string][]string{})
	if err := db.Update(write); err != nil {
		t.Errorf("Update: %v", err)
	}
	wantAll(t, snaps, map[string]string{"a": "one"})
	wantAll(t, pins, map[string][]string{"a": {"x1"}})
	if err := db.View(write); err == nil {
		t.Error("View writes")
	}
}

func TestUnreadableDocument(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	put(t, NewCollection[any](db, Snaps), "bad", any(7))
	put(t, NewCollection[any](db, Snaps), "good", any(doc{Name: "good"}))
	snaps := NewCollection[doc](db, Snaps)
	docs, err := snaps.All()
	if err == nil || !strings.Contains(err.Error(), `read snaps "bad"`) || docs["good"].Name != "good" {
		t.Errorf("All: %v, %v", docs, err)
	}
	if _, found, err := snaps.Get("bad"); found || err == nil {
		t.Errorf("Get: %v, %v", found, err)
	}
	if raw, found, err := NewCollection[json.RawMessage](db, Snaps).Get("bad"); string(raw) != "7" || !found || err != nil {
		t.Errorf("Get of raw JSON: %s, %v, %v", raw, found, err)
	}
	if err := NewCollection[any](db, Snaps).Put("x", make(chan int)); err == nil {
		t.Error("Put of what is no JSON")
	}
}

// TestAlong writes what a step wants kept with what it did: with the change, or not at all.
func TestAlong(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	snaps := NewCollection[doc](db, Snaps)
	keep := func(name string) along {
		return func(tx *Tx) error { return snaps.In(tx).Put(name, doc{Name: name}) }
	}
	one := change.Change{ID: 1, Status: change.Doing, Tasks: []change.Task{}}
	if err := db.Changes().Apply(t.Context(), change.Batch{Put: []change.Change{one}, Along: []any{keep("virt"), keep("qemu")}}); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	refused := errors.New("refused")
	two := change.Change{ID: 2, Status: change.Doing, Tasks: []change.Task{}}
	for _, wrong := range []any{along(func(*Tx) error { return refused }), "a word"} {
		if err := db.Changes().Apply(t.Context(), change.Batch{Put: []change.Change{two}, Along: []any{keep("gone"), wrong}}); err == nil {
			t.Errorf("it was kept, with %T", wrong)
		}
	}
	// Where no step runs it is written at once.
	if err := db.Along(t.Context(), keep("alone")); err != nil {
		t.Errorf("Along: %v", err)
	}
	closeDB(t, db)
	db = openDB(t, path)
	wantAll(t, NewCollection[doc](db, Snaps), map[string]doc{"virt": {Name: "virt"}, "qemu": {Name: "qemu"}, "alone": {Name: "alone"}})
	saved, err := db.Changes().Load(t.Context())
	if err != nil || len(saved.Changes) != 1 || saved.Changes[0].ID != 1 {
		t.Errorf("changes %+v, %v, want the first alone", saved.Changes, err)
	}
}
