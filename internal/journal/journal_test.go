package journal

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"tenure/internal/change"
	"tenure/internal/change/changetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestChangesLaw(t *testing.T) {
	t.Parallel()
	changetest.Run(t, func(t *testing.T) func() change.Store {
		t.Helper()
		path := filepath.Join(t.TempDir(), "state.db")
		var db *DB
		t.Cleanup(func() { closeDB(t, db) })
		return func() change.Store {
			closeDB(t, db)
			db = openDB(t, path)
			return db.Changes()
		}
	})
}

func openDB(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(Config{Path: path})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return db
}

func closeDB(t *testing.T, db *DB) {
	t.Helper()
	if db == nil {
		return
	}
	if err := db.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// newDB is an empty journal that is closed after the test.
func newDB(t *testing.T) *DB {
	t.Helper()
	db := openDB(t, filepath.Join(t.TempDir(), "state.db"))
	t.Cleanup(func() { closeDB(t, db) })
	return db
}
