package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"tenure/internal/change"
)

func TestFileMode(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	for _, value := range []string{"one", "two"} {
		db := openDB(t, path)
		put(t, NewCollection[string](db, "test"), "a", value)
		closeDB(t, db)
	}
	for _, name := range []string{path, path + ".bak", path + ".bak.1"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatalf("Stat: %v", err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("mode of %s is %v, want 0600", name, info.Mode())
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 3 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestTwoDaemons(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	defer closeDB(t, db)
	_, err := Open(Config{Path: path, LockTimeout: 10 * time.Millisecond})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want ErrInUse that names %s", err, path)
	}
}

func TestNoDirectory(t *testing.T) {
	t.Parallel()
	_, err := Open(Config{Path: filepath.Join(t.TempDir(), "missing", "state.db")})
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, new(*DamagedError)) {
		t.Errorf("error %v, want that the directory does not exist", err)
	}
}

// A process that dies while it makes a backup, or a journal anew, leaves what it has of it; the next one does not keep that.
func TestUnfinishedBackupsGo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	closeDB(t, openDB(t, path))
	backup, replacement := filepath.Join(filepath.Dir(path), ".state.db.bak-4711"), filepath.Join(filepath.Dir(path), ".state.db.new-4712")
	if err := errors.Join(os.WriteFile(backup, []byte("half"), 0o600), os.Mkdir(replacement, 0o700),
		os.WriteFile(filepath.Join(replacement, "state.db"), []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	closeDB(t, openDB(t, path))
	for _, left := range []string{backup, replacement} {
		if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
}

// TestMigrate brings a file of version 1 to version 3 by migrations of its own.
func TestMigrate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, path)
	put(t, NewCollection[string](db, "test"), "a", "one")
	closeDB(t, db)

	boom := errors.New("boom")
	var ran []int
	step := func(n int, err error) migration {
		return func(tx *bolt.Tx) error {
			ran = append(ran, n)
			docs := Documents[string]{tx: &Tx{bolt: tx}, name: "test"}
			return errors.Join(err, docs.Put("a", fmt.Sprint("version ", n)))
		}
	}
	_, err := open(Config{Path: path}, append(migrations(), step(2, nil), step(3, boom)))
	if !errors.Is(err, boom) {
		t.Fatalf("error %v, want boom", err)
	}
	wantDoc(t, path, migrations(), "one") // Nothing of it happened.

	ran = nil
	newer := append(migrations(), step(2, nil), step(3, nil))
	wantDoc(t, path, newer, "version 3")
	wantDoc(t, path, newer, "version 3")
	if fmt.Sprint(ran) != "[2 3]" {
		t.Errorf("migrations ran: %v", ran)
	}

	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Path: path}); !errors.Is(err, ErrNewer) {
		t.Errorf("an older version opens it: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("an older version modified it (%v)", err)
	}
}

func wantDoc(t *testing.T, path string, steps []migration, want string) {
	t.Helper()
	db, err := open(Config{Path: path}, steps)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer closeDB(t, db)
	if got, _, err := NewCollection[string](db, "test").Get("a"); got != want || err != nil {
		t.Errorf("document %q, %v, want %q", got, err, want)
	}
}

func TestMigrateFromNothing(t *testing.T) {
	t.Parallel()
	// What is left if the power goes while the first file is made.
	for _, second := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "state.db")
		b, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if !second {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			clear(content[pageSize : 2*pageSize]) // Its second head was not written yet.
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		db := openDB(t, path)
		err = db.view(func(tx *bolt.Tx) error {
			if v, err := readVersion(tx); v != uint64(len(migrations())) || err != nil {
				t.Errorf("version %d, %v", v, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if damaged, err := filepath.Glob(path + ".damaged*"); err != nil || len(damaged) > 0 {
			t.Errorf("the second head is there: %t; it was taken for damaged: %v, %v", second, damaged, err)
		}
		closeDB(t, db)
	}
}

func TestForeignFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	b, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = b.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("etcd"))
		return err
	})
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Path: path}); err == nil || !strings.Contains(err.Error(), "not a journal of Tenure") {
		t.Errorf("error %v", err)
	}
}

// TestConcurrent has writers and readers at the same time.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { countTo25(t, db) })
		wg.Go(func() { readTo100(t, db) })
	}
	wg.Wait()
}

func countTo25(t *testing.T, db *DB) {
	t.Helper()
	counters := NewCollection[uint64](db, "counters")
	for range 25 {
		err := db.Update(func(tx *Tx) error {
			n, _, err := counters.In(tx).Get("n")
			return errors.Join(err, counters.In(tx).Put("n", n+1), counters.In(tx).Put("twice", 2*(n+1)))
		})
		if err != nil {
			t.Errorf("Update: %v", err)
			return
		}
	}
}

// readTo100 never sees half of an Update.
func readTo100(t *testing.T, db *DB) {
	t.Helper()
	counters := NewCollection[uint64](db, "counters")
	for {
		var n, twice uint64
		err := db.View(func(tx *Tx) (err error) {
			n, _, err = counters.In(tx).Get("n")
			var other error
			twice, _, other = counters.In(tx).Get("twice")
			return errors.Join(err, other)
		})
		if err != nil || twice != 2*n {
			t.Errorf("read: %v, %d is not twice %d", err, twice, n)
			return
		}
		if n == 100 {
			return
		}
		runtime.Gosched()
	}
}

// TestEngine runs a change of the real engine on the real journal.
func TestEngine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	for want := change.ID(1); want <= 3; want++ {
		db := openDB(t, path)
		reg := change.NewRegistry()
		change.Register(reg, "nothing", nothing{})
		e := change.New(change.Config{Store: db.Changes(), Registry: reg})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		id, err := e.Start(ctx, change.NewChange{Kind: "test", Tasks: []change.TaskSpec{change.NewTask("nothing", "x", 1)}})
		if err != nil || id != want {
			t.Fatalf("Start: %v, %v, want %v", id, err, want)
		}
		if c, err := e.WaitFor(ctx, id); err != nil || c.Status != change.Done {
			t.Errorf("WaitFor: %+v, %v", c, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		closeDB(t, db)
	}
}

type nothing struct{}

func (nothing) Do(context.Context, int) (int, error) { return 0, nil }
func (nothing) Undo(context.Context, int, int) error { return nil }
