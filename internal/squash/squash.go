// Package squash takes bytes out of a snap file that nobody trusts yet, in a
// limited, unprivileged child, and builds snap files.
//
// No byte of a snap file beyond its 96-byte superblock is ever interpreted in
// this process: the superblock is checked by [CheckSuperblock], everything else
// is read by an unsquashfs that has no rights, an empty network, no way to reach
// other processes, and limits on memory, time and output. What it prints is untrusted
// as well, and is parsed as such.
//
// A Reader holds no state but a thread that starts its children, and their number: any number of its methods may run at the same time,
// also on one file. Build may run beside anything, but not twice for one output.
package squash

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"
)

// The kinds of errors about a snap file. Everything that is the file's own
// fault is one of them; any other error is the machine's.
var (
	// ErrNotSquashfs means that the file is not a squashfs image that can be
	// mounted: wrong kind of file, magic, version, or a damaged superblock.
	ErrNotSquashfs = errors.New("not a snap file")
	// ErrCorrupt means that reading the image failed, or hit a limit that no
	// sound image comes near.
	ErrCorrupt = errors.New("damaged snap file")
	// ErrNotFound means that the image is readable and lacks the file.
	ErrNotFound = errors.New("no such file in the snap")
	// ErrTooBig means that a file inside, or the list of files, exceeds the
	// limit that the caller set.
	ErrTooBig = errors.New("too big")
	// ErrForbidden means that the image contains what no snap may contain.
	ErrForbidden = errors.New("not allowed in a snap")
)

// Config sets where the tools are and what a child may use. The zero value is
// ready for use.
type Config struct {
	// Unsquashfs and Prlimit are the programs to run, by default found in
	// /usr/bin and /bin.
	Unsquashfs, Prlimit string
	// UID and GID are what a child runs as that unpacks, and every one where there are no others: one that only
	// reads has numbers that are nobody else's. Zero means 65534.
	UID, GID uint32
	// Memory is the child's address space in bytes, by default 256 MiB.
	Memory int64
	// Time is how long one child may run, by default 30 seconds; its CPU time
	// has the same limit.
	Time time.Duration
	// Entries bounds how many files a snap may have, by default 400,000.
	Entries int
	// ListBytes bounds the listing of a snap, by default 64 MiB.
	ListBytes int64
	// Scratch is a directory for copies of files that the child may not read
	// otherwise. By default it is the directory of the file itself.
	Scratch string
}

const nobody = 65534

func (c Config) withDefaults() Config {
	c.Unsquashfs = cmp.Or(c.Unsquashfs, "/usr/bin/unsquashfs")
	c.Prlimit = cmp.Or(c.Prlimit, "/usr/bin/prlimit")
	c.UID = cmp.Or(c.UID, nobody)
	c.GID = cmp.Or(c.GID, nobody)
	c.Memory = cmp.Or(c.Memory, 256<<20)
	c.Time = cmp.Or(c.Time, 30*time.Second)
	c.Entries = cmp.Or(c.Entries, 400_000)
	c.ListBytes = cmp.Or(c.ListBytes, 64<<20)
	return c
}

// Reader reads snap files that nobody trusts.
type Reader struct {
	cfg     Config
	starter starter
	// children counts them, from anywhere.
	children atomic.Uint32
}

// Open returns a Reader.
func Open(cfg Config) *Reader {
	r := &Reader{cfg: cfg.withDefaults()}
	r.children.Store(rand.Uint32()) //nolint:gosec // Where others begin is likely to be elsewhere.
	return r
}

// ReadFile returns the regular file inner ("meta/snap.yaml") of a snap file, or
// ErrTooBig if it has more than limit bytes. A symlink inside the image is
// followed inside the image; List and Check tell whether it is one.
func (r *Reader) ReadFile(ctx context.Context, snapPath, inner string, limit int64) ([]byte, error) {
	if !fs.ValidPath(inner) || inner == "." || strings.ContainsAny(inner, `*?[]\`) || hasControl(inner) {
		return nil, fmt.Errorf("read %q of snap file %s: %w: not a plain path", inner, snapPath, ErrNotFound)
	}
	var out []byte
	err := r.run(ctx, snapPath, limits{output: limit, memory: r.cfg.Memory}, func(b []byte) error {
		out = append(out, b...)
		return nil
	}, "-no-wildcards", "-cat", imageArg, inner)
	if err != nil {
		return nil, fmt.Errorf("read %s of snap file %s: %w", inner, snapPath, err)
	}
	return out, nil
}

// List returns everything in a snap file, the root directory first, in the
// order of the image, which is sorted within each directory.
func (r *Reader) List(ctx context.Context, snapPath string) ([]Entry, error) {
	p := listParser{limit: r.cfg.Entries}
	err := r.run(ctx, snapPath, limits{output: r.cfg.ListBytes, memory: r.cfg.Memory}, p.write,
		"-UTC", "-lln", imageArg)
	if err == nil {
		err = p.close()
	}
	if err != nil {
		return nil, fmt.Errorf("list snap file %s: %w", snapPath, err)
	}
	return p.entries, nil
}

// Superblock returns the checked superblock of a snap file, without a child.
func (r *Reader) Superblock(snapPath string) (Superblock, error) {
	f, sb, err := r.open(snapPath)
	if err != nil {
		return Superblock{}, fmt.Errorf("open snap file %s: %w", snapPath, err)
	}
	return sb, f.Close()
}

// Hooks are the names of the hooks among the entries of a checked image:
// regular, executable files directly below meta/hooks.
func Hooks(entries []Entry) []string {
	var names []string
	for _, e := range entries {
		if path.Dir(e.Path) == "meta/hooks" && e.Mode.IsRegular() && e.Mode&0o111 != 0 {
			names = append(names, path.Base(e.Path))
		}
	}
	return names
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// open opens a snap file for a child that may not open it itself, and checks
// what can be checked here. It never blocks, whatever kind of file it is.
func (r *Reader) open(snapPath string) (*os.File, Superblock, error) {
	f, err := openRegular(snapPath)
	if err != nil {
		return nil, Superblock{}, err
	}
	sb, err := superblockOf(f)
	if err != nil {
		_ = f.Close()
		return nil, Superblock{}, err
	}
	return f, sb, nil
}
