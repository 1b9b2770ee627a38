package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/change/changetest"
)

// FuzzHistory finds a file of the history as the power, or somebody with a pen, has left it: it is read, what is
// no event is passed over, and what is appended after it is there, whole.
func FuzzHistory(f *testing.F) {
	f.Add([]byte(`{"time":"2024-02-29T01:02:03Z","kind":"ended","snap":"virt","unit":"virt.virtd","data":{"pid":7}}` + "\n"))
	f.Add([]byte(`{"time":"2024-02-29T01:02:03Z","kind":"sig`))
	f.Add([]byte("\n\x00\x00\n{}\n[]\nnull\n\"\"\n{\"time\":\"no\"}\n"))
	f.Add([]byte(`{"kind":"a","snap":"../b","unit":"a/../b~1","data":{"a":{"a":{}}}}` + "\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "00000001"+segmentSuffix), text, 0o600); err != nil {
			t.Fatal(err)
		}
		// Somebody's copy of it is not read.
		if err := os.WriteFile(filepath.Join(dir, "1"+segmentSuffix), text, 0o600); err != nil {
			t.Fatal(err)
		}
		h, err := OpenHistory(HistoryConfig{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close() //nolint:errcheck // What it says is not what is asked here.
		before, err := h.Read(nil)
		if err != nil {
			t.Fatalf("what is no event is not passed over: %v", err)
		}
		if err := h.Append(Event{Kind: "appended", Unit: tenure.ServiceUnit("virt", "virtd")}); err != nil {
			t.Fatal(err)
		}
		after, err := h.Read(nil)
		if err != nil {
			t.Fatal(err)
		}
		// A last line that lacks nothing but its end has one now.
		more := len(after) - len(before)
		if more != 1 && (more != 2 || bytes.HasSuffix(text, []byte{'\n'})) || after[len(after)-1].Kind != "appended" {
			t.Errorf("after %d events there are %d: the last one is not what was appended", len(before), len(after))
		}
		if lines := bytes.Count(text, []byte{'\n'}); len(before) > lines {
			t.Errorf("%d lines have %d events", lines, len(before))
		}
	})
}

// valuePlaces are the buckets in which FuzzValues writes.
func valuePlaces() [][]string {
	return [][]string{{bucketChanges}, {bucketParts, string(number(2))}, {bucketDocuments, "snaps"}, {bucketDocuments, recoveries}}
}

// putValue writes what there is to be under a key; false is that nothing can be there.
func putValue(path string, at []string, key, kept []byte) (bool, error) {
	b, err := bolt.Open(path, fileMode, &bolt.Options{NoSync: true})
	if err != nil {
		return false, err
	}
	refused := b.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte(bucketSealed))
		for _, name := range at {
			bucket = bucket.Bucket([]byte(name))
		}
		return bucket.Put(key, kept)
	})
	return refused == nil, b.Close()
}

// FuzzValues finds a value that a disk has left, or that somebody has written who knows how its checksum is made. The
// first one is no journal, which is put aside; the other is an error, or something that can be kept.
func FuzzValues(f *testing.F) {
	path := filepath.Join(f.TempDir(), "state.db")
	db, err := Open(Config{Path: path, BackupDelay: NoBackups})
	if err != nil {
		f.Fatal(err)
	}
	ended, open := changetest.Full(1), changetest.Full(2)
	ended.Status = change.Done
	err = errors.Join(db.Changes().Apply(f.Context(), change.Batch{Put: []change.Change{ended, open}}),
		NewCollection[map[string]int](db, "snaps").Put("virt", map[string]int{"current": 1}), db.Close())
	content, readErr := os.ReadFile(path)
	for _, c := range []*change.Change{&ended, &open} {
		text, marshalErr := json.Marshal(c)
		err = errors.Join(err, marshalErr)
		f.Add(uint8(0), number(uint64(c.ID)), text, true)
	}
	if err := errors.Join(err, readErr); err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), number(1), []byte(`{"id":"2","tasks":null}`), true)
	f.Add(uint8(0), []byte("1"), []byte(`{}`), true)
	f.Add(uint8(1), []byte(taskKey(1)), []byte(`{"id":"2.1","kind":"stop","params":{},"status":"Wait"}`), true)
	f.Add(uint8(1), []byte("plan"), []byte(`{"a":`), true)
	f.Add(uint8(2), []byte("virt"), []byte(`{"current":"x"}`), true)
	f.Add(uint8(2), []byte("../virt"), []byte(`{"current":1e400}`), true)
	f.Add(uint8(3), []byte(lastRecovery), []byte(`{"found":"2024-02-29T01:02:03Z","pending":true,"notes":[null]}`), true)
	f.Add(uint8(3), []byte(lastRecovery), []byte("\x00\x00\x00\x00{}"), false)
	f.Fuzz(func(t *testing.T, where uint8, key, value []byte, sealed bool) {
		places := valuePlaces()
		names := places[int(where)%len(places)]
		at, kept := placeOf(names...), value
		if sealed {
			kept = at.seal(key, value)
		}
		path := filepath.Join(t.TempDir(), "state.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if there, err := putValue(path, names, key, kept); err != nil || !there {
			return // It has no key, or one that is too long.
		}
		db, err := Open(Config{Path: path, BackupDelay: NoBackups})
		if err != nil {
			t.Fatalf("it is not even put aside: %v", err)
		}
		defer closeDB(t, db)
		recovery, err := db.LastRecovery()
		if _, sound := at.unseal(key, kept); sound != nil && (err != nil || recovery == nil || recovery.Damaged == "") {
			t.Errorf("a value without its checksum is one: %+v, %v", recovery, err)
		}
		docs := NewCollection[map[string]int](db, "snaps")
		if doc, found, err := docs.Get("virt"); found && err != nil {
			t.Errorf("%v is there, and cannot be read: %v", doc, err)
		}
		_, _ = docs.All() // It tells of each that cannot be read.
		keptAsItIs(t, db)
	})
}

// keptAsItIs has the changes that can be read written and read again.
func keptAsItIs(t *testing.T, db *DB) {
	t.Helper()
	var before []change.Change
	for round := range 3 {
		saved, err := db.Changes().Load(t.Context())
		if err != nil {
			if round > 0 {
				t.Errorf("what was written cannot be read: %v", err)
			}
			return
		}
		if diff := cmp.Diff(before, saved.Changes); round == 2 && diff != "" {
			t.Errorf("what was written is another (-want +got):\n%s", diff)
		}
		if before = saved.Changes; len(before) == 0 {
			return
		}
		if err := db.Changes().Apply(t.Context(), change.Batch{Put: before}); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	}
}
