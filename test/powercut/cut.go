package powercut

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Model is what a file system promises about what was not waited for.
type Model int

const (
	// Ordered is a file system with a journal of metadata, such as ext4 with data=ordered
	// and without auto_da_alloc: names, attributes and truncations reach the disk in the
	// order in which they were done, each sync brings them there up to the last one that
	// concerned what was synced. Contents come whenever they like, page by page, and the
	// length of a file with them: one that was renamed unsynced may be empty.
	Ordered Model = iota
	// Posix is what the standard leaves: each change of a name is whole or absent, and those
	// of different names, also in one directory, come in any order until their directory is
	// synced. The sync of a file says nothing of its name. Attributes come in any order, and a file
	// may have its new length and zeros.
	Posix
)

// String is the name of a model.
func (m Model) String() string {
	if m == Posix {
		return "posix"
	}
	return "ordered"
}

// Landed is what of the operations that nothing had waited for is on the disk.
type Landed int

const (
	// Nothing of them is.
	Nothing Landed = iota
	// All of them are.
	All
	// Names are, and attributes and truncations; contents are not.
	Names
	// Contents are, of files that have a name; the rest is not.
	Contents
	// Any of them are, drawn by the seed of the cut.
	Any
)

// String is the name of what has landed.
func (l Landed) String() string {
	return [...]string{"nothing", "all", "names", "contents", "any"}[l]
}

// Cut is one state that a power cut may leave.
type Cut struct {
	// Before is how many operations had been done.
	Before int
	Model  Model
	Landed Landed
	Seed   uint64
}

// String names a cut so that it can be found again.
func (c Cut) String() string {
	return fmt.Sprintf("cut=%d/%s/%s/%d", c.Before, c.Model, c.Landed, c.Seed)
}

const (
	page   = 4096
	sector = 512
)

// Cut is the disk as a power cut leaves it.
func (l *Log) Cut(c Cut) *Disk {
	d := &draw{Cut: c, log: l.all[:min(c.Before, len(l.all))], rand: rand.New(rand.NewPCG(c.Seed, uint64(c.Before)))} //nolint:gosec // Not negative, and no secret.
	d.survey()
	d.choose()
	disk := from(l.cfg, l.base, slices.Max(slices.Collect(maps.Keys(l.base))))
	for i := range d.log {
		d.land(disk, i)
	}
	disk.forget()
	return from(l.cfg, disk.nodes, disk.last)
}

// draw is a cut that is being made.
type draw struct {
	Cut

	log  []operation
	rand *rand.Rand
	// durable are the operations that were waited for: all of them, and for writes those
	// that a later sync of the file has reached.
	durable []bool
	// in are the operations on names, attributes and lengths that have landed.
	in []bool
	// pages are, for the pages of files, up to which operation their writes have landed.
	pages map[place]int
	// stopped are the files a truncation of which has not landed: nor did what came after.
	stopped map[number]bool
}

// place is a page, or a sector, of a file.
type place struct {
	file   number
	offset int64
	size   int
}

// survey finds what was waited for.
func (d *draw) survey() {
	d.durable = make([]bool, len(d.log))
	synced := map[number][2]int{} // The last sync of each: of all, of the data.
	for i := range d.log {
		if o := &d.log[i]; o.kind == opSync {
			at := synced[o.number]
			if !o.dataOnly {
				at[0] = i
			}
			at[1] = i
			synced[o.number] = at
		}
	}
	for i := range d.log {
		switch o := &d.log[i]; o.kind {
		case opNames:
			d.durable[i] = slices.ContainsFunc(o.slots, func(s slot) bool { return synced[s.dir][0] > i })
		case opAttributes:
			d.durable[i] = synced[o.number][0] > i
		case opResize, opWrite:
			d.durable[i] = synced[o.number][1] > i
		case opSync:
		}
	}
	if d.Model == Ordered {
		d.surveyJournal()
	}
}

// surveyJournal adds what a journal promises: each sync has brought everything there up to
// the last operation that concerned what was synced.
func (d *draw) surveyJournal() {
	committed := 0
	last := map[number][2]int{} // After the last operation on each: on all, on what the data needs.
	for i := range d.log {
		o := &d.log[i]
		switch o.kind {
		case opNames:
			for _, s := range o.slots {
				last[s.dir] = [2]int{i + 1, i + 1}
			}
			at := last[o.number]
			at[0] = i + 1
			if o.born != nil {
				at[1] = i + 1
			}
			last[o.number] = at
		case opAttributes:
			last[o.number] = [2]int{i + 1, last[o.number][1]}
		case opResize, opWrite:
			last[o.number] = [2]int{i + 1, i + 1}
		case opSync:
			which := 0
			if o.dataOnly {
				which = 1
			}
			committed = max(committed, last[o.number][which])
		}
	}
	for i := range d.log[:committed] {
		if d.log[i].kind != opWrite {
			d.durable[i] = true
		}
	}
}

// choose decides what has landed of names, attributes and lengths.
func (d *draw) choose() {
	d.in = slices.Clone(d.durable)
	d.pages, d.stopped = map[place]int{}, map[number]bool{}
	if d.Model == Ordered {
		d.chooseInOrder()
		return
	}
	for i := range d.log {
		d.in[i] = d.in[i] || d.landed(false)
	}
	d.close()
}

// landed draws whether something has landed that nothing promises.
func (d *draw) landed(contents bool) bool {
	switch d.Landed {
	case All:
		return true
	case Names:
		return !contents
	case Contents:
		return contents
	case Any:
		return d.rand.IntN(2) == 0
	case Nothing:
	}
	return false
}

func (d *draw) chooseInOrder() {
	first := len(d.log)
	for first > 0 && (d.log[first-1].kind == opWrite || !d.durable[first-1]) {
		first--
	}
	end := first
	switch d.Landed {
	case All, Names:
		end = len(d.log)
	case Any:
		end += d.rand.IntN(len(d.log) - first + 1)
	case Nothing, Contents:
	}
	for i := range d.log {
		d.in[i] = d.in[i] || i < end
	}
}

// close makes what has landed possible: what was done to a name before what has landed of
// it was there before it, unless that was taken back.
func (d *draw) close() {
	type name struct {
		dir  number
		name string
	}
	needed := map[name]bool{}
	for i := len(d.log) - 1; i >= 0; i-- {
		o := &d.log[i]
		if o.kind != opNames {
			continue
		}
		d.in[i] = d.in[i] || slices.ContainsFunc(o.slots, func(s slot) bool { return needed[name{s.dir, s.name}] })
		if d.in[i] {
			for _, s := range o.slots {
				needed[name{s.dir, s.name}] = true
			}
		}
	}
}

// land does what has landed of operation i.
func (d *draw) land(disk *Disk, i int) {
	o := &d.log[i]
	switch o.kind {
	case opNames:
		if d.in[i] {
			disk.apply(o)
		} else if o.born != nil { // Another name may lead to it.
			disk.apply(&operation{kind: opNames, born: o.born})
		}
	case opAttributes:
		if d.in[i] {
			disk.apply(o)
		}
	case opResize:
		switch {
		case d.stopped[o.number]:
		case d.in[i]:
			disk.apply(o)
		default:
			d.stopped[o.number] = true
		}
	case opWrite:
		d.landWrite(disk, i)
	case opSync:
	}
}

func (d *draw) landWrite(disk *Disk, i int) {
	o := &d.log[i]
	switch {
	case d.durable[i]:
		disk.apply(o)
		return
	case d.stopped[o.number]:
		return
	case d.Landed != Any:
		if d.landed(true) {
			disk.apply(o)
		}
		return
	}
	n := disk.nodes[o.number]
	end := o.offset + int64(len(o.data))
	if d.Model == Posix && end > int64(len(n.data)) && d.rand.IntN(4) == 0 {
		n.resize(end)
	}
	for at := o.offset; at < end; {
		next := min((at/page+1)*page, end)
		d.landPage(n, o, i, at, next)
		at = next
	}
}

// landPage lands what a write has for a page: a page lands with all that was written to it until
// some moment, and seldom only sectors of it do.
func (d *draw) landPage(n *node, o *operation, i int, from, to int64) {
	until := d.until(place{n.number, from / page, page})
	if until != torn {
		if i < until {
			n.write(o.data[from-o.offset:to-o.offset], from)
		}
		return
	}
	for at := from; at < to; {
		next := min((at/sector+1)*sector, to)
		if i < d.until(place{n.number, at / sector, sector}) {
			n.write(o.data[at-o.offset:next-o.offset], at)
		}
		at = next
	}
}

// torn is that a page has landed in parts.
const torn = -1

// until draws up to which operation the writes to a place have landed.
func (d *draw) until(p place) int {
	if until, drawn := d.pages[p]; drawn {
		return until
	}
	until := 0
	switch chance := d.rand.IntN(16); {
	case chance < 5:
	case chance < 10:
		until = len(d.log)
	case chance < 14 || p.size == sector:
		until = d.rand.IntN(len(d.log) + 1)
	default:
		until = torn
	}
	d.pages[p] = until
	return until
}

// forget drops what no name leads to.
func (d *Disk) forget() {
	reached := map[number]*node{}
	var visit func(n number)
	visit = func(n number) {
		if reached[n] != nil {
			return
		}
		reached[n] = d.nodes[n]
		for _, below := range d.nodes[n].names {
			visit(below)
		}
	}
	visit(top)
	d.nodes = reached
	for _, n := range d.nodes {
		n.links = 0
	}
	d.nodes[top].links = 1
	for _, n := range d.nodes {
		for _, below := range n.names {
			d.nodes[below].links++
		}
	}
}

// Digest is the same for two disks that have the same files, whatever their times, where seed is.
func (d *Disk) Digest(seed maphash.Seed) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var h maphash.Hash
	h.SetSeed(seed)
	var visit func(path string, n *node)
	visit = func(path string, n *node) {
		_, _ = fmt.Fprintf(&h, "%s\x00%o %d %d %d %d %q %v\x00", path, n.mode, n.uid, n.gid, n.number, len(n.data), n.target, n.attributes)
		_, _ = h.Write(n.data) // A hash takes everything.
		for _, name := range slices.SortedFunc(maps.Keys(n.names), cmp.Compare) {
			if below := d.nodes[n.names[name]]; !below.volatile {
				visit(path+"/"+name, below)
			}
		}
	}
	visit("", d.nodes[top])
	return h.Sum64()
}

// Differences are the paths at which two disks have other contents, or only one has any.
func (d *Disk) Differences(other *Disk) []string {
	a, b := d.Files(""), other.Files("")
	var paths []string
	for path, text := range a {
		if there, found := b[path]; !found || there != text {
			paths = append(paths, path)
		}
	}
	for path := range b {
		if _, found := a[path]; !found {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// Files are what there is below a directory and not in memory, by path: what it is, and what is in it.
func (d *Disk) Files(path string) map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := map[string]string{}
	var visit func(path string, n *node)
	visit = func(path string, n *node) {
		if n.volatile {
			return
		}
		switch n.mode & unix.S_IFMT {
		case unix.S_IFREG:
			files[path] = "file " + string(n.data)
		case unix.S_IFLNK:
			files[path] = "link " + n.target
		case unix.S_IFDIR:
			files[path] = "directory"
		default:
			files[path] = "special"
		}
		for name, below := range n.names {
			visit(strings.TrimPrefix(path+"/"+name, "/"), d.nodes[below])
		}
	}
	if n := d.find(path); n != nil {
		visit(path, n)
	}
	return files
}
