package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// The pages of the file, as bbolt writes them (version 2 of its format). Of these it has checksums of the heads alone, and
// believes everything else: where a branch leads, and what is free. Its own check runs where a fault in the memory map
// ends the process, and passes over branches that lead past what is there.
const (
	// A page begins with its number, in 8 bytes, its kind and how many elements it has, in 2 each, and how many pages
	// belong to it beside the first, in 4.
	headerSize = 16
	// An element of a branch has, from itself, the place of its key, the length of that, and in 8 bytes a page; one of a leaf what it is, the
	// place of its key, and the lengths of that and of its value.
	elementSize = 16
	// What a bucket is has its first page, or 0 if that follows, and a number of the user's.
	bucketSize = 16
	// A head is behind the header of each of the first two pages.
	headSize = 64
	headMark = 0xED0CDAED

	kindBranch, kindLeaf, kindFree = 1, 2, 16
	// manyFree is that the count of a list of free pages is its first element.
	manyFree = 0xFFFF
)

// errOvertaken is that the head of a transaction is not in the file any more: two more were committed meanwhile.
var errOvertaken = errors.New("the head of the transaction is gone")

// layout walks over the pages of a transaction.
type layout struct {
	file io.ReaderAt
	size uint64
	// owned are the pages that somebody has.
	owned []bool
}

// checkPages sees that the pages of tx are as they were written, as far as that shows: each has one place, in a bucket, in the list of
// free pages or as that list, none has more, and the keys are where they are looked for. A single bit that turns shows.
func checkPages(tx *bolt.Tx) error {
	file, err := os.Open(tx.DB().Path())
	if err != nil {
		return err
	}
	defer file.Close()                                             //nolint:errcheck // Opened for reading.
	l := layout{file: file, size: uint64(tx.DB().Info().PageSize)} //nolint:gosec // A size.
	h, err := l.headOf(uint64(tx.ID()))                            //nolint:gosec // It counts up.
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if most := uint64(info.Size()) / l.size; h.pages > most || uint64(tx.Size()) != h.pages*l.size { //nolint:gosec // A size.
		return fmt.Errorf("its head speaks of %d pages, of %d", h.pages, most)
	}
	l.owned = make([]bool, h.pages)
	l.owned[0], l.owned[1] = true, true
	if err := errors.Join(l.free(h.free), l.tree(h.root, nil, nil)); err != nil {
		return err
	}
	for number, owned := range l.owned {
		if !owned {
			return fmt.Errorf("page %d is nowhere", number)
		}
	}
	return nil
}

// head is where everything of a transaction is: the first page of its buckets, the list of free pages, and how many pages there are.
type head struct {
	root, free, pages, tx uint64
}

// headOf is the head of transaction tx. There are two, written in turn; one that cannot be read is one whose writing
// the power has cut off, and the file is as it was before. If it lacks a single bit it was there as a whole.
func (l *layout) headOf(tx uint64) (head, error) {
	var found *head
	for number := range uint64(2) {
		raw, err := l.read(number*l.size+headerSize, headSize)
		if err != nil {
			return head{}, err
		}
		h, good := parseHead(raw)
		if good && h.tx == tx {
			found = &h
		}
		if good {
			continue
		}
		if h, lacked := mendHead(raw); lacked && h.tx >= tx {
			return head{}, fmt.Errorf("a bit of its head %d has turned", number)
		}
	}
	if found == nil {
		return head{}, errOvertaken
	}
	return *found, nil
}

func parseHead(raw []byte) (h head, good bool) {
	at := func(offset int) uint64 { return binary.NativeEndian.Uint64(raw[offset:]) }
	sum := fnv.New64a()
	_, _ = sum.Write(raw[:headSize-8])
	good = binary.NativeEndian.Uint32(raw) == headMark && at(headSize-8) == sum.Sum64()
	return head{root: at(16), free: at(32), pages: at(40), tx: at(48)}, good
}

// mendHead is the head that one bit keeps from being read, if that is so.
func mendHead(raw []byte) (h head, lacked bool) {
	for bit := range headSize * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		if h, good := parseHead(raw); good {
			return h, true
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
	return head{}, false
}

// own gives pages to somebody.
func (l *layout) own(first, count uint64) error {
	total := uint64(len(l.owned))
	if first >= total || count > total-first {
		return fmt.Errorf("page %d is behind the end, or what belongs to it", first)
	}
	for number := first; number < first+count; number++ {
		if l.owned[number] {
			return fmt.Errorf("page %d has two places", number)
		}
		l.owned[number] = true
	}
	return nil
}

// page is a page that is in one place.
func (l *layout) page(number uint64) ([]byte, error) {
	if number >= uint64(len(l.owned)) {
		return nil, fmt.Errorf("page %d is behind the end", number)
	}
	header, err := l.read(number*l.size, headerSize)
	if err != nil {
		return nil, err
	}
	if got := binary.NativeEndian.Uint64(header); got != number {
		return nil, fmt.Errorf("page %d says it is %d", number, got)
	}
	count := 1 + uint64(binary.NativeEndian.Uint32(header[12:]))
	if err := l.own(number, count); err != nil {
		return nil, err
	}
	return l.read(number*l.size, count*l.size)
}

// read is what is in the file. What the disk does not give is damaged, as it is where it shows in the memory map.
func (l *layout) read(from, count uint64) ([]byte, error) {
	raw := make([]byte, count)
	if _, err := l.file.ReadAt(raw, int64(from)); err != nil { //nolint:gosec // Within the file.
		return nil, fmt.Errorf("%d bytes at %d cannot be read: %v", count, from, err) //nolint:errorlint // It is no error of opening it.
	}
	return raw, nil
}

// free reads the list of free pages.
func (l *layout) free(number uint64) error {
	raw, err := l.page(number)
	if err != nil {
		return fmt.Errorf("the list of free pages: %w", err)
	}
	count, ids := uint64(binary.NativeEndian.Uint16(raw[10:])), raw[headerSize:]
	if count == manyFree {
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if kind := binary.NativeEndian.Uint16(raw[8:]); kind != kindFree || count > uint64(len(ids)/8) {
		return fmt.Errorf("the list of free pages is none, or %d are too many", count)
	}
	for before := uint64(0); count > 0; count, ids = count-1, ids[8:] {
		id := binary.NativeEndian.Uint64(ids)
		if id <= before {
			return fmt.Errorf("the list of free pages: %d follows %d", id, before)
		}
		if err := l.own(id, 1); err != nil {
			return fmt.Errorf("the list of free pages: %w", err)
		}
		before = id
	}
	return nil
}

// tree walks over a page of a bucket and what is below it. Its first key is the one by which it is found, if it is below another, and
// its keys are before limit, if there is one.
func (l *layout) tree(number uint64, first, limit []byte) error {
	raw, err := l.page(number)
	if err != nil {
		return err
	}
	all, _, err := elementsOf(raw)
	if err == nil {
		err = inOrder(all, first, limit)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", number, err)
	}
	if binary.NativeEndian.Uint16(raw[8:]) == kindLeaf {
		return l.buckets(all)
	}
	if len(all) == 0 {
		return fmt.Errorf("page %d leads nowhere", number)
	}
	for i := range all {
		next := limit
		if i+1 < len(all) {
			next = all[i+1].key
		}
		if err := l.tree(all[i].page, all[i].key, next); err != nil {
			return err
		}
	}
	return nil
}

// buckets walks over those of the elements of a leaf that are buckets.
func (l *layout) buckets(all []element) error {
	for i := range all {
		if !all[i].bucket {
			continue
		}
		if err := l.bucket(all[i].value); err != nil {
			return fmt.Errorf("bucket %q: %w", short(all[i].key), err)
		}
	}
	return nil
}

func (l *layout) bucket(value []byte) error {
	if len(value) < bucketSize {
		return errors.New("it is too short")
	}
	root, within := binary.NativeEndian.Uint64(value), value[bucketSize:]
	if root != 0 {
		if len(within) != 0 {
			return errors.New("it is too long")
		}
		return l.tree(root, nil, nil)
	}
	if len(within) < headerSize || binary.NativeEndian.Uint64(within) != 0 ||
		binary.NativeEndian.Uint16(within[8:]) != kindLeaf || binary.NativeEndian.Uint32(within[12:]) != 0 {
		return errors.New("its page is none")
	}
	all, end, err := elementsOf(within)
	switch {
	case err != nil:
		return err
	case end != uint64(len(within)):
		return errors.New("its page has no end, or another")
	}
	if slices.ContainsFunc(all, func(e element) bool { return e.bucket }) {
		return errors.New("a bucket is within the page of another")
	}
	return inOrder(all, nil, nil)
}

// element is one of a branch, which has a page, or of a leaf.
type element struct {
	key, value []byte
	page       uint64
	bucket     bool
}

// elementsOf are the elements of a page, of which the keys and values follow each other without gaps, and where the last ends.
func elementsOf(raw []byte) (all []element, end uint64, err error) {
	kind, count := binary.NativeEndian.Uint16(raw[8:]), uint64(binary.NativeEndian.Uint16(raw[10:]))
	end = headerSize + count*elementSize
	if kind != kindBranch && kind != kindLeaf || end > uint64(len(raw)) {
		return nil, 0, errors.New("it is of no kind, or has too many elements")
	}
	// Behind the last element of a page nothing is, and of one that has none nothing is anywhere.
	if count == 0 && slices.ContainsFunc(raw[end:min(len(raw), headerSize+elementSize)], func(b byte) bool { return b != 0 }) {
		return nil, 0, errors.New("it has elements, and does not say so")
	}
	all = make([]element, count)
	for i := range count {
		at := headerSize + i*elementSize
		own := raw[at : at+elementSize]
		field := func(n int) uint64 { return uint64(binary.NativeEndian.Uint32(own[4*n:])) }
		e, key, value, place := &all[i], field(1), uint64(0), field(0)
		if kind == kindBranch {
			e.page = binary.NativeEndian.Uint64(own[8:])
		} else {
			e.bucket = field(0) == 1
			place, key, value = field(1), field(2), field(3)
		}
		if kind == kindLeaf && field(0) > 1 || at+place != end || key == 0 || end+key+value > uint64(len(raw)) {
			return nil, 0, fmt.Errorf("element %d is not where it belongs", i)
		}
		e.key, e.value = raw[end:end+key], raw[end+key:end+key+value]
		end += key + value
	}
	return all, end, nil
}

// inOrder is nil if the keys of a page are in order, and where they are looked for.
func inOrder(all []element, first, limit []byte) error {
	for i := range all {
		switch key := all[i].key; {
		case i == 0 && first != nil && !bytes.Equal(first, key):
			return fmt.Errorf("it begins with %q, and is looked for as %q", short(key), short(first))
		case i > 0 && bytes.Compare(all[i-1].key, key) >= 0:
			return fmt.Errorf("%q follows %q", short(key), short(all[i-1].key))
		case limit != nil && bytes.Compare(key, limit) >= 0:
			return fmt.Errorf("%q is not looked for behind %q", short(key), short(limit))
		}
	}
	if first != nil && len(all) == 0 {
		return errors.New("it is empty")
	}
	return nil
}

// absent is nil if there is nothing under key in b, which has not found it: bbolt looks for it by the keys of branches, and
// between its neighbours it would be if those were right.
func absent(b *bolt.Bucket, key []byte) error {
	c := b.Cursor()
	if next, _ := c.Seek(key); next != nil && bytes.Compare(next, key) <= 0 {
		return fmt.Errorf("it is damaged: %q is looked for before %q", short(key), short(next))
	}
	if before, _ := c.Prev(); before != nil && bytes.Compare(before, key) >= 0 {
		return fmt.Errorf("it is damaged: %q is looked for behind %q", short(key), short(before))
	}
	return nil
}
