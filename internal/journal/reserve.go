package journal

import (
	"errors"
	"log/slog"

	bolterrors "go.etcd.io/bbolt/errors"
)

// The reserve is pages of the file that the disk has given and that nothing is in. As long as there are any a
// commit needs nothing more of the disk: on one that is full what runs is still written down, undone
// and removed. A file that is put aside to be deleted then would be others' to take.
const (
	reservePages = 512
	// leastReserve is when it is filled up.
	leastReserve = 256
	reserveValue = 60 << 10
	pageSize     = 4 << 10
)

// refill fills the reserve up, if the disk has room for it.
func (db *DB) refill() {
	if stats := db.bolt.Load().Stats(); stats.FreePageN+stats.PendingPageN >= leastReserve {
		return
	}
	name := []byte(bucketReserve)
	drop := func(tx *Tx) error {
		if err := tx.bolt.DeleteBucket(name); !errors.Is(err, bolterrors.ErrBucketNotFound) {
			return err
		}
		return nil
	}
	err := db.update(func(tx *Tx) error {
		if err := drop(tx); err != nil {
			return err
		}
		b, err := tx.bolt.CreateBucket(name)
		for i := 0; err == nil && i < reservePages*pageSize/reserveValue; i++ {
			err = b.Put(number(uint64(i)), make([]byte, reserveValue)) //nolint:gosec // It counts up.
		}
		return err
	})
	if err == nil {
		err = db.update(drop)
	}
	if err != nil {
		db.cfg.Logger.Warn("the journal has no room in reserve", slog.Any("error", err))
	}
}
