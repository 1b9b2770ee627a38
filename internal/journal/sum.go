package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// sumSize is the length of what is before each value, in bytes: the CRC-32C of its place, its key and itself. bbolt has
// checksums of its two heads alone, and a disk, or memory, that turns a bit may leave JSON that says something else.
const sumSize = 4

var errSum = errors.New("it is not what was written: its checksum is another")

// sealedSince is the first version of the schema with them, below bucketSealed.
const sealedSince = 4

// sealedBuckets are those below bucketSealed.
func sealedBuckets() []string { return []string{bucketChanges, bucketParts, bucketDocuments} }

// sealed is one of them.
func sealed(tx *bolt.Tx, name string) *bolt.Bucket {
	return tx.Bucket([]byte(bucketSealed)).Bucket([]byte(name))
}

// place is where a value is: the names of the buckets below bucketSealed. A value that a turned bit has brought elsewhere
// is not one that was written there.
type place string

func placeOf(names ...string) place { return place("").below(names...) }

func (p place) below(names ...string) place {
	for _, name := range names {
		p += place(fmt.Sprintf("%d:%s", len(name), name))
	}
	return p
}

// seal is value as it is kept under key.
func (p place) seal(key, value []byte) []byte {
	return slices.Concat(binary.BigEndian.AppendUint32(nil, p.sum(key, value)), value)
}

// unseal is the value of what is kept under key, and a part of that.
func (p place) unseal(key, kept []byte) ([]byte, error) {
	if len(kept) < sumSize || binary.BigEndian.Uint32(kept) != p.sum(key, kept[sumSize:]) {
		return nil, errSum
	}
	return kept[sumSize:], nil
}

func (p place) sum(key, value []byte) uint32 {
	castagnoli := crc32.MakeTable(crc32.Castagnoli) // It is made once.
	return crc32.Update(crc32.Checksum([]byte(p.below(string(key))), castagnoli), castagnoli, value)
}

// read decodes what is kept under key.
func (p place) read(key, kept []byte, into any) error {
	value, err := p.unseal(key, kept)
	if err != nil {
		return err
	}
	return json.Unmarshal(value, into)
}

// sealAll seals all values in a bucket and in those below it.
func (p place) sealAll(b *bolt.Bucket) error {
	all := make(map[string][]byte)
	err := b.ForEach(func(k, v []byte) error {
		if v == nil {
			return p.below(string(k)).sealAll(b.Bucket(k))
		}
		all[string(k)] = p.seal(k, v)
		return nil
	})
	if err != nil {
		return err
	}
	for key, value := range all {
		if err := b.Put([]byte(key), value); err != nil {
			return err
		}
	}
	return nil
}
