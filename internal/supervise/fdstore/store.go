package fdstore

import (
	"fmt"
	"slices"

	"tenure"
)

// maxItems bounds how many descriptors are kept: below what one process may have open, with
// room for as many logs.
const maxItems = 8192

// What services have stored leaves room for the sockets of all, and that of the services of one
// snap for those of others.
const maxStored, maxStoredOfSnap = 6144, 1024

// keptItem is an item with its descriptor.
type keptItem struct {
	Item
	fd descriptor
}

// store is the set of kept descriptors, in the order in which they were put.
type store struct{ items []keptItem }

// put takes over fd, also when it fails.
func (s *store) put(item Item, fd descriptor) error {
	if err := item.check(); err != nil {
		fd.close()
		return err
	}
	for i, k := range s.items {
		if k.Item != item {
			continue
		}
		if item.Kind != Stored {
			k.fd.close()
			s.items[i].fd = fd
			return nil
		}
		if k.fd.same(fd) {
			fd.close() // It is not the last of that file.
			return nil
		}
	}
	if limit, room := s.room(item); !room {
		item.end(fd)
		return fmt.Errorf("keep %s of %s: %w (%d)", item.Name, item.Unit, ErrFull, limit)
	}
	s.items = append(s.items, keptItem{Item: item, fd: fd})
	return nil
}

// room reports whether there is any for another item, and the limit that there is.
func (s *store) room(item Item) (limit int, room bool) {
	if len(s.items) >= maxItems {
		return maxItems, false
	}
	if item.Kind != Stored {
		return 0, true
	}
	all, own := 0, 0
	for _, k := range s.items {
		if k.Kind == Stored {
			all++
			if k.Unit.Snap == item.Unit.Snap {
				own++
			}
		}
	}
	if own >= maxStoredOfSnap {
		return maxStoredOfSnap, false
	}
	return maxStored, all < maxStored
}

// end gives back the descriptor of an item.
func (i Item) end(fd descriptor) {
	if i.Kind == Stored {
		fd.drop()
		return
	}
	fd.close()
}

// remove closes the descriptors of a unit that have one of names, or all of the kind when
// no name is given, or all of the unit when no kind is given either.
func (s *store) remove(unit tenure.UnitID, kind Kind, names []string) {
	s.items = slices.DeleteFunc(s.items, func(k keptItem) bool {
		doomed := k.Unit == unit && (kind == "" || k.Kind == kind) && (len(names) == 0 || slices.Contains(names, k.Name))
		if doomed {
			k.end(k.fd)
		}
		return doomed
	})
}

// close closes everything.
func (s *store) close() {
	for _, k := range s.items {
		k.end(k.fd)
	}
	s.items = nil
}
