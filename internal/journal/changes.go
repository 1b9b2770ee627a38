package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"tenure/internal/change"
)

// Changes is the journal as the change engine sees it.
func (db *DB) Changes() change.Store {
	return &changes{db: db, kept: make(map[change.ID]*parts)}
}

type changes struct {
	db *DB
	// kept is what is in the file of the changes that have not ended, as far as this
	// process has written them.
	kept map[change.ID]*parts
}

// Load implements change.Store.
func (c *changes) Load(ctx context.Context) (change.Saved, error) {
	var saved change.Saved
	err := c.db.view(func(tx *bolt.Tx) error {
		b, apart := sealed(tx, bucketChanges), sealed(tx, bucketParts)
		saved.LastID = change.ID(b.Sequence())
		return b.ForEach(func(k, v []byte) error {
			var one change.Change
			err := placeOf(bucketChanges).read(k, v, &one)
			if err == nil && !bytes.Equal(k, number(uint64(one.ID))) {
				err = fmt.Errorf("it is change %s", one.ID)
			}
			if own := apart.Bucket(k); err == nil && own != nil {
				err = readParts(own, placeOf(bucketParts, string(k)), &one)
			}
			if err != nil {
				return fmt.Errorf("read change %x: %w", k, err)
			}
			saved.Changes = append(saved.Changes, one)
			return ctx.Err()
		})
	})
	if err != nil {
		return change.Saved{}, fmt.Errorf("load changes: %w", err)
	}
	return saved, nil
}

// Apply implements change.Store. Of a change that has not ended only those parts are written that
// are others than before.
func (c *changes) Apply(_ context.Context, batch change.Batch) error {
	plans := make([]update, len(batch.Put))
	for i := range batch.Put {
		var err error
		if plans[i], err = newUpdate(&batch.Put[i], c.kept[batch.Put[i].ID]); err != nil {
			return fmt.Errorf("write change %s: %w", batch.Put[i].ID, err)
		}
	}
	err := c.db.write(func(tx *Tx) error {
		if err := apply(tx, plans, batch.Delete); err != nil {
			return err
		}
		return applyAlong(tx, batch.Along)
	})
	for i := range plans {
		// Of what could not be written nobody knows how much of it is there.
		delete(c.kept, plans[i].id)
		if err == nil && plans[i].next != nil {
			c.kept[plans[i].id] = plans[i].next
		}
	}
	if err != nil {
		return fmt.Errorf("write changes: %w", err)
	}
	for _, id := range batch.Delete {
		delete(c.kept, id)
	}
	return nil
}

// Along has f write in the transaction that keeps what the step did that runs with ctx: both are durable together, or
// neither is. f is tried before, with nothing kept of that, so that what fails of it fails here, where it is the step's, and not there, where it would
// keep all changes from being written; it is called again if the disk refuses. Where no step runs it is Update.
func (db *DB) Along(ctx context.Context, f func(tx *Tx) error) error {
	if change.IDFrom(ctx) == 0 {
		return db.Update(f)
	}
	err := db.update(func(tx *Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		return errTried
	})
	if !errors.Is(err, errTried) {
		return err
	}
	if change.Along(ctx, along(f)) {
		return nil
	}
	return db.Update(f)
}

// errTried is that nothing is to be kept of a transaction.
var errTried = errors.New("it was only tried")

// along is what a step wants written.
type along func(tx *Tx) error

func applyAlong(tx *Tx, all []any) error {
	for _, one := range all {
		write, ok := one.(along)
		if !ok {
			return fmt.Errorf("the journal cannot keep a %T", one)
		}
		if err := write(tx); err != nil {
			return err
		}
	}
	return nil
}

func apply(tx *Tx, plans []update, gone []change.ID) error {
	b, apart := sealed(tx.bolt, bucketChanges), sealed(tx.bolt, bucketParts)
	for i := range plans {
		if err := plans[i].write(tx, b, apart); err != nil {
			return err
		}
	}
	for _, id := range gone {
		if err := tx.drop(b, placeOf(bucketChanges), number(uint64(id))); err != nil {
			return err
		}
		if err := tx.dropBucket(apart, placeOf(bucketParts), number(uint64(id))); err != nil {
			return err
		}
	}
	return nil
}

// update is what is to be written of one change.
type update struct {
	id change.ID
	// head is its record; nil where that is there.
	head []byte
	// anew is that no part is there that could stay. put are the parts to be written by their
	// keys, and drop the keys of those that are gone.
	anew bool
	put  map[string][]byte
	drop []string
	// next is what is there then; nil for a change that has ended, which has no parts.
	next *parts
}

func (u *update) write(tx *Tx, b, apart *bolt.Bucket) error {
	id := uint64(u.id)
	if u.head != nil {
		if err := tx.put(b, placeOf(bucketChanges), number(id), u.head); err != nil {
			return err
		}
	}
	if id > b.Sequence() {
		if err := b.SetSequence(id); err != nil {
			return err
		}
	}
	if u.anew {
		if err := tx.dropBucket(apart, placeOf(bucketParts), number(id)); err != nil {
			return err
		}
	}
	if u.next == nil {
		return nil
	}
	own, err := apart.CreateBucketIfNotExists(number(id))
	if err != nil {
		return err
	}
	place := placeOf(bucketParts, string(number(id)))
	for _, key := range u.drop {
		if err := tx.drop(own, place, []byte(key)); err != nil {
			return err
		}
	}
	for key, value := range u.put {
		if err := tx.put(own, place, []byte(key), value); err != nil {
			return err
		}
	}
	return nil
}
