package journal

import (
	"encoding/json"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// The names of collections that several packages have to agree on.
const (
	// Snaps has the state of each installed instance, by its name.
	Snaps = "snaps"
	// Pins has what keeps revisions, by snap and revision.
	Pins = "pins"
	// Settings has the options of the system, by their dotted names.
	Settings = "settings"
)

// Tx is a transaction. It is valid until the function that got it returns.
type Tx struct {
	bolt *bolt.Tx
	// totals are what is sealed by now, if they are known: only in one that writes.
	totals totals
	known  bool
}

// Update runs f and commits what it wrote, durably; or nothing, if f fails or
// panics.
func (db *DB) Update(f func(tx *Tx) error) error {
	return db.write(f)
}

// View runs f on the state of one moment. Writing in f fails.
func (db *DB) View(f func(tx *Tx) error) error {
	return db.view(func(tx *bolt.Tx) error { return f(&Tx{bolt: tx}) })
}

// Collection is a set of documents of one type, each under a key of its own.
// It is kept as JSON; fields that T does not have are lost when a document is
// put again.
type Collection[T any] struct {
	db   *DB
	name string
	// memory, if set, has those that were read.
	memory *memory[T]
}

// NewCollection is the collection called name, which exists as soon as
// something is put into it. Two collections of one name are the same.
func NewCollection[T any](db *DB, name string) *Collection[T] {
	return &Collection[T]{db: db, name: name}
}

// In is c inside a transaction.
func (c *Collection[T]) In(tx *Tx) Documents[T] {
	return Documents[T]{tx: tx, name: c.name, memory: c.memory}
}

// Get returns the document under key, and whether there is one.
func (c *Collection[T]) Get(key string) (doc T, found bool, err error) {
	err = c.db.View(func(tx *Tx) (err error) {
		doc, found, err = c.In(tx).Get(key)
		return err
	})
	return doc, found, err
}

// Put makes doc the document under key, durably.
func (c *Collection[T]) Put(key string, doc T) error {
	return c.db.Update(func(tx *Tx) error { return c.In(tx).Put(key, doc) })
}

// Delete removes the document under key, durably, if there is one.
func (c *Collection[T]) Delete(key string) error {
	return c.db.Update(func(tx *Tx) error { return c.In(tx).Delete(key) })
}

// All returns all documents by their keys.
func (c *Collection[T]) All() (docs map[string]T, err error) {
	err = c.db.View(func(tx *Tx) (err error) {
		docs, err = c.In(tx).All()
		return err
	})
	return docs, err
}

// Keys returns the keys of all documents, sorted. It reads no document.
func (c *Collection[T]) Keys() (keys []string, err error) {
	err = c.db.View(func(tx *Tx) error {
		keys, err = c.In(tx).Keys()
		return err
	})
	return keys, err
}

// Documents is a collection inside a transaction.
type Documents[T any] struct {
	tx     *Tx
	name   string
	memory *memory[T]
}

// Get returns the document under key, and whether there is one.
func (d Documents[T]) Get(key string) (doc T, found bool, err error) {
	b, err := d.bucket()
	if b == nil {
		return doc, false, err
	}
	raw := b.Get([]byte(key))
	if raw == nil {
		return doc, false, d.failed(absent(b, []byte(key)))
	}
	doc, err = d.decode(key, raw)
	return doc, err == nil, err
}

// Put makes doc the document under key.
func (d Documents[T]) Put(key string, doc T) error {
	raw, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("put %s %q: %w", d.name, key, err)
	}
	b, err := sealed(d.tx.bolt, bucketDocuments).CreateBucketIfNotExists([]byte(d.name))
	if err == nil {
		err = d.tx.put(b, d.place(), []byte(key), raw)
	}
	if err != nil {
		return fmt.Errorf("put %s %q: %w", d.name, key, err)
	}
	return nil
}

// Delete removes the document under key, if there is one.
func (d Documents[T]) Delete(key string) error {
	b, err := d.bucket()
	if b == nil {
		return err
	}
	if err := d.tx.drop(b, d.place(), []byte(key)); err != nil {
		return fmt.Errorf("delete %s %q: %w", d.name, key, err)
	}
	return nil
}

// All returns all documents by their keys. If some cannot be decoded it
// returns the others, and an error that names each.
func (d Documents[T]) All() (map[string]T, error) {
	docs := make(map[string]T)
	b, err := d.bucket()
	if b == nil {
		return docs, err
	}
	var failures []error
	err = b.ForEach(func(k, v []byte) error {
		doc, err := d.decode(string(k), v)
		if err != nil {
			failures = append(failures, err)
			return nil
		}
		docs[string(k)] = doc
		return nil
	})
	return docs, errors.Join(append(failures, err)...)
}

// Keys returns the keys of all documents, sorted.
func (d Documents[T]) Keys() (keys []string, err error) {
	b, err := d.bucket()
	if b == nil {
		return nil, err
	}
	err = b.ForEach(func(k, _ []byte) error {
		keys = append(keys, string(k))
		return nil
	})
	return keys, err
}

func (d Documents[T]) place() place { return placeOf(bucketDocuments, d.name) }

// bucket is where the documents are; nil if there are none.
func (d Documents[T]) bucket() (*bolt.Bucket, error) {
	all := sealed(d.tx.bolt, bucketDocuments)
	if b := all.Bucket([]byte(d.name)); b != nil {
		return b, nil
	}
	return nil, d.failed(absent(all, []byte(d.name)))
}

func (d Documents[T]) failed(err error) error {
	if err != nil {
		return fmt.Errorf("read %s: %w", d.name, err)
	}
	return nil
}

func (d Documents[T]) decode(key string, raw []byte) (doc T, err error) {
	value, err := d.place().unseal([]byte(key), raw)
	if err == nil {
		var known bool
		if doc, known = d.memory.recall(key, value); known {
			return doc, nil
		}
		err = json.Unmarshal(value, &doc)
	}
	if err != nil {
		return doc, fmt.Errorf("read %s %q: %w", d.name, key, err)
	}
	d.memory.keep(key, value, doc)
	return doc, nil
}
