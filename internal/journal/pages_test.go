package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"tenure/internal/change"
	"tenure/internal/change/changetest"
)

// branching is a closed journal of a few pages, with branches between them, and what is in it.
func branching(t *testing.T) (path string, want contents) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	settle(t, db)
	snaps := NewCollection[string](db, Snaps)
	var all change.Batch
	for id := range change.ID(8) {
		all.Put = append(all.Put, changetest.Full(id+1))
	}
	all.Put[7].Status = change.Doing
	err := db.Update(func(tx *Tx) error {
		var failures []error
		for i := range 14 {
			failures = append(failures, snaps.In(tx).Put(fmt.Sprintf("snap%02d", i), strings.Repeat("state ", 120)))
		}
		return errors.Join(append(failures, NewCollection[string](db, Settings).In(tx).Put("a.b", "c"))...)
	})
	err = errors.Join(err, db.Changes().Apply(t.Context(), all), snaps.Delete("snap07"), snaps.Put("snap05", "small"))
	if err != nil {
		t.Fatal(err)
	}
	want = contentsOf(t, db)
	closeDB(t, db)
	return path, want
}

// contents is what is read of a journal, in every way.
type contents struct {
	Keys     []string
	All, Got map[string]string
	Setting  string
	Saved    change.Saved
}

func contentsOf(t *testing.T, db *DB) (c contents) {
	t.Helper()
	snaps := NewCollection[string](db, Snaps)
	c.Got = make(map[string]string)
	var failures [5]error
	c.Keys, failures[0] = snaps.Keys()
	c.All, failures[1] = snaps.All()
	for i := range 16 {
		key := fmt.Sprintf("snap%02d", i)
		if got, found, err := snaps.Get(key); found || err != nil {
			c.Got[key] = got
			failures[2] = errors.Join(failures[2], err)
		}
	}
	c.Setting, _, failures[3] = NewCollection[string](db, Settings).Get("a.b")
	c.Saved, failures[4] = db.Changes().Load(t.Context())
	if err := errors.Join(failures[:]...); err != nil {
		t.Errorf("read: %v", err)
	}
	return c
}

// structural are the bytes of a file that say where something is: its heads, the header of each page that is in use, the elements and
// keys of branches, the elements of leaves, and what is free.
func structural(t *testing.T, path string, content []byte) (offsets []int, branches int) {
	t.Helper()
	add := func(from, count int) {
		for at := range count {
			offsets = append(offsets, from+at)
		}
	}
	add(0, headerSize+headSize)
	add(pageSize, headerSize+headSize)
	for _, page := range used(t, path) {
		raw := content[page*pageSize:]
		count := int(binary.NativeEndian.Uint16(raw[10:]))
		switch kind := binary.NativeEndian.Uint16(raw[8:]); kind {
		case kindBranch:
			_, end, err := elementsOf(raw)
			if err != nil {
				t.Fatal(err)
			}
			add(page*pageSize, int(end)) //nolint:gosec // Within the file.
			branches++
		case kindFree:
			add(page*pageSize, headerSize+8*count)
		case kindLeaf:
			add(page*pageSize, headerSize)
			all, end, err := elementsOf(raw)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case count > 0 && slices.Contains([]string{bucketMeta, bucketChanges}, string(all[0].key)):
				add(page*pageSize+headerSize, int(end)-headerSize) //nolint:gosec // Within the page.
			case count > 0:
				// What is between them is alike.
				add(page*pageSize+headerSize, elementSize)
				add(page*pageSize+headerSize+elementSize*(count-1), elementSize)
			}
		}
	}
	return offsets, branches
}

// used are the pages that are not free, but for the heads, and those that belong to the one before.
func used(t *testing.T, path string) (pages []int) {
	t.Helper()
	b, err := bolt.Open(path, fileMode, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = b.View(func(tx *bolt.Tx) error {
		for number := 2; int64(number) < tx.Size()/pageSize; number++ {
			info, err := tx.Page(number)
			if err != nil {
				return err
			}
			if info.Type != "free" {
				pages = append(pages, number)
				number += info.OverflowCount
			}
		}
		return nil
	})
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	return pages
}

// TestTurnedBitsInPages turns every bit by which something is found in the file, one at a time: opening finds that, or what is read is right,
// and so is what is read after something more was written.
func TestTurnedBitsInPages(t *testing.T) {
	t.Parallel()
	path, want := branching(t)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	offsets, branches := structural(t, path, content)
	if branches == 0 {
		t.Fatal("the journal has no branches")
	}
	t.Logf("%d pages, %d of them branches, %d bits", len(content)/pageSize, branches, 8*len(offsets))
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // What is written to it is read.
	unseen := 0
	for _, at := range offsets {
		for bit := range 8 {
			poke(t, file, at, content[at]^1<<bit)
			// To write after each takes long.
			write := bit == at%8
			if opened(t, path, want, write) {
				unseen++
				if write {
					poke(t, file, 0, content...)
				}
			}
			poke(t, file, at, content[at])
		}
		if t.Failed() {
			t.Fatalf("byte %d of page %d", at%pageSize, at/pageSize)
		}
	}
	// The head before the last one, and the headers of both, nobody reads; totals that are called otherwise are not there.
	if most := 8 * (headSize + 2*headerSize + len(keyTotals)); unseen > most {
		t.Errorf("of %d bits %d are not seen, want at most %d", 8*len(offsets), unseen, most)
	}
}

// opened opens a journal that is damaged, if that is not refused.
func opened(t *testing.T, path string, want contents, write bool) bool {
	t.Helper()
	b, err := openBolt(Config{Path: path})
	if err != nil {
		if !errors.As(err, new(*DamagedError)) {
			t.Errorf("it is refused, and not taken for damaged: %v", err)
		}
		return false
	}
	b.NoSync = true
	db := &DB{backups: newBackups()}
	db.bolt.Store(b)
	if _, err := db.checkVersion(len(migrations())); err != nil {
		t.Errorf("it is refused, and not taken for damaged: %v", err)
	}
	if got := contentsOf(t, db); !reflect.DeepEqual(want, got) {
		t.Errorf("what is read (-want +got):\n%s", cmp.Diff(want, got))
	}
	for i := 0; write && i < 4; i++ {
		if err := db.update(func(tx *Tx) error {
			return Documents[string]{tx: tx, name: Snaps}.Put(fmt.Sprintf("snap%02d", i+4), strings.Repeat("other ", 200))
		}); err != nil {
			t.Errorf("write: %v", err)
		}
		if err := b.View(check); err != nil {
			t.Errorf("what was written is damaged: %v", err)
		}
	}
	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	return true
}

// TestPagesOfAnyJournal finds nothing damaged in what was written, whatever that is.
func TestPagesOfAnyJournal(t *testing.T) {
	t.Parallel()
	const writes = 60
	db := newDB(t)
	db.bolt.Load().NoSync = true
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // It is to be the same each time.
	for range writes {
		collection := NewCollection[string](db, fmt.Sprintf("collection %d", random.IntN(5)))
		most := 1 << random.IntN(9)
		err := db.Update(func(tx *Tx) (err error) {
			docs := collection.In(tx)
			for range random.IntN(100) {
				key := strings.Repeat(fmt.Sprint(random.IntN(200)), 1+random.IntN(2)*random.IntN(40))
				if random.IntN(3) > 0 {
					err = errors.Join(err, docs.Put(key, strings.Repeat("x", random.IntN(20*most))))
				}
				for n := random.IntN(most); n > 0; n-- {
					err = errors.Join(err, docs.Delete(fmt.Sprint(random.IntN(200))))
				}
			}
			return err
		})
		if err := errors.Join(err, db.view(check)); err != nil {
			t.Fatal(err)
		}
		if random.IntN(20) == 0 {
			db.refill()
		}
	}
}

// TestTurnedWhileOpen turns bits of the branches of a journal that is open: what is there and is not found is no more taken for
// something that is not there.
func TestTurnedWhileOpen(t *testing.T) {
	t.Parallel()
	path, want := branching(t)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pages := used(t, path)
	db := openDB(t, path)
	defer closeDB(t, db)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // What is written to it is read.
	var keys []int
	for _, page := range pages {
		raw := content[page*pageSize : (page+1)*pageSize]
		for _, key := range want.Keys {
			if at := bytes.Index(raw, []byte(key)); at >= 0 && binary.NativeEndian.Uint16(raw[8:]) == kindBranch {
				keys = append(keys, page*pageSize+at)
			}
		}
	}
	if len(keys) == 0 {
		t.Fatal("no branch leads to a snap")
	}
	for _, at := range keys {
		for bit := range 8 * len(want.Keys[0]) {
			where := at + bit/8
			poke(t, file, where, content[where]^1<<(bit%8))
			allFound(t, db, want.Keys)
			poke(t, file, where, content[where])
			if t.Failed() {
				t.Fatalf("bit %d of the branch to %q", bit, content[at:at+len(want.Keys[0])])
			}
		}
	}
}

// allFound fails the test if nobody says that there is anything wrong with a snap that is not found.
func allFound(t *testing.T, db *DB, keys []string) {
	t.Helper()
	for _, key := range keys {
		if _, found, err := NewCollection[string](db, Snaps).Get(key); !found && err == nil {
			t.Errorf("there is no %q", key)
		}
	}
}

func poke(t *testing.T, file *os.File, at int, value ...byte) {
	t.Helper()
	if _, err := file.WriteAt(value, int64(at)); err != nil {
		t.Fatal(err)
	}
}

// oldLeaf puts, in the place of the leaf that has a value, the one in which it was something else before, as a disk does that
// has not written a page.
func oldLeaf(t *testing.T, path, now, before string) {
	t.Helper()
	pages := used(t, path)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var old []byte
	for at := 2 * pageSize; at < len(content); at += pageSize {
		if page := content[at : at+pageSize]; bytes.Contains(page, []byte(before)) && binary.NativeEndian.Uint16(page[8:]) == kindLeaf {
			old = page
		}
	}
	for _, number := range pages {
		page := content[number*pageSize : (number+1)*pageSize]
		if !bytes.Contains(page, []byte(now)) {
			continue
		}
		if old == nil || binary.NativeEndian.Uint16(page[8:]) != kindLeaf {
			break
		}
		copy(page[8:], old[8:])
		if err := os.WriteFile(path, content, fileMode); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("there are no two leaves with %q and %q", before, now)
}

// TestLostWrite finds a leaf that was not written, where there is an older one of the same values, in the journal and in a backup;
// what a program has written that keeps no totals is read, and they are kept again.
func TestLostWrite(t *testing.T) {
	t.Parallel()
	path, _ := branching(t)
	db := openDB(t, path)
	snaps := NewCollection[string](db, Snaps)
	put(t, snaps, "snap03", "the state before")
	// Written by a program that knows of no totals.
	err := db.bolt.Load().Update(func(tx *bolt.Tx) error {
		at := placeOf(bucketDocuments, Snaps)
		return sealed(tx, bucketDocuments).Bucket([]byte(Snaps)).Put([]byte("snap04"), at.seal([]byte("snap04"), []byte(`"written by another"`)))
	})
	if err := errors.Join(err, db.view(check)); err != nil {
		t.Fatalf("what another program has written: %v", err)
	}
	put(t, snaps, "snap03", "the state of now")
	closeDB(t, db)
	oldLeaf(t, path, "the state of now", "the state before")
	db = openDB(t, path)
	defer closeDB(t, db)
	r, err := db.LastRecovery()
	got, _, errOfDoc := NewCollection[string](db, Snaps).Get("snap03")
	if err := errors.Join(err, errOfDoc); err != nil || r == nil || r.Backup != path+".bak" || got != "the state of now" {
		t.Errorf("%q, recovery %+v, %v", got, r, err)
	}
	err = openBackup(t, path+".bak", func(tx *bolt.Tx) error {
		if kept, err := totalsOf(tx); err != nil || kept.tx != uint64(tx.ID()) { //nolint:gosec // It counts up.
			t.Errorf("the backup has totals of transaction %d, and is of %d: %v", kept.tx, tx.ID(), err)
		}
		return check(tx)
	})
	if err != nil {
		t.Error(err)
	}
}

func openBackup(t *testing.T, path string, read func(*bolt.Tx) error) error {
	t.Helper()
	b, err := bolt.Open(path, fileMode, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(b.View(read), b.Close())
}
