// Package changetest has the law of change.Store, and the Store in memory that
// tests of the engine use.
//
// Always true: what passes Run can stand under change.Engine.
package changetest

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/change"
)

// Run checks a Store. The factory makes an empty one, and returns a function
// that opens it: the first time, and again as after the end of the process.
func Run(t *testing.T, factory func(t *testing.T) (open func() change.Store)) {
	t.Helper()
	for name, law := range map[string]func(*testing.T, func() change.Store){
		"empty":        lawEmpty,
		"round trip":   lawRoundTrip,
		"replace":      lawReplace,
		"order":        lawOrder,
		"last ID":      lawLastID,
		"batch":        lawBatch,
		"not aliased":  lawNotAliased,
		"nothing":      lawNothing,
		"delete other": lawDeleteOther,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			law(t, factory(t))
		})
	}
}

func lawEmpty(t *testing.T, open func() change.Store) {
	t.Helper()
	want(t, open(), change.Saved{})
}

func lawRoundTrip(t *testing.T, open func() change.Store) {
	t.Helper()
	c := Full(7)
	apply(t, open(), change.Batch{Put: []change.Change{c}})
	want(t, open(), change.Saved{Changes: []change.Change{c}, LastID: 7})
}

func lawReplace(t *testing.T, open func() change.Store) {
	t.Helper()
	store := open()
	apply(t, store, change.Batch{Put: []change.Change{Full(3)}})
	c := change.Change{ID: 3, Kind: "other", Tasks: []change.Task{}}
	apply(t, store, change.Batch{Put: []change.Change{c}})
	want(t, store, change.Saved{Changes: []change.Change{c}, LastID: 3})
	want(t, open(), change.Saved{Changes: []change.Change{c}, LastID: 3})
}

// lawOrder has IDs whose order differs as numbers, as text and as bytes.
func lawOrder(t *testing.T, open func() change.Store) {
	t.Helper()
	store := open()
	ids := []change.ID{300, 9, 1 << 40, 70000, 10, 255, 256}
	for _, id := range ids {
		apply(t, store, change.Batch{Put: []change.Change{Full(id)}})
	}
	slices.Sort(ids)
	saved := load(t, open())
	var got []change.ID
	for i := range saved.Changes {
		got = append(got, saved.Changes[i].ID)
	}
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Errorf("order of loaded changes (-want +got):\n%s", diff)
	}
}

func lawLastID(t *testing.T, open func() change.Store) {
	t.Helper()
	store := open()
	apply(t, store, change.Batch{Put: []change.Change{Full(41), Full(40)}})
	apply(t, store, change.Batch{Delete: []change.ID{41}})
	store = open()
	want(t, store, change.Saved{Changes: []change.Change{Full(40)}, LastID: 41})
	apply(t, store, change.Batch{Put: []change.Change{Full(40)}})
	want(t, open(), change.Saved{Changes: []change.Change{Full(40)}, LastID: 41})
}

func lawBatch(t *testing.T, open func() change.Store) {
	t.Helper()
	store := open()
	apply(t, store, change.Batch{Put: []change.Change{Full(1), Full(2)}})
	apply(t, store, change.Batch{Put: []change.Change{Full(3), Full(4)}, Delete: []change.ID{1, 2}})
	want(t, open(), change.Saved{Changes: []change.Change{Full(3), Full(4)}, LastID: 4})
}

func lawNotAliased(t *testing.T, open func() change.Store) {
	t.Helper()
	store := open()
	c := Full(1)
	apply(t, store, change.Batch{Put: []change.Change{c}})
	c.Tasks[0].Summary, c.Plan[0] = "modified", ' '
	load(t, store).Changes[0].Tasks[0].Status = change.Error
	want(t, store, change.Saved{Changes: []change.Change{Full(1)}, LastID: 1})
}

func lawNothing(t *testing.T, open func() change.Store) {
	t.Helper()
	apply(t, open(), change.Batch{})
	want(t, open(), change.Saved{})
}

func lawDeleteOther(t *testing.T, open func() change.Store) {
	t.Helper()
	store := open()
	apply(t, store, change.Batch{Put: []change.Change{Full(1)}})
	apply(t, store, change.Batch{Delete: []change.ID{2, 3}})
	want(t, store, change.Saved{Changes: []change.Change{Full(1)}, LastID: 1})
}

// Full is a change with something in every field that is stored.
func Full(id change.ID) change.Change {
	at := time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.UTC)
	return change.Change{
		ID: id, Kind: "refresh-snap", Summary: `Refresh "virt" to ẍ`, Status: change.Wait,
		Snaps: []tenure.Instance{"virt", "virt_dev"},
		Tasks: []change.Task{{
			ID: "1.1", Kind: "stop", Summary: "Stop virt.virtd", Status: change.Doing, Gap: true,
			Params: json.RawMessage(`{"unit":"virt.virtd"}`), Undo: json.RawMessage(`[1,2]`),
			Progress: change.Progress{Label: "copy", Done: 1 << 60, Total: 1<<60 + 1},
			Log:      []string{"one", "two"}, Spawned: at, Started: at.Add(1), Ready: at.Add(2),
			Err: "boom", Begun: true,
		}},
		Plan: json.RawMessage(`{"a":1}`), Details: json.RawMessage(`{"b":[]}`),
		WaitingFor: &change.Waiting{For: "people", Hold: true},
		Spawned:    at, Ready: at.Add(3), Err: "boom",
		Holds: true, Backward: true, Serial: 9,
	}
}

func apply(t *testing.T, store change.Store, b change.Batch) {
	t.Helper()
	if err := store.Apply(t.Context(), b); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func load(t *testing.T, store change.Store) change.Saved {
	t.Helper()
	saved, err := store.Load(t.Context())
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return saved
}

func want(t *testing.T, store change.Store, saved change.Saved) {
	t.Helper()
	if diff := cmp.Diff(saved, load(t, store)); diff != "" {
		t.Errorf("loaded (-want +got):\n%s", diff)
	}
}
