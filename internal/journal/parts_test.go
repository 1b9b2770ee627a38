package journal

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"tenure/internal/change"
	"tenure/internal/change/changetest"
)

// TestParts holds a change that is written in parts against what it is as a whole, whatever
// becomes of its tasks.
func TestParts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // It is to be the same each time.
	c := changetest.Full(5)
	c.Tasks, c.Plan = nil, nil
	for range 12 {
		db := openDB(t, path)
		store := db.Changes()
		for range 12 {
			alter(random, &c)
			if err := store.Apply(t.Context(), change.Batch{Put: []change.Change{{ID: 4, Status: change.Do, Tasks: []change.Task{}}, copied(&c)}}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(copied(&c), loaded(t, store, 5)); diff != "" {
				t.Fatalf("what is kept (-want +got):\n%s", diff)
			}
		}
		closeDB(t, db)
	}
}

// alter is what the engine does to a change.
func alter(random *rand.Rand, c *change.Change) {
	fresh := func(n int) []change.Task {
		tasks := make([]change.Task, 0, n)
		for range n {
			c.Serial++
			tasks = append(tasks, change.Task{
				ID: fmt.Sprintf("5.%d", c.Serial), Kind: "copy", Status: change.Do, Params: json.RawMessage(fmt.Sprintf(`{"n":%d}`, c.Serial)),
			})
		}
		return tasks
	}
	at := 0
	if len(c.Tasks) > 0 {
		at = random.IntN(len(c.Tasks))
		done := &c.Tasks[at]
		done.Status, done.Undo, done.Log = change.Done, json.RawMessage(fmt.Sprint(random.IntN(3))), append(done.Log, fmt.Sprint("line ", random.IntN(9)))
	}
	switch random.IntN(4) {
	case 0:
		c.Tasks = append(slices.Clip(c.Tasks[:at]), fresh(random.IntN(5))...)
	case 1:
		c.Tasks = slices.Insert(slices.Clone(c.Tasks), at, fresh(random.IntN(40))...)
	case 2:
		c.Plan = json.RawMessage(fmt.Sprintf(`{"a":%d}`, random.IntN(3)))
	case 3:
		c.Plan, c.Details = nil, json.RawMessage(fmt.Sprintf(`[%d]`, random.IntN(3)))
	}
}

// copied is c as the engine gives it to be written.
func copied(c *change.Change) change.Change {
	one := *c
	one.Tasks = append([]change.Task{}, c.Tasks...)
	return one
}

func loaded(t *testing.T, store change.Store, id change.ID) change.Change {
	t.Helper()
	saved, err := store.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(saved.Changes, func(c change.Change) bool { return c.ID == id })
	if at < 0 {
		t.Fatalf("change %s is not kept", id)
	}
	return saved.Changes[at]
}

// TestOneTaskIsWritten: what is written of a change does not grow with it.
func TestOneTaskIsWritten(t *testing.T) {
	t.Parallel()
	c := changetest.Full(1)
	task := c.Tasks[0]
	c.Tasks = nil
	for n := range 1000 {
		task.ID = fmt.Sprint("1.", n)
		c.Tasks = append(c.Tasks, task)
	}
	first, err := newUpdate(&c, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Tasks[500].Status = change.Undone
	for name, step := range map[string]func(){
		"goes on":     func() {},
		"brings more": func() { c.Tasks = slices.Insert(c.Tasks, 501, change.Task{ID: "1.x", Params: json.RawMessage("{}")}) },
	} {
		step()
		next, err := newUpdate(&c, first.next)
		if err != nil {
			t.Fatal(err)
		}
		if next.anew || len(next.put) > 2 || len(next.drop) > 0 || next.head != nil {
			t.Errorf("a task that %s writes %d parts and drops %d, anew: %t", name, len(next.put), len(next.drop), next.anew)
		}
	}
}

// TestNoRoomBetweenTasks: however often tasks come behind the same one, they are in order.
func TestNoRoomBetweenTasks(t *testing.T) {
	t.Parallel()
	store := newDB(t).Changes()
	c := change.Change{ID: 1, Status: change.Doing, Plan: json.RawMessage("1"), Tasks: []change.Task{{ID: "1.1", Params: json.RawMessage("{}")}, {ID: "1.2", Params: json.RawMessage("{}")}}}
	for n := range 50 {
		c.Tasks = slices.Insert(slices.Clone(c.Tasks), 1, change.Task{ID: fmt.Sprint("1.1", n), Params: json.RawMessage("{}")})
		if err := store.Apply(t.Context(), change.Batch{Put: []change.Change{c}}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(c, loaded(t, store, 1)); diff != "" {
		t.Errorf("what is kept (-want +got):\n%s", diff)
	}
}

// TestVersion2 reads, and goes on with, a change as version 2 has written it: whole.
func TestVersion2(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	c := changetest.Full(7)
	raw, err := json.Marshal(&c)
	if err != nil {
		t.Fatal(err)
	}
	file, err := bolt.Open(path, fileMode, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = file.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucket([]byte(bucketMeta))
		return errors.Join(err, toVersion1(tx), toVersion2(tx), meta.Put([]byte(keyVersion), number(2)), tx.Bucket([]byte(bucketChanges)).Put(number(7), raw))
	})
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	db := openDB(t, path)
	if diff := cmp.Diff(c, loaded(t, db.Changes(), 7)); diff != "" {
		t.Errorf("as it was (-want +got):\n%s", diff)
	}
	c.Tasks[0].Err = "another"
	if err := db.Changes().Apply(t.Context(), change.Batch{Put: []change.Change{c}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, loaded(t, db.Changes(), 7)); diff != "" {
		t.Errorf("as it has gone on (-want +got):\n%s", diff)
	}
	closeDB(t, db)
}

// TestVersion3 reads a file as the release that wrote version 3 has left it, whose values had no checksums, and goes on with it.
func TestVersion3(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	packed, err := os.Open("testdata/version3.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close() //nolint:errcheck // Opened for reading.
	content, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(file, content)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	ended, open := changetest.Full(7), changetest.Full(8)
	open.Status, open.Details = change.Doing, json.RawMessage(`{"a":1}`)
	for range 2 {
		db := openDB(t, path)
		if r, err := db.LastRecovery(); r != nil || err != nil {
			t.Fatalf("it was replaced: %+v, %v", r, err)
		}
		if saved, err := db.Changes().Load(t.Context()); err != nil || saved.LastID != 8 {
			t.Errorf("the last change is %s, %v", saved.LastID, err)
		}
		for _, want := range []change.Change{ended, open} {
			if diff := cmp.Diff(want, loaded(t, db.Changes(), want.ID)); diff != "" {
				t.Errorf("change %s (-want +got):\n%s", want.ID, diff)
			}
		}
		if got, _, err := NewCollection[string](db, "test").Get("a"); got != "one" || err != nil {
			t.Errorf("document %q, %v", got, err)
		}
		put(t, NewCollection[string](db, "test"), "b", "two")
		closeDB(t, db)
	}
	// Who goes back finds it as it was, also after several backups.
	kept := filepath.Join(filepath.Dir(path), "state.db.bak.schema3")
	before, err := bolt.Open(kept, fileMode, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	err = before.View(func(tx *bolt.Tx) error {
		version, err := readVersion(tx)
		if own := tx.Bucket([]byte(bucketDocuments)).Bucket([]byte("test")); version != 3 || string(own.Get([]byte("a"))) != `"one"` || own.Get([]byte("b")) != nil {
			t.Errorf("version %d, %q", version, own.Get([]byte("a")))
		}
		return err
	})
	if err := errors.Join(err, before.Close()); err != nil {
		t.Error(err)
	}
}

// TestOlderReleasesFindNothingDamaged: those before version 4 take what is in these buckets for damaged if it is not JSON, before
// they look at the version and refuse the file.
func TestOlderReleasesFindNothingDamaged(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	put(t, NewCollection[string](db, "test"), "a", "one")
	err := db.view(func(tx *bolt.Tx) error {
		for _, name := range sealedBuckets() {
			if tx.Bucket([]byte(name)) != nil {
				t.Errorf("bucket %s is where they look", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
