package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tenure"
)

// What is how a process uses a mount.
type What string

// The uses of a mount.
const (
	Exe  What = "exe"
	Cwd  What = "cwd"
	Root What = "root"
	FD   What = "fd"
	Map  What = "map"
	// Namespace means that the process lives in a mount namespace in which the
	// device is mounted in its own right: not as a propagated copy that goes
	// when the original does, and not in a mere copy of our namespace.
	Namespace What = "namespace"
)

// Use is one use of a mount by a process. A process has at most one Use of
// each kind.
type Use struct {
	Process tenure.Process `json:"process"`
	What    What           `json:"what"`
	// Comm is the name of the process, for people.
	Comm string `json:"comm"`
}

// UsersOf finds every process on the machine that uses one of the mounts,
// whoever it belongs to, in one pass over /proc. A process that ends meanwhile
// is none. One that starts to use a mount meanwhile, or that the kernel does not
// let us look into, is missed: Unmount has the last word, and Attached after it.
func UsersOf(ctx context.Context, mounts ...Info) (map[Dev][]Use, error) {
	return usersOf(ctx, (*look).process, mounts)
}

// RunnersOf is UsersOf for those alone whose program is in one of the mounts (Exe): a small
// part of the work, for whoever asks for nothing else.
func RunnersOf(ctx context.Context, mounts ...Info) (map[Dev][]Use, error) {
	return usersOf(ctx, (*look).program, mounts)
}

// usersOf has processes looked at, on all processors side by side.
func usersOf(ctx context.Context, how func(*look, int) error, mounts []Info) (map[Dev][]Use, error) {
	c, err := newCensus(mounts)
	if err != nil {
		return nil, fmt.Errorf("find users of mounts: %w", err)
	}
	pids, err := c.pids()
	if err != nil {
		return nil, fmt.Errorf("find users of mounts: %w", err)
	}
	var next atomic.Int64
	var looks []*look
	side, ctx := errgroup.WithContext(ctx)
	for range runtime.NumCPU() {
		l := c.look()
		looks = append(looks, l)
		side.Go(func() error {
			for at := next.Add(1) - 1; int(at) < len(pids); at = next.Add(1) - 1 {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := how(l, pids[at]); err != nil && !gone(err) {
					return fmt.Errorf("process %d: %w", pids[at], err)
				}
			}
			return nil
		})
	}
	if err := side.Wait(); err != nil {
		return nil, fmt.Errorf("find users of mounts: %w", err)
	}
	return merged(looks), nil
}

// merged is all that was seen, by the number of the process.
func merged(looks []*look) map[Dev][]Use {
	all := map[Dev][]Use{}
	for _, l := range looks {
		for dev, uses := range l.uses {
			all[dev] = append(all[dev], uses...)
		}
	}
	for _, uses := range all {
		slices.SortStableFunc(uses, func(a, b Use) int { return cmp.Compare(a.Process.PID, b.Process.PID) })
	}
	return all
}

// Users are the users of one mount.
func Users(ctx context.Context, m Info) ([]Use, error) {
	uses, err := UsersOf(ctx, m)
	return uses[m.Dev], err
}

// UsedBy is how one process uses mounts. One that has ended uses none.
func UsedBy(p tenure.Process, mounts ...Info) (map[Dev][]What, error) {
	c, err := newCensus(mounts)
	if err != nil {
		return nil, fmt.Errorf("see what process %d uses: %w", p.PID, err)
	}
	l := c.look()
	if err := ignoreGone(l.process(p.PID)); err != nil {
		return nil, fmt.Errorf("see what process %d uses: %w", p.PID, err)
	}
	used := map[Dev][]What{}
	for dev, uses := range l.uses {
		for _, use := range uses {
			if use.Process == p {
				used[dev] = append(used[dev], use.What)
			}
		}
	}
	return used, nil
}

// gone tells whether an error about a file of a process means that the process,
// the thread, the descriptor or the mapping has ended, or that the kernel hides
// the process from us, as it does with what runs the container we are in.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) ||
		errors.Is(err, fs.ErrPermission)
}

// census is what one pass over all processes looks for.
type census struct {
	proc   string
	mounts []Info
	// mapped are the devices as they are in the maps of a process.
	mapped map[string]Dev
	// ours are the mounts themselves, as places in peer groups; see own.
	ours map[place]bool
	// ids are the mounts themselves in this namespace.
	ids map[int]bool
	// root is what is mounted at "/" here.
	root entry
}

func newCensus(mounts []Info) (*census, error) {
	c := &census{proc: "/proc", mounts: mounts, mapped: map[string]Dev{}, ours: map[place]bool{}, ids: map[int]bool{}}
	for _, m := range mounts {
		c.mapped[fmt.Sprintf("%02x:%02x", m.Dev.Major, m.Dev.Minor)] = m.Dev
	}
	entries, err := readMountinfo(filepath.Join(c.proc, "self/mountinfo"))
	if err != nil {
		return nil, err
	}
	byID := index(entries)
	c.root = rootOf(entries)
	for _, e := range entries {
		if c.isOurs(e) {
			c.ids[e.id] = true
			for _, p := range places(e, byID) {
				c.ours[p] = true
			}
		}
	}
	return c, nil
}

// pids are the processes that there are.
func (c *census) pids() ([]int, error) {
	entries, err := os.ReadDir(c.proc)
	if err != nil {
		return nil, err
	}
	pids := make([]int, 0, len(entries))
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func (c *census) wanted(d Dev) bool {
	for _, m := range c.mounts {
		if m.Dev == d {
			return true
		}
	}
	return false
}

func (c *census) isOurs(e entry) bool {
	for _, m := range c.mounts {
		if m.Dev == e.dev && m.Dir == e.dir {
			return true
		}
	}
	return false
}

// place is where a mount lies, in terms that are the same in all namespaces: a
// path within the file system that a peer group of its parents shows.
type place struct {
	group int
	path  string
}

func index(entries []entry) map[int]entry {
	byID := make(map[int]entry, len(entries))
	for _, e := range entries {
		byID[e.id] = e
	}
	return byID
}

// places are where e lies in the peer group that its parent gives to and in the
// one that it takes from.
func places(e entry, byID map[int]entry) []place {
	parent, ok := byID[e.parent]
	if !ok || !within(parent.dir, e.dir) {
		return nil
	}
	path := filepath.Join(parent.root, strings.TrimPrefix(e.dir, strings.TrimSuffix(parent.dir, "/")))
	var found []place
	for _, group := range []int{parent.shared, parent.master} {
		if group != 0 {
			found = append(found, place{group, path})
		}
	}
	return found
}

// rootOf is what is on top at "/".
func rootOf(entries []entry) (root entry) {
	for _, e := range entries {
		if e.dir == "/" {
			root = e
		}
	}
	return root
}

// copied reports whether a namespace with that root is a copy of ours, with all that is mounted: whatever
// makes a namespace of its own has one, at least until it has thrown ours out of it. What is where
// it is here says nothing of who lives there, as it says nothing of who lives here.
func (c *census) copied(root entry) bool {
	return root.dir != "" && root.dev == c.root.dev && root.root == c.root.root
}

// own are the devices that entries of a namespace mount in their own right: not
// at the very place of one of our mounts, and not at one that gets its mounts
// from there.
func (c *census) own(entries []entry) []Dev {
	var devs []Dev
	byID, copied := index(entries), c.copied(rootOf(entries))
next:
	for _, e := range entries {
		if !c.wanted(e.dev) || c.ids[e.id] || copied && c.isOurs(e) {
			continue
		}
		for _, p := range places(e, byID) {
			if c.ours[p] {
				continue next
			}
		}
		devs = append(devs, e.dev)
	}
	return devs
}
