package mount

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"tenure"
)

// look is a part of a census, which looks at one process after the other: by plain system
// calls, relative to directories that are open, for there are many of both.
type look struct {
	*census

	uses map[Dev][]Use
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

const lookRoom = 64 << 10

func (c *census) look() *look {
	return &look{census: c, uses: map[Dev][]Use{}, namespaces: map[view][]Dev{}, buf: make([]byte, lookRoom)}
}

type adder func(Dev, What)

// found is how one process uses what is looked for.
type found map[Dev]map[What]bool

func (f found) add(d Dev, w What) {
	if f[d] == nil {
		f[d] = map[What]bool{}
	}
	f[d][w] = true
}

// process looks at one process, through its first thread, and at those other
// threads that share less with it than usual.
func (l *look) process(pid int) error {
	dir, err := openTask(filepath.Join(l.proc, strconv.Itoa(pid)))
	if err != nil {
		return err
	}
	defer dir.close()
	seen := found{}
	err = l.thread(dir, seen.add, shares{})
	others, failed := l.others(dir, pid)
	err = errors.Join(err, failed)
	for _, tid := range others {
		err = errors.Join(err, ignoreGone(l.other(dir, pid, tid, seen.add)))
	}
	if err != nil || len(seen) == 0 {
		return err
	}
	return l.record(dir, pid, seen)
}

// program looks at the program of one process, which all its threads have in common.
func (l *look) program(pid int) error {
	dir, err := openTask(filepath.Join(l.proc, strconv.Itoa(pid)))
	if err != nil {
		return err
	}
	defer dir.close()
	seen := found{}
	if err := l.link(dir, "exe", Exe, seen.add); err != nil || len(seen) == 0 {
		return err
	}
	return l.record(dir, pid, seen)
}

// others are the threads of a process but for the first. The directory of them has as many links
// as it has directories.
func (l *look) others(dir task, pid int) (tids []int, err error) {
	var st unix.Statx_t
	if err := unix.Statx(dir.fd, "task", unix.AT_STATX_DONT_SYNC, unix.STATX_NLINK, &st); err == nil && st.Nlink == 3 {
		return nil, nil
	}
	err = l.entries(dir, "task", func(_ task, name string) error {
		if tid, err := strconv.Atoi(name); err == nil && tid != pid {
			tids = append(tids, tid)
		}
		return nil
	})
	return tids, ignoreGone(err)
}

// other looks at another thread of a process.
func (l *look) other(dir task, pid, tid int, add adder) error {
	with := shares{memory: same(pid, tid, kcmpVM), files: same(pid, tid, kcmpFiles), where: same(pid, tid, kcmpFS)}
	if with == (shares{memory: true, files: true, where: true}) {
		return nil
	}
	own, err := openTask(filepath.Join(dir.path, "task", strconv.Itoa(tid)))
	if err != nil {
		return err
	}
	defer own.close()
	return l.thread(own, add, with)
}

func ignoreGone(err error) error {
	if gone(err) {
		return nil
	}
	return err
}

func (l *look) record(dir task, pid int, seen found) error {
	stat, err := dir.read("stat")
	if err != nil {
		return err
	}
	start, comm, ok := parseStat(stat)
	if !ok {
		return fmt.Errorf("read %s/stat: malformed: %.100q", dir.path, stat)
	}
	for dev, whats := range seen {
		for _, w := range []What{Exe, Cwd, Root, FD, Map, Namespace} {
			if whats[w] {
				use := Use{Process: tenure.Process{PID: pid, Start: start}, What: w, Comm: comm}
				l.uses[dev] = append(l.uses[dev], use)
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

// shares says what a thread has in common with one that was looked at.
type shares struct {
	memory, files, where bool
}

// thread looks at what a thread has of its own. It may end meanwhile.
func (l *look) thread(dir task, add adder, with shares) error {
	var errs []error
	if !with.where {
		errs = append(errs, ignoreGone(l.link(dir, "cwd", Cwd, add)), ignoreGone(l.link(dir, "root", Root, add)), ignoreGone(l.view(dir, add)))
	}
	if with.memory && with.files || !dir.program() {
		return errors.Join(errs...)
	}
	if !with.memory {
		errs = append(errs, ignoreGone(l.link(dir, "exe", Exe, add)), ignoreGone(l.maps(dir, add)))
	}
	if !with.files {
		errs = append(errs, ignoreGone(l.entries(dir, "fd", func(fds task, name string) error {
			return ignoreGone(l.link(fds, name, FD, add))
		})))
	}
	return errors.Join(errs...)
}

// link asks for the device behind a link of /proc. AT_STATX_DONT_SYNC keeps it
// from waiting for a file server that is dead.
func (l *look) link(dir task, name string, w What, add adder) error {
	var st unix.Statx_t
	err := unix.Statx(dir.fd, name, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, 0, &st)
	if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOTCONN) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "statx", Path: filepath.Join(dir.path, name), Err: err}
	}
	if dev := (Dev{st.Dev_major, st.Dev_minor}); l.wanted(dev) {
		add(dev, w)
	}
	return nil
}

// view looks at what a task has mounted.
func (l *look) view(dir task, add adder) error {
	key, err := dir.view()
	if err != nil {
		return err
	}
	devs, known := l.namespaces[key]
	if !known {
		text, err := dir.read("mountinfo")
		if err != nil {
			return err
		}
		if devs, err = l.mountedIn(text); err != nil {
			return fmt.Errorf("read %s/mountinfo: %w", dir.path, err)
		}
		l.namespaces[key] = devs
	}
	for _, d := range devs {
		add(d, Namespace)
	}
	return nil
}

// mountedIn is own of a mountinfo, which seldom speaks of what is looked for.
func (l *look) mountedIn(mountinfo []byte) ([]Dev, error) {
	for _, m := range l.mounts {
		if bytes.Contains(mountinfo, []byte(" "+m.Dev.String()+" ")) {
			entries, err := parseMountinfo(bytes.NewReader(mountinfo))
			return l.own(entries), err
		}
	}
	return nil, nil
}

// maps looks for mapped files.
func (l *look) maps(dir task, add adder) error {
	fd, err := dir.open("maps", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // Only read.
	err = askMaps(fd, func(d Dev) {
		if l.wanted(d) {
			add(d, Map)
		}
	})
	if errors.Is(err, unix.ENOTTY) {
		err = l.readMaps(fd, add)
	}
	if err != nil {
		return &os.PathError{Op: "read", Path: filepath.Join(dir.path, "maps"), Err: err}
	}
	return nil
}

// readMaps looks for mapped files by the device number in the fourth column.
func (l *look) readMaps(fd int, add adder) error {
	left := 0
	for {
		n, err := unix.Read(fd, l.buf[left:])
		if err != nil {
			return err
		}
		text := l.buf[:left+n]
		for {
			line, rest, whole := bytes.Cut(text, []byte{'\n'})
			if !whole && n > 0 {
				break
			}
			if dev, mapped := l.mapped[string(mappedDev(line))]; mapped {
				add(dev, Map)
			}
			if text = rest; !whole {
				return nil
			}
		}
		// A path is shorter than what there is room for.
		left = copy(l.buf, text) % len(l.buf)
	}
}

// mappedDev is the fourth column of a line of maps.
func mappedDev(line []byte) []byte {
	for range 3 {
		_, line, _ = bytes.Cut(line, []byte{' '})
	}
	dev, _, _ := bytes.Cut(line, []byte{' '})
	return dev
}

// entries calls f with each name in a directory of a task, until that fails.
func (l *look) entries(dir task, name string, f func(in task, name string) error) error {
	in, err := dir.dir(name)
	if err != nil {
		return err
	}
	defer in.close()
	for {
		n, err := unix.ReadDirent(in.fd, l.buf)
		if err != nil {
			return &os.PathError{Op: "read", Path: in.path, Err: err}
		}
		if n <= 0 {
			return nil
		}
		_, _, names := unix.ParseDirent(l.buf[:n], -1, nil)
		for _, name := range names {
			if err := f(in, name); err != nil {
				return err
			}
		}
	}
}

// task is a directory of /proc about a process or a thread, which it means also when there is another
// one of the same number.
type task struct {
	fd   int
	path string
}

func openTask(path string) (task, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return task{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return task{fd, path}, nil
}

func (t task) close() { _ = unix.Close(t.fd) } // Only read.

func (t task) open(name string, flags int) (int, error) {
	fd, err := unix.Openat(t.fd, name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: filepath.Join(t.path, name), Err: err}
	}
	return fd, nil
}

func (t task) dir(name string) (task, error) {
	fd, err := t.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	return task{fd, filepath.Join(t.path, name)}, err
}

func (t task) read(name string) ([]byte, error) {
	fd, err := t.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) //nolint:errcheck // Only read.
	text := make([]byte, 0, 8<<10)
	for {
		if len(text) == cap(text) {
			text = append(text, 0)[:len(text)]
		}
		n, err := unix.Read(fd, text[len(text):cap(text)])
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: filepath.Join(t.path, name), Err: err}
		}
		if n == 0 {
			return text, nil
		}
		text = text[:len(text)+n]
	}
}

// program reports whether the task has a program that we may see. Who has none is of the kernel, or has ended: it
// has no memory and no files either. Where that cannot be told it has.
func (t task) program() bool {
	var target [1]byte
	_, err := unix.Readlinkat(t.fd, "exe", target[:])
	return !gone(err)
}

// view is what the mountinfo of the task depends on.
func (t task) view() (view, error) {
	var namespace, root unix.Stat_t
	err := unix.Fstatat(t.fd, "ns/mnt", &namespace, 0)
	if err == nil {
		err = unix.Fstatat(t.fd, "root", &root, 0)
	}
	if err != nil {
		return view{}, &os.PathError{Op: "stat", Path: filepath.Join(t.path, "ns/mnt"), Err: err}
	}
	return view{namespace: namespace.Ino, root: inode{root.Dev, root.Ino}}, nil
}
