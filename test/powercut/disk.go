package powercut

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// number names a file or directory as long as the disk exists; none is given twice.
type number uint64

// top is the directory that the disk is mounted with.
const top number = 1

// node is a file, a directory or anything else that has a name.
type node struct {
	number                number
	mode                  uint32
	uid, gid, device      uint32
	access, modify, alter time.Time
	links                 int
	// target is that of a link.
	target string
	// data is the contents of a file.
	data []byte
	// names are those in a directory.
	names map[string]number
	// attributes are the extended ones.
	attributes map[string][]byte
	// volatile is that it lies in memory: its changes are not recorded, and it is gone
	// after a cut.
	volatile bool
}

func (n *node) is(kind uint32) bool { return n.mode&unix.S_IFMT == kind }

func (n *node) clone() *node {
	c := *n
	c.data, c.names, c.attributes = slices.Clone(n.data), maps.Clone(n.names), maps.Clone(n.attributes)
	return &c
}

// resize makes a file as long as it is to be; what is new of it is zero.
func (n *node) resize(size int64) {
	if grown := size - int64(len(n.data)); grown > 0 {
		n.data = append(n.data, make([]byte, grown)...)
		return
	}
	n.data = n.data[:size]
}

func (n *node) write(data []byte, offset int64) {
	if end := offset + int64(len(data)); end > int64(len(n.data)) {
		n.resize(end)
	}
	copy(n.data[offset:], data)
}

// Config says what a Disk is to be like.
type Config struct {
	// Volatile are names in its uppermost directory that lie in memory.
	Volatile []string
}

// Disk is a file system in memory that records what is done to it.
type Disk struct {
	cfg Config

	mu    sync.Mutex
	nodes map[number]*node
	last  number
	// base is what there was before the first operation of log.
	base map[number]*node
	log  []operation
	// trouble is what is still to come of that, and refused what has.
	trouble Trouble
	refused int
}

// Trouble is that a disk cannot do what it is asked for.
type Trouble struct {
	// After is how many operations it does before.
	After int
	// Times is how many it then refuses, one after another.
	Times int
	// Error is what it says.
	Error syscall.Errno
}

// String is for the names of tests.
func (t Trouble) String() string {
	return fmt.Sprintf("%d times %q after %d", t.Times, t.Error, t.After)
}

// Break has the disk be in trouble. What lies in memory works.
func (d *Disk) Break(t Trouble) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trouble, d.refused = t, 0
}

// Mend has the disk do again all that it is asked for, and is how much it has refused.
func (d *Disk) Mend() (refused int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trouble = Trouble{}
	return d.refused
}

// refuse says why an operation on n, or on a name in it, is not done; zero if it is. The disk is locked.
func (d *Disk) refuse(n *node, name string) syscall.Errno {
	t := &d.trouble
	switch {
	case t.Times == 0, n.volatile, n.number == top && slices.Contains(d.cfg.Volatile, name):
		return 0
	case t.After > 0:
		t.After--
		return 0
	}
	t.Times--
	d.refused++
	return t.Error
}

// New makes an empty disk.
func New(cfg Config) *Disk {
	now := time.Now()
	first := &node{
		number: top, mode: unix.S_IFDIR | 0o755, links: 1, access: now, modify: now, alter: now, names: map[string]number{},
	}
	return from(cfg, map[number]*node{top: first}, top)
}

// from makes a disk of what there is, which stays as it is.
func from(cfg Config, base map[number]*node, last number) *Disk {
	d := &Disk{cfg: cfg, nodes: make(map[number]*node, len(base)), last: last, base: base}
	for number, n := range base {
		d.nodes[number] = n.clone()
	}
	return d
}

// Log is what was done to the disk so far.
func (d *Disk) Log() *Log {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Log{cfg: d.cfg, base: d.base, all: slices.Clone(d.log)}
}

// Done is how many operations were done to the disk so far.
func (d *Disk) Done() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.log)
}

// do carries an operation out, and records it. The disk is locked.
func (d *Disk) do(o operation) {
	d.apply(&o)
	if !d.inMemory(&o) {
		d.log = append(d.log, o)
	}
}

// inMemory reports whether an operation is on what a cut takes as a whole.
func (d *Disk) inMemory(o *operation) bool {
	if len(o.slots) > 0 {
		return d.nodes[o.slots[0].dir].volatile || o.born != nil && o.born.volatile || d.isVolatileTop(o.slots[0])
	}
	return d.nodes[o.number].volatile
}

func (d *Disk) isVolatileTop(s slot) bool {
	return s.dir == top && slices.Contains(d.cfg.Volatile, s.name)
}

// apply carries an operation out.
func (d *Disk) apply(o *operation) {
	switch o.kind {
	case opNames:
		d.applyNames(o)
	case opAttributes:
		o.change.apply(d.nodes[o.number], o.at)
	case opResize:
		n := d.nodes[o.number]
		n.resize(o.offset)
		n.modify, n.alter = o.at, o.at
	case opWrite:
		n := d.nodes[o.number]
		n.write(o.data, o.offset)
		n.modify, n.alter = o.at, o.at
	case opSync:
	}
}

func (d *Disk) applyNames(o *operation) {
	if o.born != nil {
		d.nodes[o.born.number] = o.born.clone()
		d.last = max(d.last, o.born.number)
	}
	for _, s := range o.slots {
		dir := d.nodes[s.dir]
		if was, found := dir.names[s.name]; found {
			d.nodes[was].links--
			delete(dir.names, s.name)
		}
		dir.modify, dir.alter = o.at, o.at
	}
	for _, s := range o.slots {
		if s.number != 0 {
			d.nodes[s.dir].names[s.name] = s.number
			d.nodes[s.number].links++
			d.nodes[s.number].alter = o.at
		}
	}
}

// find is the node at a path below the uppermost directory, or nil; links are not followed.
func (d *Disk) find(path string) *node {
	n := d.nodes[top]
	if path == "" {
		return n
	}
	for name := range strings.SplitSeq(path, "/") {
		below, found := n.names[name]
		if !found {
			return nil
		}
		n = d.nodes[below]
	}
	return n
}

// File is the contents of a file, and whether there is one.
func (d *Disk) File(path string) (data []byte, found bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.find(path)
	if n == nil || !n.is(unix.S_IFREG) {
		return nil, false
	}
	return slices.Clone(n.data), true
}

// Names are those in a directory, sorted.
func (d *Disk) Names(path string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.find(path)
	if n == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(n.names))
}
