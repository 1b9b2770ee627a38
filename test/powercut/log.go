package powercut

import (
	"time"
)

// kind is what an operation does.
type kind int

const (
	// opNames changes names in directories, all of them or none; it may make what one
	// of them is for.
	opNames kind = iota
	// opAttributes changes mode, owner, times or extended attributes.
	opAttributes
	// opResize changes the length of a file.
	opResize
	// opWrite writes to a file.
	opWrite
	// opSync returned when a file or a directory was on the disk.
	opSync
)

// slot is a name in a directory, and what is to be there; zero is nothing.
type slot struct {
	dir    number
	name   string
	number number
}

// operation is one that the kernel asked for and that was done.
type operation struct {
	kind   kind
	at     time.Time
	number number
	slots  []slot
	born   *node
	change *attributes
	// offset is where was written, or the new length.
	offset int64
	data   []byte
	// dataOnly is that only what is needed to read the data was synced.
	dataOnly bool
}

// attributes are those that an operation changes.
type attributes struct {
	mode, uid, gid *uint32
	access, modify *time.Time
	extended       map[string][]byte
}

// apply changes what is to be changed of n. An extended attribute that is nil goes.
func (c *attributes) apply(n *node, at time.Time) {
	for _, v := range []struct{ to, from *uint32 }{{&n.uid, c.uid}, {&n.gid, c.gid}} {
		if v.from != nil {
			*v.to = *v.from
		}
	}
	for _, v := range []struct{ to, from *time.Time }{{&n.access, c.access}, {&n.modify, c.modify}} {
		if v.from != nil {
			*v.to = *v.from
		}
	}
	if c.mode != nil {
		n.mode = n.mode&^permissions | *c.mode&permissions
	}
	for name, value := range c.extended {
		switch {
		case value == nil:
			delete(n.attributes, name)
		case n.attributes == nil:
			n.attributes = map[string][]byte{name: value}
		default:
			n.attributes[name] = value
		}
	}
	n.alter = at
}

// permissions are the bits of a mode that can be changed.
const permissions = 0o7777

// Log is what was done to a disk, in order.
type Log struct {
	cfg  Config
	base map[number]*node
	all  []operation
}

// Len is how many operations there are.
func (l *Log) Len() int { return len(l.all) }

// Syncs are the numbers of the operations that waited for the disk.
func (l *Log) Syncs() []int {
	var syncs []int
	for i := range l.all {
		if l.all[i].kind == opSync {
			syncs = append(syncs, i)
		}
	}
	return syncs
}
