package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"tenure/internal/change"
	"tenure/internal/change/changetest"
)

const filledChanges = 100

// filled is a closed journal of some 100 KiB, with a backup.
func filled(t *testing.T) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	var b change.Batch
	for id := range change.ID(filledChanges) {
		b.Put = append(b.Put, changetest.Full(id+1))
	}
	if err := db.Changes().Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	settle(t, db)
	closeDB(t, db)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, content
}

// settle forgets how a journal came to be, as its user does.
func settle(t *testing.T, db *DB) {
	t.Helper()
	if err := db.Update(func(tx *Tx) error { return tx.PutRecovery(nil) }); err != nil {
		t.Fatal(err)
	}
}

// recovered opens a journal that was damaged, and has what was done about it.
func recovered(t *testing.T, path string) (*Recovery, []change.Change) {
	t.Helper()
	db := openDB(t, path)
	defer closeDB(t, db)
	r, err := db.LastRecovery()
	if err != nil {
		t.Fatal(err)
	}
	saved, err := db.Changes().Load(t.Context())
	if err != nil {
		t.Error(err)
	}
	return r, saved.Changes
}

// anew removes what other cases have left beside a journal, but for its backup.
func anew(t *testing.T, path string, content []byte) {
	t.Helper()
	left, err := filepath.Glob(path + ".*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range left {
		if name != path+".bak" {
			err = errors.Join(err, os.Remove(name))
		}
	}
	if err := errors.Join(err, os.WriteFile(path, content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// TestDamaged has a journal replaced by its backup, and kept, whatever has become of it.
func TestDamaged(t *testing.T) {
	t.Parallel()
	path, content := filled(t)
	zeroed := func(from, to int) []byte {
		damaged := bytes.Clone(content)
		clear(damaged[from:min(to, len(damaged))])
		return damaged
	}
	for name, damaged := range map[string][]byte{
		"text":        []byte("this is no journal"),
		"garbage":     bytes.Repeat([]byte{0xa5}, len(content)),
		"zeros":       zeroed(0, len(content)),
		"no metas":    zeroed(0, 8192),
		"only metas":  content[:8192],
		"half":        content[:len(content)/2/4096*4096],
		"middle page": zeroed(3*4096, len(content)),
		"empty":       nil,
	} {
		anew(t, path, damaged)
		r, changes := recovered(t, path)
		if r == nil || !r.Pending || r.New || r.Cause == "" || r.Backup != path+".bak" || len(changes) != filledChanges {
			t.Errorf("%s: %d changes, recovery %+v", name, len(changes), r)
			continue
		}
		if name == "empty" {
			continue
		}
		if kept, err := os.ReadFile(r.Damaged); err != nil || !bytes.Equal(kept, damaged) {
			t.Errorf("%s: what was damaged is not kept at %q: %v", name, r.Damaged, err)
		}
	}
}

// TestDamagedAnywhere damages every page in turn: that is found out and the backup taken, or
// everything is as it was. The first two pages are the two heads, written in turn: a damaged
// one is one whose transaction was cut off, and the file is as it was before that.
func TestDamagedAnywhere(t *testing.T) {
	t.Parallel()
	path, content := filled(t)
	replaced := 0
	for at := 0; at < len(content); at += 4096 {
		damaged := bytes.Clone(content)
		for i := range 64 {
			damaged[at+i] ^= 0xff
		}
		anew(t, path, damaged)
		r, changes := recovered(t, path)
		if r != nil && r.Damaged != "" {
			replaced++
		}
		if len(changes) != filledChanges && at >= 2*4096 {
			t.Errorf("page %d: %d changes are there", at/4096, len(changes))
		}
	}
	if replaced == 0 {
		t.Error("no damage was found")
	}
}

// TestTurnedBits turns single bits of what is written, and of its keys: JSON that still is some, and says something else, is
// not taken for what was written.
func TestTurnedBits(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	settle(t, db)
	put(t, NewCollection[string](db, "a collection"), "the key", "the value")
	open := changetest.Full(1)
	open.Status, open.Details = change.Doing, json.RawMessage(`{"detail":"the detail"}`)
	if err := db.Changes().Apply(t.Context(), change.Batch{Put: []change.Change{open}}); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"the key", "the value", "the detail", "Refresh", "a collection", "documents", "changes", "parts", "sealed"} {
		damaged, found := bytes.Clone(content), 0
		for at := range content {
			// Pages that are free now have it, too.
			if bytes.HasPrefix(content[at:], []byte(text)) {
				damaged[at] ^= 1
				found++
			}
		}
		anew(t, path, damaged)
		db := openDB(t, path)
		r, err := db.LastRecovery()
		got, _, errOfDoc := NewCollection[string](db, "a collection").Get("the key")
		if err := errors.Join(err, errOfDoc); err != nil || found == 0 || r == nil || r.Backup != path+".bak" || got != "the value" {
			t.Errorf("with another %q, at %d places: %q, recovery %+v, %v", text, found, got, r, err)
		}
		closeDB(t, db)
	}
}

// TestLost removes the journal, its newest backup, and all of them.
func TestLost(t *testing.T) {
	t.Parallel()
	path, _ := filled(t)
	if err := os.Rename(path+".bak", path+".bak.1"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		without []string
		backup  string
		changes int
	}{
		{[]string{".damaged-*"}, path + ".bak.1", filledChanges},
		{[]string{""}, path + ".bak", filledChanges},
		{[]string{"", ".bak", ".bak.1"}, "", 0},
	} {
		for _, suffix := range c.without {
			if suffix == ".damaged-*" {
				if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := os.Remove(path + suffix); err != nil {
				t.Fatal(err)
			}
		}
		r, changes := recovered(t, path)
		if r == nil || r.Backup != c.backup || r.New != (c.backup == "") || len(changes) != c.changes {
			t.Errorf("without %q: %d changes, recovery %+v", c.without, len(changes), r)
		}
	}
}

// TestDamagedBackup has no backup that can be read, and one older.
func TestDamagedBackup(t *testing.T) {
	t.Parallel()
	path, _ := filled(t)
	if err := errors.Join(os.Rename(path+".bak", path+".bak.1"),
		os.WriteFile(path+".bak", []byte("text"), 0o600), os.WriteFile(path, []byte("text"), 0o600)); err != nil {
		t.Fatal(err)
	}
	r, changes := recovered(t, path)
	if r == nil || r.Backup != path+".bak.1" || len(changes) != filledChanges {
		t.Errorf("%d changes, recovery %+v", len(changes), r)
	}
	// The one that nobody could read is kept, whatever it may have been, and does not take the place of the good one.
	kept, err := filepath.Glob(path + ".bak.damaged-*")
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept are %v, %v", kept, err)
	}
	if text, err := os.ReadFile(kept[0]); err != nil || string(text) != "text" {
		t.Errorf("kept is %q, %v", text, err)
	}
	if !whole(path+".bak") || !whole(path+".bak.1") {
		t.Error("a backup cannot be read")
	}
	if err := errors.Join(os.WriteFile(path+".bak", []byte("text"), 0o600), os.Remove(path+".bak.1"), os.WriteFile(path, []byte("text"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if r, changes = recovered(t, path); r == nil || r.New || r.Backup != "" || r.Damaged == "" || len(changes) != 0 {
		t.Errorf("without a backup: %d changes, recovery %+v", len(changes), r)
	}
}

// TestClock has a backup made of what none has, and the old one renewed, also after a time in which the clock was ahead.
func TestClock(t *testing.T) {
	t.Parallel()
	path, _ := filled(t)
	ahead := time.Now().Add(10 * 365 * 24 * time.Hour)
	if err := errors.Join(copyFile(path+".bak", path+".bak.1"), os.Chtimes(path+".bak", ahead, ahead), os.Chtimes(path+".bak.1", ahead, ahead)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // The first one takes the place of what was ahead, the second has it for the old one's.
		db := openDB(t, path)
		settle(t, db)
		closeDB(t, db)
	}
	for _, suffix := range []string{"", ".bak", ".bak.1"} {
		info, err := os.Stat(path + suffix)
		if err != nil || info.ModTime().After(time.Now()) {
			t.Errorf("%s is of %v, %v", path+suffix, info.ModTime(), err)
		}
	}
}

// TestOldBackup has the old backup replaced by one that can be read alone.
func TestOldBackup(t *testing.T) {
	t.Parallel()
	path, _ := filled(t)
	if err := os.WriteFile(path+".bak.1", []byte("good"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * oldBackupAge)
	for _, good := range []bool{false, true} {
		if err := os.Chtimes(path+".bak.1", long, long); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path + ".bak")
		if err != nil {
			t.Fatal(err)
		}
		if !good {
			if err := os.WriteFile(path+".bak", []byte("text"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := keepOld(path+".bak", path+".bak.1"); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path + ".bak.1")
		if err != nil || bytes.Equal(text, content) != good || (string(text) == "good") == good {
			t.Errorf("the newest can be read: %t; then the old one has %d bytes, %v", good, len(text), err)
		}
		if err := os.WriteFile(path+".bak", content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTotalsOfAnotherForm refuses what a newer program has written that counts otherwise, and changes nothing.
func TestTotalsOfAnotherForm(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db := must(open(Config{Path: path}, append(migrations(), func(*bolt.Tx) error { return nil })))(t)
	closeDB(t, db)
	b := must(bolt.Open(path, 0o600, nil))(t)
	err := b.Update(func(tx *bolt.Tx) error {
		at, meta := placeOf(bucketMeta), tx.Bucket([]byte(bucketMeta))
		value := binary.BigEndian.AppendUint64(make([]byte, 40), uint64(tx.ID())) //nolint:gosec // It counts up.
		return errors.Join(meta.Put([]byte(keyTotals), at.seal([]byte(keyTotals), value)), sealed(tx, bucketDocuments).SetSequence(7))
	})
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	content := must(os.ReadFile(path))(t)
	if _, err := Open(Config{Path: path}); !errors.Is(err, ErrNewer) {
		t.Errorf("error %v, want ErrNewer", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, content) {
		t.Errorf("it was modified: %v", err)
	}
}

// TestHealed has a journal whole again when a value in which a bit has turned was written anew, or is gone.
func TestHealed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	docs := NewCollection[string](db, "test")
	for _, heal := range []func(tx *Tx) error{
		func(tx *Tx) error { return docs.In(tx).Put("a", "two") },
		func(tx *Tx) error { return docs.In(tx).Delete("a") },
	} {
		put(t, docs, "a", "one")
		err := db.Update(func(tx *Tx) error {
			b := sealed(tx.bolt, bucketDocuments).Bucket([]byte("test"))
			turned := bytes.Clone(b.Get([]byte("a")))
			turned[0] ^= 1
			return b.Put([]byte("a"), turned)
		})
		if err := errors.Join(err, db.Update(heal)); err != nil {
			t.Fatal(err)
		}
		if err := db.view(check); err != nil {
			t.Error(err)
		}
	}
	closeDB(t, db)
}

// TestBackup has what was written in a backup soon after, but not in a gap, and says how much a
// journal has lost that was replaced by it.
func TestBackup(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := Open(Config{Path: path, BackupDelay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	settle(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	docs := NewCollection[string](db, "test")
	db.Gap(true)
	put(t, docs, "a", "one")
	short, over := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer over()
	if db.pause(short) {
		t.Error("a backup would be made in a gap")
	}
	go func() { ended <- db.Run(ctx) }()
	db.Gap(false)
	for db.behind() {
		<-time.After(time.Millisecond) // Nobody tells.
	}
	// The reserve was made, and is not in it.
	file, backup := sizeOf(t, path), sizeOf(t, path+".bak")
	if file < reservePages*pageSize || backup > 100<<10 {
		t.Errorf("the journal has %d bytes, its backup %d", file, backup)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	for _, lost := range []bool{false, true} {
		content[0], content[4096], content[17], content[4096+17] = 1, 1, 1, 1
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path + ".bak")
		if err != nil {
			t.Fatal(err)
		}
		written := info.ModTime()
		if lost {
			written = written.Add(time.Second)
		}
		if err := os.Chtimes(path, written, written); err != nil {
			t.Fatal(err)
		}
		damagedDB := openDB(t, path)
		r, err := damagedDB.LastRecovery()
		got, _, errOfDoc := NewCollection[string](damagedDB, "test").Get("a")
		if err := errors.Join(err, errOfDoc); err != nil || got != "one" || r == nil || r.Whole() == lost {
			t.Errorf("written later: %v: %q, %+v, %v", lost, got, r, err)
		}
		closeDB(t, damagedDB)
	}
}

// TestBackupIsTriedAgain has what was written in a backup when the disk lets it, also if nothing more is written.
func TestBackupIsTriedAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := Open(Config{Path: path, BackupDelay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, db)
	inTheWay := filepath.Join(path+".bak", "in the way")
	if err := os.MkdirAll(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, NewCollection[string](db, "test"), "a", "one")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- db.Run(ctx) }()
	failed := func() bool {
		_, err := db.NoBackup()
		return err != nil
	}
	for !failed() {
		<-time.After(time.Millisecond) // Nobody tells.
	}
	if err := os.RemoveAll(path + ".bak"); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(time.Minute); failed() || db.behind(); <-time.After(time.Millisecond) {
		if time.Now().After(until) {
			t.Error("no backup is made when there can be one")
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestNewerIsNoDamage refuses a file of another version of bbolt, and changes nothing.
func TestNewerIsNoDamage(t *testing.T) {
	t.Parallel()
	path, content := filled(t)
	// The version of the format stands behind the page's header and the magic number.
	const version = 16 + 4
	content[version], content[4096+version] = 99, 99
	anew(t, path, content)
	if _, err := Open(Config{Path: path}); !errors.Is(err, ErrNewer) {
		t.Errorf("error %v, want ErrNewer", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, content) {
		t.Errorf("it was modified: %v", err)
	}
}

// TestReserve writes changes when the disk gives nothing any more.
func TestReserve(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	db.refill()
	size := sizeOf(t, db.cfg.Path)
	docs := NewCollection[string](db, "test")
	for i := range 50 {
		put(t, docs, string(rune('a'+i%5)), "0123456789")
	}
	if after := sizeOf(t, db.cfg.Path); after != size {
		t.Errorf("the file has grown from %d to %d bytes", size, after)
	}
	err := db.View(func(tx *Tx) error {
		return tx.bolt.ForEach(func(name []byte, _ *bolt.Bucket) error {
			if string(name) == bucketReserve {
				return errors.New("the reserve is something that can be read")
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
}
