package journal

import (
	"cmp"
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

// check sees that everything in a file is as it was written; of what a newer version has in its pages nothing is known.
func check(tx *bolt.Tx) error {
	// Who reads what is in a page believes what that says, also of keys that are longer than the file.
	pages := checkPages(tx)
	if pages != nil && !errors.Is(pages, errOvertaken) {
		return pages
	}
	sound, err := expected(tx)
	if err != nil {
		return err
	}
	return cmp.Or(walk(tx, sound), checkTotals(tx), pages)
}

// expected is what the values of each bucket are to be like, if all buckets are there that belong to the version.
func expected(tx *bolt.Tx) (func(bucket string) soundness, error) {
	version, err := readVersion(tx)
	isSealed := tx.Bucket([]byte(bucketSealed)) != nil
	switch {
	case err != nil && !isSealed:
		return soundnessOf, nil // It is not of Tenure.
	case err != nil:
		return nil, err
	case version > Schema():
		return func(string) soundness { return unknown }, checkVersionSum(tx, version)
	case version >= sealedSince:
		return soundnessOf, complete(tx)
	case isSealed:
		return nil, fmt.Errorf("it is of version %d, and has a bucket %q", version, bucketSealed)
	}
	return soundnessOf, nil
}

// walk reads every key and value that can be reached, and asks by the bucket that it is in whether it is sound.
func walk(tx *bolt.Tx, of func(bucket string) soundness) error {
	// No key takes less than this; more keys than that mean that pages refer to
	// each other in a circle.
	const leastKey = 16
	left := tx.Size() / leastKey
	var visit func(b *bolt.Bucket, at place, sound soundness) error
	visit = func(b *bolt.Bucket, at place, sound soundness) error {
		return b.ForEach(func(k, v []byte) error {
			if left--; left < 0 {
				return errors.New("its pages form a circle")
			}
			if v != nil {
				if err := sound(at, k, v); err != nil {
					return fmt.Errorf("the value of %q: %w", short(k), err)
				}
				return nil
			}
			below := b.Bucket(k)
			if below == nil {
				return fmt.Errorf("bucket %q is unreadable", short(k))
			}
			return visit(below, at.below(string(k)), sound)
		})
	}
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error { return visit(b, placeOf(), of(string(name))) })
}

// short is as much of a key as there is in the message of an error.
func short(key []byte) []byte { return key[:min(len(key), 64)] }

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
