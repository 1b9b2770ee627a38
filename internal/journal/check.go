package journal

import (
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

// walk reads every key and value that can be reached.
func walk(tx *bolt.Tx) error {
	// No key takes less than this; more keys than that mean that pages refer to
	// each other in a circle.
	const leastKey = 16
	left := tx.Size() / leastKey
	var visit func(forEach func(func(k, v []byte) error) error, open func([]byte) *bolt.Bucket) error
	visit = func(forEach func(func(k, v []byte) error) error, open func([]byte) *bolt.Bucket) error {
		var sum byte
		return forEach(func(k, v []byte) error {
			if left--; left < 0 {
				return errors.New("its pages form a circle")
			}
			for _, b := range v {
				sum ^= b
			}
			if v != nil {
				return nil
			}
			b := open(k)
			if b == nil {
				return fmt.Errorf("bucket %q is unreadable", k)
			}
			return visit(b.ForEach, b.Bucket)
		})
	}
	top := func(f func(k, v []byte) error) error {
		return tx.ForEach(func(name []byte, _ *bolt.Bucket) error { return f(name, nil) })
	}
	return visit(top, tx.Bucket)
}
