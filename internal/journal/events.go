package journal

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"tenure"
)

// Event is something that happened, for the record.
type Event struct {
	// Seq orders events; Append gives it, from 1, without holes.
	Seq  uint64    `json:"-"`
	Time time.Time `json:"time"`
	// Kind is a short word, such as "signal" or "started".
	Kind string          `json:"kind"`
	Snap tenure.Instance `json:"snap,omitempty"`
	// Unit is the unit that it happened to, if it happened to one.
	Unit tenure.UnitID `json:"unit,omitzero"`
	// Data says more, as its kind defines.
	Data json.RawMessage `json:"data,omitempty"`
}

// EventFilter selects events. The zero value selects all.
type EventFilter struct {
	Kind string
	Snap tenure.Instance
	Unit tenure.UnitID
	// Limit, if not 0, is how many events are returned at most.
	Limit int
}

// Match reports whether f selects e, but for the limit.
func (f EventFilter) Match(e Event) bool {
	return (f.Kind == "" || f.Kind == e.Kind) &&
		(f.Snap == "" || f.Snap == e.Snap) &&
		(f.Unit.IsZero() || f.Unit == e.Unit)
}

// Append adds events to the log, durably, and returns the Seq of the last.
// Those without a Time get the present one, those with a Unit its Snap.
func (db *DB) Append(events ...Event) (last uint64, err error) {
	err = db.Update(func(tx *Tx) error {
		last, err = tx.Append(events...)
		return err
	})
	return last, err
}

// Append is DB.Append as part of a transaction.
func (tx *Tx) Append(events ...Event) (last uint64, err error) {
	b := tx.bolt.Bucket([]byte(bucketEvents))
	now := time.Now()
	for _, e := range events {
		if e.Time.IsZero() {
			e.Time = now
		}
		if e.Snap == "" {
			e.Snap = e.Unit.Snap
		}
		raw, err := json.Marshal(e)
		if err != nil {
			return 0, fmt.Errorf("append event %s: %w", e.Kind, err)
		}
		seq, err := b.NextSequence()
		if err == nil {
			err = b.Put(number(seq), raw)
		}
		if err != nil {
			return 0, fmt.Errorf("append event %s: %w", e.Kind, err)
		}
	}
	if err := tx.db.trim(b); err != nil {
		return 0, fmt.Errorf("trim events: %w", err)
	}
	tx.bolt.OnCommit(tx.db.announce)
	return b.Sequence(), nil
}

// trim deletes the oldest events while there are too many.
func (db *DB) trim(b *bolt.Bucket) error {
	for {
		k, _ := b.Cursor().First()
		if k == nil || b.Sequence()-binary.BigEndian.Uint64(k) < uint64(db.maxEvents) { //nolint:gosec // A positive limit.
			return nil
		}
		if err := b.Delete(k); err != nil {
			return err
		}
	}
}

func (db *DB) announce() {
	db.mu.Lock()
	defer db.mu.Unlock()
	close(db.appended)
	db.appended = make(chan struct{})
}

// Since returns the events after seq that f selects, oldest first, and the Seq
// of the last that it looked at: where the next call goes on.
func (db *DB) Since(seq uint64, f EventFilter) (events []Event, last uint64, err error) {
	last = seq
	err = db.bolt.View(func(tx *bolt.Tx) error {
		cursor := tx.Bucket([]byte(bucketEvents)).Cursor()
		for k, v := cursor.Seek(number(seq + 1)); k != nil; k, v = cursor.Next() {
			var e Event
			if err := json.Unmarshal(v, &e); err != nil {
				return fmt.Errorf("read event %x: %w", k, err)
			}
			e.Seq = binary.BigEndian.Uint64(k)
			last = e.Seq
			if !f.Match(e) {
				continue
			}
			events = append(events, e)
			if f.Limit > 0 && len(events) == f.Limit {
				return nil
			}
		}
		return nil
	})
	return events, last, err
}

// LastEvent is the Seq of the last event, and 0 if there was none.
func (db *DB) LastEvent() (seq uint64, err error) {
	err = db.bolt.View(func(tx *bolt.Tx) error {
		seq = tx.Bucket([]byte(bucketEvents)).Sequence()
		return nil
	})
	return seq, err
}

// Await waits until there is an event after seq.
func (db *DB) Await(ctx context.Context, seq uint64) error {
	for {
		db.mu.Lock()
		appended := db.appended
		db.mu.Unlock()
		last, err := db.LastEvent()
		if err != nil || last > seq {
			return err
		}
		select {
		case <-appended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
