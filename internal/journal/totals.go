package journal

import (
	"encoding/binary"
	"errors"

	bolt "go.etcd.io/bbolt"
)

// totals are what is sealed after a transaction, taken together. A page that the disk has never written, where there was one like it
// before, is sound by itself: what it has was written once, and lies where it lay.
//
// Who does not know of them writes without them: those of a transaction before the last say nothing. To take them for good then costs a walk.
type totals struct {
	// tx is after which transaction, version that of the schema, and last the highest ID of a change.
	tx, version, last uint64
	// values is how many there are, and sums what their checksums add up to.
	values, sums uint64
	// strange is what the sequences of other buckets add up to. They have none.
	strange uint64
}

const keyTotals = "totals"

// totalsOf are those that are kept; none if nobody has kept any.
func totalsOf(tx *bolt.Tx) (t totals, err error) {
	meta := tx.Bucket([]byte(bucketMeta))
	if meta == nil {
		return t, nil
	}
	kept := meta.Get([]byte(keyTotals))
	if kept == nil {
		return t, nil
	}
	value, err := placeOf(bucketMeta).unseal([]byte(keyTotals), kept)
	if err != nil {
		return t, err
	}
	fields := []*uint64{&t.tx, &t.version, &t.last, &t.values, &t.sums}
	if len(value) != 8*len(fields) {
		return t, errors.New("it is of another form")
	}
	for i, field := range fields {
		*field = binary.BigEndian.Uint64(value[8*i:])
	}
	return t, nil
}

// put keeps them.
func (t *totals) put(meta *bolt.Bucket) error {
	var value []byte
	for _, field := range []uint64{t.tx, t.version, t.last, t.values, t.sums} {
		value = binary.BigEndian.AppendUint64(value, field)
	}
	return meta.Put([]byte(keyTotals), placeOf(bucketMeta).seal([]byte(keyTotals), value))
}

// replace counts that something is kept instead of something else; nil is nothing.
func (t *totals) replace(before, after []byte) {
	if before != nil {
		t.values, t.sums = t.values-1, t.sums-sumOf(before)
	}
	if after != nil {
		t.values, t.sums = t.values+1, t.sums+sumOf(after)
	}
}

// addAll counts all that is kept in b, and in what is below it.
func (t *totals) addAll(b *bolt.Bucket) error {
	return b.ForEach(func(k, kept []byte) error {
		if kept == nil {
			below := b.Bucket(k)
			if string(k) != bucketChanges {
				t.strange += below.Sequence()
			}
			return t.addAll(below)
		}
		t.replace(nil, kept)
		return nil
	})
}

// sumOf is the checksum of what is kept.
func sumOf(kept []byte) uint64 {
	if len(kept) < sumSize {
		return 0
	}
	return uint64(binary.BigEndian.Uint32(kept))
}

// counted are the totals by what is there.
func counted(tx *bolt.Tx) (t totals, err error) {
	t.tx = uint64(tx.ID()) //nolint:gosec // It counts up.
	if t.version, err = readVersion(tx); err != nil {
		return t, err
	}
	all := tx.Bucket([]byte(bucketSealed))
	t.last, t.strange = all.Bucket([]byte(bucketChanges)).Sequence(), all.Sequence()+tx.Bucket([]byte(bucketMeta)).Sequence()
	return t, t.addAll(all)
}

// checkVersionSum sees that the version is that with which the transaction was written.
func checkVersionSum(tx *bolt.Tx, version uint64) error {
	kept, err := totalsOf(tx)
	if err == nil && kept.tx == uint64(tx.ID()) && kept.version != version { //nolint:gosec // It counts up.
		return errors.New("its version is another than it was")
	}
	return nil
}

// checkTotals sees that all that is sealed is what was there after the last transaction.
func checkTotals(tx *bolt.Tx) error {
	if version, err := readVersion(tx); err == nil && version > Schema() {
		return nil // They may mean anything.
	}
	kept, err := totalsOf(tx)
	if err != nil || kept == (totals{}) || kept.tx != uint64(tx.ID()) { //nolint:gosec // It counts up.
		return err
	}
	now, err := counted(tx)
	if err == nil && now != kept {
		err = errors.New("what is in it is not all that was written last, or more")
	}
	return err
}

// begin takes the totals of the transaction before, if they are kept, so that no more than what is written is to be counted.
func (tx *Tx) begin() {
	kept, err := totalsOf(tx.bolt)
	tx.known = err == nil && kept.tx == uint64(tx.bolt.ID())-1 //nolint:gosec // It counts up.
	tx.totals = kept
}

// end keeps the totals.
func (tx *Tx) end() (err error) {
	if tx.bolt.Bucket([]byte(bucketSealed)) == nil {
		return nil // There are none in such a version.
	}
	if !tx.known {
		if tx.totals, err = counted(tx.bolt); err != nil {
			return err
		}
	}
	tx.totals.tx = uint64(tx.bolt.ID()) //nolint:gosec // It counts up.
	tx.totals.last = sealed(tx.bolt, bucketChanges).Sequence()
	if tx.totals.version, err = readVersion(tx.bolt); err != nil {
		return err
	}
	return tx.totals.put(tx.bolt.Bucket([]byte(bucketMeta)))
}

// mistrust has the totals counted anew if what goes is not what was counted: a bit of it has turned since.
func (tx *Tx) mistrust(at place, key, goes []byte) {
	if goes == nil {
		return
	}
	if _, err := at.unseal(key, goes); err != nil {
		tx.known = false
	}
}

// put keeps a value.
func (tx *Tx) put(in *bolt.Bucket, at place, key, value []byte) error {
	tx.mistrust(at, key, in.Get(key))
	kept, next := at.seal(key, value), tx.totals
	next.replace(in.Get(key), kept)
	if err := in.Put(key, kept); err != nil {
		return err
	}
	tx.totals = next
	return nil
}

// drop removes a value, if there is one.
func (tx *Tx) drop(in *bolt.Bucket, at place, key []byte) error {
	tx.mistrust(at, key, in.Get(key))
	next := tx.totals
	next.replace(in.Get(key), nil)
	if err := in.Delete(key); err != nil {
		return err
	}
	tx.totals = next
	return nil
}

// dropBucket removes a bucket with its values, if there is one.
func (tx *Tx) dropBucket(in *bolt.Bucket, at place, name []byte) error {
	b := in.Bucket(name)
	if b == nil {
		return nil
	}
	err := b.ForEach(func(k, kept []byte) error {
		tx.mistrust(at.below(string(name)), k, kept)
		return nil
	})
	if err != nil {
		return err
	}
	var gone totals
	if err := gone.addAll(b); err != nil {
		return err
	}
	if err := in.DeleteBucket(name); err != nil {
		return err
	}
	tx.totals.values -= gone.values
	tx.totals.sums -= gone.sums
	return nil
}
