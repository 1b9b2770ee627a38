package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tenure"
)

func appendAll(t *testing.T, db *DB, events ...Event) uint64 {
	t.Helper()
	last, err := db.Append(events...)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return last
}

// since lists the events after seq as "SEQ kind", and where to go on.
func since(t *testing.T, db *DB, seq uint64, f EventFilter) string {
	t.Helper()
	events, last, err := db.Since(seq, f)
	if err != nil {
		t.Fatalf("Since: %v", err)
	}
	var all []string
	for _, e := range events {
		all = append(all, fmt.Sprintf("%d %s", e.Seq, e.Kind))
	}
	return fmt.Sprintf("%s; %d", strings.Join(all, ", "), last)
}

func TestEvents(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	virtd := tenure.ServiceUnit("virt", "virtd")
	at := time.Date(2024, 2, 29, 1, 2, 3, 4, time.UTC)
	if last := appendAll(t, db, Event{Kind: "a", Snap: "hello"}, Event{Kind: "b", Unit: virtd, Time: at, Data: json.RawMessage(`{"pid":7}`)}); last != 2 {
		t.Errorf("last is %d, want 2", last)
	}
	closeDB(t, db)
	db = openDB(t, path)
	defer closeDB(t, db)
	appendAll(t, db, Event{Kind: "a", Unit: virtd.Workload("vm", 9)})
	for _, test := range []struct {
		seq    uint64
		filter EventFilter
		want   string
	}{
		{0, EventFilter{}, "1 a, 2 b, 3 a; 3"},
		{1, EventFilter{}, "2 b, 3 a; 3"},
		{3, EventFilter{}, "; 3"},
		{99, EventFilter{}, "; 99"},
		{0, EventFilter{Kind: "a"}, "1 a, 3 a; 3"},
		{0, EventFilter{Snap: "virt"}, "2 b, 3 a; 3"},
		{0, EventFilter{Unit: virtd}, "2 b; 3"},
		{0, EventFilter{Kind: "a", Limit: 1}, "1 a; 1"},
	} {
		if got := since(t, db, test.seq, test.filter); got != test.want {
			t.Errorf("Since(%d, %+v) = %q, want %q", test.seq, test.filter, got, test.want)
		}
	}
	events, _, err := db.Since(0, EventFilter{Unit: virtd})
	if err != nil || !events[0].Time.Equal(at) || string(events[0].Data) != `{"pid":7}` || events[0].Snap != "virt" {
		t.Errorf("event %+v, %v", events, err)
	}
}

func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	db, err := Open(Config{Path: filepath.Join(t.TempDir(), "state.db"), MaxEvents: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, db)
	for range 5 {
		appendAll(t, db, Event{Kind: "a"})
	}
	if got := since(t, db, 0, EventFilter{}); got != "3 a, 4 a, 5 a; 5" {
		t.Errorf("kept %q", got)
	}
	appendAll(t, db, Event{Kind: "b"}, Event{Kind: "b"}, Event{Kind: "b"}, Event{Kind: "b"})
	if got := since(t, db, 0, EventFilter{}); got != "7 b, 8 b, 9 b; 9" {
		t.Errorf("kept %q", got)
	}
}

func TestAwait(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	came := make(chan error)
	go func() { came <- db.Await(t.Context(), 1) }()
	appendAll(t, db, Event{Kind: "a"})
	select {
	case err := <-came:
		t.Fatalf("Await returned after the event that was known: %v", err)
	default:
	}
	appendAll(t, db, Event{Kind: "b"})
	if err := <-came; err != nil {
		t.Errorf("Await: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Await(ctx, 2); err == nil {
		t.Error("Await returned without an event")
	}
}
