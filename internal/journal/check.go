package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
)

// guard runs f, and makes its panics and memory faults errors. Reading a
// memory map behind the end of its file is a fault.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be read: %v", p)
		}
	}()
	return f()
}

// walk reads every key and value that can be reached. All values are JSON, but for those of the
// bucket with the version.
func walk(tx *bolt.Tx) error {
	// No key takes less than this; more keys than that mean that pages refer to
	// each other in a circle.
	const leastKey = 16
	left := tx.Size() / leastKey
	var visit func(b *bolt.Bucket, sound func([]byte) bool) error
	visit = func(b *bolt.Bucket, sound func([]byte) bool) error {
		return b.ForEach(func(k, v []byte) error {
			if left--; left < 0 {
				return errors.New("its pages form a circle")
			}
			if v != nil {
				if !sound(v) {
					return fmt.Errorf("the value of %q is unreadable", k)
				}
				return nil
			}
			below := b.Bucket(k)
			if below == nil {
				return fmt.Errorf("bucket %q is unreadable", k)
			}
			return visit(below, sound)
		})
	}
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		switch string(name) {
		case bucketChanges, bucketParts, bucketDocuments:
			return visit(b, json.Valid)
		}
		return visit(b, func([]byte) bool { return true })
	})
}
