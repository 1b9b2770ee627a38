package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"tenure/internal/durable"
)

// Schema is the version of the schema that this program writes.
func Schema() uint64 { return uint64(len(migrations())) }

// keptPath is where a copy is kept of the journal at path while another program is to take it over.
func keptPath(path string) string { return path + ".before-upgrade" }

// Keep makes a copy of the journal as it is now, durably, which Restore puts in its place. It is
// gone before anything is written to the journal that is opened next, but for its migration: whoever finds it
// loses nothing by putting it back.
func (db *DB) Keep() error {
	if err := replaceBackup(keptPath(db.cfg.Path), func(f *os.File) error { return db.Backup(f) }, nil); err != nil {
		return fmt.Errorf("keep journal: %w", err)
	}
	return nil
}

// Kept reports whether there is a copy that Keep has made of the journal at path.
func Kept(path string) bool {
	_, err := os.Stat(keptPath(path))
	return err == nil
}

// write is an update of the journal, before the first of which the copy goes.
func (db *DB) write(f func(*Tx) error) error {
	if err := db.begin(); err != nil {
		return err
	}
	db.boundary()
	defer db.boundary()
	if err := db.update(f); err != nil {
		return err
	}
	db.backups.wrote()
	return nil
}

// begin discards the copy that Keep has made, once. What the disk has refused it may give at the next write.
func (db *DB) begin() error {
	db.beginning.Lock()
	defer db.beginning.Unlock()
	if db.begun {
		return nil
	}
	err := db.cfg.discard()
	db.begun = err == nil
	return err
}

// Restore puts the copy that Keep has made in the place of the journal at path, which nobody
// has open.
func Restore(path string) error {
	if err := os.Rename(keptPath(path), path); err != nil {
		return fmt.Errorf("restore journal: %w", err)
	}
	return durable.Sync(filepath.Dir(path))
}

// Discard removes the copy that Keep has made, if there is one, durably: also where it was removed before, for the disk may
// not have heard of that.
func Discard(path string) error {
	err := os.Remove(keptPath(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove copy of the journal: %w", err)
	}
	return durable.Sync(filepath.Dir(path))
}

func (cfg *Config) discard() error {
	if cfg.Gate != nil {
		cfg.Gate.Lock()
		defer cfg.Gate.Unlock()
	}
	return Discard(cfg.Path)
}

// WriteCopy writes a copy of the journal as it is now to a new file.
func (db *DB) WriteCopy(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return fmt.Errorf("copy journal: %w", err)
	}
	return errors.Join(db.Backup(f), f.Close())
}

// Backup writes a copy of the journal as it is now, while it is in use. The
// copy is a journal itself.
func (db *DB) Backup(w io.Writer) error {
	err := db.view(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
	if err != nil {
		return fmt.Errorf("back up journal: %w", err)
	}
	return nil
}
