package journal

import (
	"context"
	"encoding/json"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"tenure/internal/change"
)

// Changes is the journal as the change engine sees it.
func (db *DB) Changes() change.Store { return changes{db} }

type changes struct{ db *DB }

// Load implements change.Store.
func (c changes) Load(ctx context.Context) (change.Saved, error) {
	var saved change.Saved
	err := c.db.bolt.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketChanges))
		saved.LastID = change.ID(b.Sequence())
		return b.ForEach(func(k, v []byte) error {
			var one change.Change
			if err := json.Unmarshal(v, &one); err != nil {
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

// Apply implements change.Store.
func (c changes) Apply(_ context.Context, batch change.Batch) error {
	encoded := make([][]byte, len(batch.Put))
	for i := range batch.Put {
		raw, err := json.Marshal(&batch.Put[i])
		if err != nil {
			return fmt.Errorf("write change %s: %w", batch.Put[i].ID, err)
		}
		encoded[i] = raw
	}
	err := c.db.write(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketChanges))
		for i, raw := range encoded {
			id := uint64(batch.Put[i].ID)
			if err := b.Put(number(id), raw); err != nil {
				return err
			}
			if id <= b.Sequence() {
				continue
			}
			if err := b.SetSequence(id); err != nil {
				return err
			}
		}
		for _, id := range batch.Delete {
			if err := b.Delete(number(uint64(id))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write changes: %w", err)
	}
	return nil
}
