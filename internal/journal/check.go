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

// walk reads every key and value that can be reached, and sees that they are as they were written.
func walk(tx *bolt.Tx) error {
	// No key takes less than this; more keys than that mean that pages refer to
	// each other in a circle.
	const leastKey = 16
	left := tx.Size() / leastKey
	var visit func(b *bolt.Bucket, sound func(key, value []byte) error) error
	visit = func(b *bolt.Bucket, sound func(key, value []byte) error) error {
		return b.ForEach(func(k, v []byte) error {
			if left--; left < 0 {
				return errors.New("its pages form a circle")
			}
			if v != nil {
				if err := sound(k, v); err != nil {
					return fmt.Errorf("the value of %q: %w", k, err)
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
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error { return visit(b, soundness(string(name))) })
}

// soundness tells what was written from what was not, in a bucket: what version 4 has sealed, what versions before it had
// elsewhere, and anything else, of which nothing is known.
func soundness(bucket string) func(key, value []byte) error {
	switch bucket {
	case bucketSealed:
		return func(key, value []byte) error {
			_, err := unseal(key, value)
			return err
		}
	case bucketChanges, bucketParts, bucketDocuments:
		return func(_, value []byte) error {
			if !json.Valid(value) {
				return errors.New("it is unreadable")
			}
			return nil
		}
	}
	return func(_, _ []byte) error { return nil }
}
