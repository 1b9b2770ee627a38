// Package snapdata copies the data directory of one revision of a snap to that
// of the next, in two passes: the first while the services run, the second, in
// the gap in which they do not, only what the first could not have right.
//
// After the second pass the copy is what the source was when the pass read it:
// names, contents, modes, owners, times to the nanosecond, extended attributes
// with ACLs and capabilities, hard links, holes, symlinks, fifos, sockets and
// devices. Nothing outside source and copy is ever read, written or removed,
// whatever the services, which own the source and may own parts of the copy, do
// to the trees meanwhile: every step starts from the descriptor of a directory,
// follows no symlink and crosses no mount point. A directory on which something
// is mounted is copied as an empty one.
//
// Copies of different directories may run side by side. One copy is run by one
// goroutine at a time, and nobody else may change its destination.
package snapdata

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// ErrTooDeep means that a tree has more nested directories than are copied.
var ErrTooDeep = errors.New("directories are nested too deeply")

// Stats count what a pass has done so far.
type Stats struct {
	// Files counts what is not a directory, Dirs the directories.
	Files int `json:"files"`
	Dirs  int `json:"dirs"`
	// Copied are files that were written or rewritten; the others were right.
	Copied int `json:"copied"`
	// Cloned are those of them that share their blocks with the source.
	Cloned int `json:"cloned"`
	// Bytes is what was written or shared, without holes where the system
	// tells them.
	Bytes int64 `json:"bytes"`
	// Removed are names that were in the copy and no longer in the source.
	Removed int `json:"removed"`
}

// Options of a pass. The zero value is ready for use.
type Options struct {
	// Progress, if set, is called now and then by the goroutine that copies.
	Progress func(Stats)
	// Hot finds the files on a device that may change without a sign of it; by default those that any process of this
	// machine has open for writing or mapped.
	Hot func(ctx context.Context, dev uint64) ([]Inode, error)
}

// Pass is what the first pass has to tell the second. It can be stored as
// JSON. What Resume returns knows nothing and makes the second pass compare
// everything; so does whatever makes the knowledge doubtful: another boot, a
// step of the clock, another directory at the path, a file system whose times
// say too little.
type Pass struct {
	Src string `json:"src"`
	Dst string `json:"dst"`
	// Stats are those of the first pass.
	Stats Stats `json:"stats"`
	// Start is when the first pass began, in nanoseconds since the epoch; 0
	// makes everything doubtful.
	Start int64 `json:"start,omitempty"`
	// Boot is the boot in which it ran, Offset the wall clock at boot.
	Boot   string `json:"boot,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	// SrcRoot and DstRoot are the directories that it worked on.
	SrcRoot Inode `json:"src_root"`
	DstRoot Inode `json:"dst_root"`
	// Hot are the files that some process could write to without the kernel
	// noting a time, in order.
	Hot []Inode `json:"hot,omitempty"`
	// Dirs are eight bytes for each directory, of a digest of its inode and
	// path, in order: what is in a directory that was renamed proves nothing.
	Dirs []byte `json:"dirs,omitempty"`
}

// Inode names a file as long as it exists.
type Inode struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

func (i Inode) compare(other Inode) int {
	return cmp.Or(cmp.Compare(i.Dev, other.Dev), cmp.Compare(i.Ino, other.Ino))
}

func inodeOf(st *unix.Stat_t) Inode { return Inode{st.Dev, st.Ino} }

// First makes dst, which must not exist, a copy of the directory src, while
// src may be in use. What it cannot have right is left to Second. If it fails,
// or its context ends, dst is incomplete and can be removed with Remove.
func First(ctx context.Context, src, dst string, opts Options) (*Pass, error) {
	p := &Pass{Src: src, Dst: dst}
	if err := p.first(ctx, opts); err != nil {
		return nil, fmt.Errorf("copy %s to %s: %w", src, dst, err)
	}
	return p, nil
}

// Resume returns the Pass for a copy whose own is lost. The first pass may have
// ended anywhere.
func Resume(src, dst string) *Pass { return &Pass{Src: src, Dst: dst} }

// Second makes the copy equal to the source, and what it changes in it durable: who is
// started on the copy builds on all of it from the first moment on. It can be repeated, also
// after it was interrupted. Unless something still writes to the source it leaves no
// difference.
func (p *Pass) Second(ctx context.Context, opts Options) (Stats, error) {
	stats, err := p.second(ctx, opts)
	if err != nil {
		return stats, fmt.Errorf("update the copy %s of %s: %w", p.Dst, p.Src, err)
	}
	return stats, nil
}

func (p *Pass) first(ctx context.Context, opts Options) error {
	src, err := openRoot(p.Src)
	if err != nil {
		return err
	}
	defer src.close()
	if err := os.Mkdir(p.Dst, 0o700); err != nil {
		return err
	}
	dst, err := openRoot(p.Dst)
	if err != nil {
		return err
	}
	defer dst.close()
	// The clocks are read before the open files: what is opened in between is
	// changed after the start and betrayed by its times. The open files are read
	// before any is copied: what is closed until then is copied as it was left.
	clocks, err := readClocks()
	if err != nil {
		return err
	}
	find := findHot
	if opts.Hot != nil {
		find = opts.Hot
	}
	var hot []Inode
	r := newRun(opts, dst.fd)
	r.dirs = map[uint64]bool{}
	r.beforeData = func() (err error) {
		hot, err = find(ctx, src.st.Dev)
		return err
	}
	if err := r.tree(ctx, src, dst); err != nil {
		return err
	}
	p.Stats, p.Start, p.Boot, p.Offset = r.stats, clocks.now, clocks.boot, clocks.offset
	p.SrcRoot, p.DstRoot = inodeOf(&src.st), inodeOf(&dst.st)
	p.Hot, p.Dirs = hot, packDirs(r.dirs)
	return nil
}

func (p *Pass) second(ctx context.Context, opts Options) (Stats, error) {
	src, err := openRoot(p.Src)
	if err != nil {
		return Stats{}, err
	}
	defer src.close()
	made := os.Mkdir(p.Dst, 0o700)
	if made != nil && !os.IsExist(made) {
		return Stats{}, made
	}
	dst, err := openRoot(p.Dst)
	if err != nil {
		return Stats{}, err
	}
	defer dst.close()
	r := newRun(opts, dst.fd)
	defer r.unsynced.forget()
	err = p.update(ctx, r, src, dst)
	if err == nil {
		err = r.unsynced.sync(dst.fd)
	}
	if err == nil && made == nil {
		err = syncDir(filepath.Dir(p.Dst))
	}
	return r.stats, err
}

// update is the second pass without its wait for the disk.
func (p *Pass) update(ctx context.Context, r *run, src, dst *root) (err error) {
	r.update = true
	if r.known, err = p.knowledge(src, dst); err != nil {
		return err
	}
	return r.tree(ctx, src, dst)
}

// knowledge is a Pass as the second pass uses it: there may be a hundred thousand
// directories and open files, and the gap has no time to make a map of them.
type knowledge struct {
	dev uint64
	// before is the time before which a change was seen by the first pass; 0
	// if that cannot be said of any time.
	before int64
	hot    []Inode
	dirs   []byte
}

// slack is how far a time that the kernel notes may lie behind the clock: one
// tick of the slowest kernels, twice.
const slack = int64(20 * time.Millisecond)

func (p *Pass) knowledge(src, dst *root) (knowledge, error) {
	clocks, err := readClocks()
	if err != nil {
		return knowledge{}, err
	}
	timed, err := keepsTimes(src.fd)
	if err != nil {
		return knowledge{}, err
	}
	step := clocks.offset - p.Offset
	if p.Start == 0 || !timed || clocks.boot != p.Boot || step < -slack || step > slack ||
		p.SrcRoot != inodeOf(&src.st) || p.DstRoot != inodeOf(&dst.st) {
		return knowledge{}, nil
	}
	return knowledge{dev: src.st.Dev, before: p.Start - slack, hot: p.Hot, dirs: p.Dirs}, nil
}

// trusts tells whether the copy of a file, in a directory that is where it was,
// is right if it looks right.
func (k *knowledge) trusts(st *unix.Stat_t) bool {
	changed := st.Ctim.Nano()
	if st.Ctim.Nsec == 0 {
		// Possibly a file system that counts in seconds.
		changed += int64(time.Second)
	}
	if st.Dev != k.dev || changed >= k.before {
		return false
	}
	_, hot := slices.BinarySearchFunc(k.hot, inodeOf(st), Inode.compare)
	return !hot
}

func (k *knowledge) inPlace(st *unix.Stat_t, path string) bool {
	return k.before != 0 && hasDir(k.dirs, dirKey(st, path))
}

func dirKey(st *unix.Stat_t, path string) uint64 {
	h := fnv.New64a()
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], st.Dev)
	binary.LittleEndian.PutUint64(b[8:], st.Ino)
	_, _ = h.Write(b[:])
	_, _ = h.Write([]byte(path))
	return h.Sum64()
}

func packDirs(dirs map[uint64]bool) []byte {
	b := make([]byte, 0, 8*len(dirs))
	for _, key := range slices.Sorted(maps.Keys(dirs)) {
		b = binary.LittleEndian.AppendUint64(b, key)
	}
	return b
}

// hasDir looks a key up in what packDirs made.
func hasDir(packed []byte, key uint64) bool {
	_, found := sort.Find(len(packed)/8, func(i int) int {
		return cmp.Compare(key, binary.LittleEndian.Uint64(packed[8*i:]))
	})
	return found
}
