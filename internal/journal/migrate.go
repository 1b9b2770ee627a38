package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	bolt "go.etcd.io/bbolt"
)

// migration brings a file from the version of its place in the list to the
// next.
type migration func(tx *bolt.Tx) error

// migrations are all there are, from version 0, a new file, to the present.
func migrations() []migration {
	return append([]migration{toVersion1, toVersion2, toVersion3, toVersion4}, later()...)
}

func toVersion1(tx *bolt.Tx) error {
	for _, name := range []string{bucketChanges, bucketDocuments, bucketEvents} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("create bucket %s: %w", name, err)
		}
	}
	return nil
}

// toVersion2 drops the events, which are in a History now. Nothing has ever written any.
func toVersion2(tx *bolt.Tx) error {
	if tx.Bucket([]byte(bucketEvents)) == nil {
		return nil
	}
	return tx.DeleteBucket([]byte(bucketEvents))
}

// toVersion3 makes room for the parts of changes. Those that version 2 has written are whole, and are read so.
func toVersion3(tx *bolt.Tx) error {
	if _, err := tx.CreateBucketIfNotExists([]byte(bucketParts)); err != nil {
		return fmt.Errorf("create bucket %s: %w", bucketParts, err)
	}
	return nil
}

// toVersion4 gives each value a checksum, below a bucket of its own: older releases look at what is in the others before
// they look at the version, and would take it for damaged.
func toVersion4(tx *bolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists([]byte(bucketSealed))
	if err != nil {
		return fmt.Errorf("create bucket %s: %w", bucketSealed, err)
	}
	for _, name := range sealedBuckets() {
		// What was written before in the same transaction would not move with it.
		err := tx.MoveBucket([]byte(name), nil, b)
		if err == nil {
			err = placeOf(name).sealAll(b.Bucket([]byte(name)))
		}
		if err != nil {
			return fmt.Errorf("seal %s: %w", name, err)
		}
	}
	return nil
}

// migrate runs the steps that the file lacks, all or none.
func (db *DB) migrate(log *slog.Logger, steps []migration) error {
	newest := uint64(len(steps))
	var version uint64
	err := db.view(func(tx *bolt.Tx) (err error) {
		version, err = readVersion(tx)
		return err
	})
	if err != nil || version == newest {
		return err
	}
	log.Info("migrate journal", slog.Uint64("from", version), slog.Uint64("to", newest))
	err = db.update(func(tx *Tx) error {
		tx.known = false // The steps do not count.
		for v := version; v < newest; v++ {
			if err := steps[v](tx.bolt); err != nil {
				return fmt.Errorf("migrate from version %d: %w", v, err)
			}
		}
		meta, err := tx.bolt.CreateBucketIfNotExists([]byte(bucketMeta))
		if err != nil {
			return fmt.Errorf("create bucket %s: %w", bucketMeta, err)
		}
		if err := meta.Put([]byte(keyVersion), number(newest)); err != nil || version > 0 {
			return err
		}
		// Nobody knows here whether there are snaps already.
		return tx.PutRecovery(&Recovery{Found: time.Now().UTC(), New: true, Pending: true})
	})
	return err
}

// readVersion returns 0 for a file that nobody has written to.
func readVersion(tx *bolt.Tx) (uint64, error) {
	meta := tx.Bucket([]byte(bucketMeta))
	if meta == nil {
		if k, _ := tx.Cursor().First(); k != nil {
			return 0, errors.New("it is not a journal of Tenure: it has no version")
		}
		return 0, nil
	}
	raw := meta.Get([]byte(keyVersion))
	if len(raw) != 8 {
		return 0, fmt.Errorf("it is not a journal of Tenure: version %x", raw)
	}
	return binary.BigEndian.Uint64(raw), nil
}
