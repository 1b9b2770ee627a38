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

// walk reads every key and value that can be reached, and sees that they are as they were written; of a file of a
// newer version nothing is known.
func walk(tx *bolt.Tx) error {
	// No key takes less than this; more keys than that mean that pages refer to
	// each other in a circle.
	const leastKey = 16
	left := tx.Size() / leastKey
	version, err := readVersion(tx)
	newer := err == nil && version > Schema()
	if err == nil && version >= sealedSince && !newer {
		if err := complete(tx); err != nil {
			return err
		}
	}
	var visit func(b *bolt.Bucket, at place, sound soundness) error
	visit = func(b *bolt.Bucket, at place, sound soundness) error {
		return b.ForEach(func(k, v []byte) error {
			if left--; left < 0 {
				return errors.New("its pages form a circle")
			}
			if v != nil {
				if err := sound(at, k, v); err != nil {
					return fmt.Errorf("the value of %q: %w", k, err)
				}
				return nil
			}
			below := b.Bucket(k)
			if below == nil {
				return fmt.Errorf("bucket %q is unreadable", k)
			}
			return visit(below, at.below(string(k)), sound)
		})
	}
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		if newer {
			return visit(b, placeOf(), unknown)
		}
		return visit(b, placeOf(), soundnessOf(string(name)))
	})
}

// complete is nil if all is there that is in every file.
func complete(tx *bolt.Tx) error {
	b := tx.Bucket([]byte(bucketSealed))
	if b == nil {
		return fmt.Errorf("it has no bucket %q", bucketSealed)
	}
	for _, name := range sealedBuckets() {
		if b.Bucket([]byte(name)) == nil {
			return fmt.Errorf("it has no bucket %q", name)
		}
	}
	return nil
}

// soundness tells what was written from what was not.
type soundness func(at place, key, value []byte) error

func unknown(place, []byte, []byte) error { return nil }

// soundnessOf is that of what is in a bucket: what version 4 has sealed, what versions before it had elsewhere, and anything
// else, of which nothing is known.
func soundnessOf(bucket string) soundness {
	switch bucket {
	case bucketSealed:
		return func(at place, key, value []byte) error {
			_, err := at.unseal(key, value)
			return err
		}
	case bucketChanges, bucketParts, bucketDocuments:
		return func(_ place, _, value []byte) error {
			if !json.Valid(value) {
				return errors.New("it is unreadable")
			}
			return nil
		}
	}
	return unknown
}
