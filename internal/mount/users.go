package mount

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
	// device is mounted in its own right, not as a propagated copy that goes
	// when the original does.
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
	return usersOf(ctx, (*census).process, mounts)
}

// RunnersOf is UsersOf for those alone whose program is in one of the mounts (Exe): a small
// part of the work, for whoever asks for nothing else.
func RunnersOf(ctx context.Context, mounts ...Info) (map[Dev][]Use, error) {
	return usersOf(ctx, (*census).program, mounts)
}

func usersOf(ctx context.Context, look func(*census, int) error, mounts []Info) (map[Dev][]Use, error) {
	c, err := newCensus(mounts)
	if err != nil {
		return nil, fmt.Errorf("find users of mounts: %w", err)
	}
	procs, err := os.ReadDir(c.proc)
	if err != nil {
		return nil, fmt.Errorf("find users of mounts: %w", err)
	}
	for _, p := range procs {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("find users of mounts: %w", err)
		}
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if err := look(c, pid); err != nil && !gone(err) {
			return nil, fmt.Errorf("find users of mounts: process %d: %w", pid, err)
		}
	}
	return c.uses, nil
}

// Users are the users of one mount.
func Users(ctx context.Context, m Info) ([]Use, error) {
	uses, err := UsersOf(ctx, m)
	return uses[m.Dev], err
}

// UsedBy is how one process uses mounts. One that has ended uses none.
func UsedBy(p tenure.Process, mounts ...Info) (map[Dev][]What, error) {
	c, err := newCensus(mounts)
	if err == nil {
		err = ignoreGone(c.process(p.PID))
	}
	if err != nil {
		return nil, fmt.Errorf("see what process %d uses: %w", p.PID, err)
	}
	used := map[Dev][]What{}
	for dev, uses := range c.uses {
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

// census is one pass over all processes.
type census struct {
	proc   string
	mounts []Info
	uses   map[Dev][]Use
	// ours are the mounts themselves, as places in peer groups; see propagated.
	ours map[place]bool
	// ids are the mounts themselves in this namespace.
	ids map[int]bool
	// namespaces has, for each view of a mount namespace, the devices that are
	// mounted in it in their own right.
	namespaces map[view][]Dev
	buf        []byte
}

// view is what decides about the content of a process's mountinfo: its mount
// namespace, and its root, below which alone mounts are shown.
type view struct {
	namespace uint64
	root      inode
}

func newCensus(mounts []Info) (*census, error) {
	c := &census{
		proc: "/proc", mounts: mounts,
		uses: map[Dev][]Use{}, ours: map[place]bool{}, ids: map[int]bool{}, namespaces: map[view][]Dev{},
	}
	entries, err := readMountinfo(filepath.Join(c.proc, "self/mountinfo"))
	if err != nil {
		return nil, err
	}
	byID := index(entries)
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

// own are the devices that entries of a namespace mount in their own right: not
// at the very place of one of our mounts, and not at one that gets its mounts
// from there.
func (c *census) own(entries []entry) []Dev {
	var devs []Dev
	byID := index(entries)
next:
	for _, e := range entries {
		if !c.wanted(e.dev) || c.ids[e.id] {
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

// process looks at one process, through its first thread, and at those other
// threads that share less with it than usual.
func (c *census) process(pid int) error {
	dir := filepath.Join(c.proc, strconv.Itoa(pid))
	found := map[Dev]map[What]bool{}
	add := func(d Dev, w What) {
		if found[d] == nil {
			found[d] = map[What]bool{}
		}
		found[d][w] = true
	}
	err := c.thread(dir, add, shares{})
	tasks, taskErr := os.ReadDir(filepath.Join(dir, "task"))
	err = errors.Join(err, ignoreGone(taskErr))
	for _, t := range tasks {
		tid, convErr := strconv.Atoi(t.Name())
		if convErr != nil || tid == pid {
			continue
		}
		with := shares{memory: same(pid, tid, kcmpVM), files: same(pid, tid, kcmpFiles), where: same(pid, tid, kcmpFS)}
		err = errors.Join(err, c.thread(filepath.Join(dir, "task", t.Name()), add, with))
	}
	if err != nil || len(found) == 0 {
		return err
	}
	return c.record(dir, pid, found)
}

// program looks at the program of one process, which all its threads have in common.
func (c *census) program(pid int) error {
	dir := filepath.Join(c.proc, strconv.Itoa(pid))
	found := map[Dev]map[What]bool{}
	err := c.link(filepath.Join(dir, "exe"), Exe, func(d Dev, w What) { found[d] = map[What]bool{w: true} })
	if err != nil || len(found) == 0 {
		return err
	}
	return c.record(dir, pid, found)
}

func ignoreGone(err error) error {
	if gone(err) {
		return nil
	}
	return err
}

func (c *census) record(dir string, pid int, found map[Dev]map[What]bool) error {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return err
	}
	start, comm, ok := parseStat(stat)
	if !ok {
		return fmt.Errorf("read %s/stat: malformed: %.100q", dir, stat)
	}
	for dev, whats := range found {
		for _, w := range []What{Exe, Cwd, Root, FD, Map, Namespace} {
			if whats[w] {
				use := Use{Process: tenure.Process{PID: pid, Start: start}, What: w, Comm: comm}
				c.uses[dev] = append(c.uses[dev], use)
			}
		}
	}
	return nil
}

// parseStat reads the name and field 22 of /proc/PID/stat. The name is in
// parentheses and may contain anything.
func parseStat(b []byte) (start uint64, comm string, ok bool) {
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if from < 0 || to < from {
		return 0, "", false
	}
	fields := strings.Fields(string(b[to+1:]))
	const index = 22 - 3 // The first field after the name is the third.
	if len(fields) <= index {
		return 0, "", false
	}
	start, err := strconv.ParseUint(fields[index], 10, 64)
	return start, string(b[from+1 : to]), err == nil
}

// The kinds of kcmp(2).
const (
	kcmpVM    = 1
	kcmpFiles = 2
	kcmpFS    = 3
)

// same tells whether two threads share a table, false if the kernel does not
// tell.
func same(a, b, kind int) bool {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), uintptr(kind), 0, 0, 0)
	return errno == 0 && r == 0
}

type adder func(Dev, What)

// shares says what a thread has in common with one that was looked at.
type shares struct {
	memory, files, where bool
}

// thread looks at what a thread has of its own. It may end meanwhile.
func (c *census) thread(dir string, add adder, with shares) error {
	var errs []error
	if !with.memory {
		errs = append(errs, ignoreGone(c.maps(dir, add)), ignoreGone(c.link(filepath.Join(dir, "exe"), Exe, add)))
	}
	if !with.where {
		errs = append(errs,
			ignoreGone(c.link(filepath.Join(dir, "cwd"), Cwd, add)),
			ignoreGone(c.link(filepath.Join(dir, "root"), Root, add)),
			ignoreGone(c.namespace(dir, add)))
	}
	if !with.files {
		errs = append(errs, ignoreGone(c.descriptors(filepath.Join(dir, "fd"), add)))
	}
	return errors.Join(errs...)
}

func (c *census) descriptors(dir string, add adder) error {
	fds, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, fd := range fds {
		if err := c.link(filepath.Join(dir, fd.Name()), FD, add); err != nil {
			return err
		}
	}
	return nil
}

// link asks for the device behind a link of /proc. AT_STATX_DONT_SYNC keeps it
// from waiting for a file server that is dead.
func (c *census) link(path string, w What, add adder) error {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, 0, &st)
	if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOTCONN) || gone(err) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "statx", Path: path, Err: err}
	}
	if dev := (Dev{st.Dev_major, st.Dev_minor}); c.wanted(dev) {
		add(dev, w)
	}
	return nil
}

func (c *census) namespace(dir string, add adder) error {
	ns, err := inodeOf(filepath.Join(dir, "ns/mnt"))
	if err != nil {
		return err
	}
	root, err := inodeOf(filepath.Join(dir, "root"))
	if err != nil {
		return err
	}
	key := view{ns.ino, root}
	devs, known := c.namespaces[key]
	if !known {
		entries, err := readMountinfo(filepath.Join(dir, "mountinfo"))
		if err != nil {
			return err
		}
		devs = c.own(entries)
		c.namespaces[key] = devs
	}
	for _, d := range devs {
		add(d, Namespace)
	}
	return nil
}

// maps looks for mapped files by the device number in the fourth column.
func (c *census) maps(dir string, add adder) error {
	f, err := os.Open(filepath.Join(dir, "maps"))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // Only read.
	if c.buf == nil {
		c.buf = make([]byte, 64<<10)
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(c.buf, 1<<20)
	for lines.Scan() {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) < 5 || string(fields[3]) == "00:00" {
			continue
		}
		if dev, err := parseDev(string(fields[3]), 16); err == nil && c.wanted(dev) {
			add(dev, Map)
		}
	}
	return lines.Err()
}
