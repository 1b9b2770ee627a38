package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"tenure/internal/durable"
)

// view runs f on the state of one moment.
func (db *DB) view(f func(*bolt.Tx) error) error {
	return db.use(func(b *bolt.DB) error { return b.View(f) })
}

// update runs f and commits what it has written, durably.
//
// After a commit that failed the file is opened anew. bbolt goes on with what the kernel has of it in
// memory, which may be more than the disk has, and be less again at any moment: it would take pages for free that
// are in use, and say that something failed which is there.
func (db *DB) update(f func(*Tx) error) error {
	// Nobody writes between a commit and the look at what became of it.
	db.writing.Lock()
	defer db.writing.Unlock()
	return db.use(func(b *bolt.DB) error {
		var id int
		var refused error
		err := b.Update(func(tx *bolt.Tx) error {
			id = tx.ID()
			own := &Tx{bolt: tx}
			own.begin()
			if refused = f(own); refused == nil {
				refused = own.end()
			}
			return refused
		})
		if err == nil || refused != nil || errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
			return err
		}
		return db.settle(b, id, err)
	})
}

// settle says what became of transaction id, of which the commit failed: nil is that it is on the disk.
func (db *DB) settle(b *bolt.DB, id int, failed error) error {
	if err := db.reopen(b); err != nil {
		db.cfg.Logger.Error("the journal cannot be read any more", slog.Any("error", err))
		return errors.Join(failed, err)
	}
	last := 0
	if err := db.view(func(tx *bolt.Tx) error { last = tx.ID(); return nil }); err != nil {
		return errors.Join(failed, err)
	}
	if last != id {
		return failed
	}
	if err := db.syncStubbornly(); err != nil {
		db.cfg.Logger.Error("something was written to the journal, and the disk does not take it: it may be there or not", slog.Any("error", err))
		return errors.Join(failed, err)
	}
	return nil
}

// syncStubbornly waits for the disk to have what was written. A refusal may be over in a moment, and whoever is told
// that a commit failed takes nothing of it to be there.
func (db *DB) syncStubbornly() (err error) {
	for wait := syncAgain; wait < syncPatience; wait *= 2 {
		if err = db.bolt.Load().Sync(); err == nil {
			return nil
		}
		<-time.After(wait)
	}
	return err
}

// syncAgain is how long it takes until a disk that has refused is asked again, twice as long each time;
// syncPatience ends that, after about as long.
const syncAgain, syncPatience = 20 * time.Millisecond, 2 * time.Second

// use runs f with the open file, again where that was closed meanwhile to be opened anew.
func (db *DB) use(f func(*bolt.DB) error) error {
	for {
		b := db.bolt.Load()
		err := f(b)
		if !errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
			return err
		}
		if err := db.reopen(b); err != nil {
			return err
		}
	}
}

// reopen takes the file as the disk has it, unless somebody else has done so since b was open.
func (db *DB) reopen(b *bolt.DB) error {
	db.opening.Lock()
	defer db.opening.Unlock()
	switch {
	case db.bolt.Load() != b:
		return nil
	case db.closed:
		return fmt.Errorf("journal: %w", bolterrors.ErrDatabaseNotOpen)
	}
	if err := b.Close(); err != nil {
		db.cfg.Logger.Warn("a file of the journal is not closed", slog.Any("error", err))
	}
	if err := durable.Forget(db.cfg.Path); err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	next, err := openBolt(db.cfg)
	if err != nil {
		return err
	}
	db.bolt.Store(next)
	return nil
}
