package proc

import (
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
)

// Group is one control group: a set of processes that are listed, frozen and
// killed together. It is a name, and comparable; the directory may be gone.
type Group struct{ path string }

// GroupAt is the group whose directory is path, absolute.
func GroupAt(path string) Group { return Group{filepath.Clean(path)} }

// Path is the absolute path of the group's directory; empty for no group.
func (g Group) Path() string { return g.path }

// IsZero reports whether g is no group.
func (g Group) IsZero() bool { return g.path == "" }

// Rel is the name that Create was given, and whether g is below h at all.
func (g Group) Rel(h *Hierarchy) (string, bool) { return strings.CutPrefix(g.path, h.path+"/") }

// Open opens the directory, for SysProcAttr.CgroupFD.
func (g Group) Open() (*os.File, error) {
	dir, err := os.OpenFile(g.path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open group: %w", goneGroup(err))
	}
	return dir, nil
}

// Populated reports whether the group or one below it has a living process.
// A group that is gone has none.
func (g Group) Populated() (bool, error) {
	populated, err := g.event("populated")
	if errors.Is(err, ErrNoGroup) {
		return false, nil
	}
	return populated, err
}

// Frozen reports whether all processes of the group stand still.
func (g Group) Frozen() (bool, error) { return g.event("frozen") }

// event reads one of the flags of cgroup.events.
func (g Group) event(key string) (bool, error) {
	text, err := g.read("cgroup.events")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == key {
			return value == "1", nil
		}
	}
	return false, fmt.Errorf("group %s: cgroup.events has no %q: %w", g.path, key, ErrUnsupported)
}

// OOMKills is how many processes of the group, and below it, the kernel has killed because a
// group was out of memory. Where the hierarchy has no memory controller that is an
// error of kind ErrNoGroup.
func (g Group) OOMKills() (int, error) {
	text, err := g.read("memory.events")
	if err != nil {
		return 0, fmt.Errorf("kills for want of memory in group %s: %w", g.path, err)
	}
	return oomKills(string(text))
}

// oomKills reads memory.events.
func oomKills(text string) (int, error) {
	for line := range strings.Lines(text) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == "oom_kill" {
			return strconv.Atoi(value)
		}
	}
	return 0, fmt.Errorf("memory.events has no oom_kill: %w", ErrUnsupported)
}

// AwaitEmpty returns when neither the group nor one below it has a living
// process, or the group is gone.
func (g Group) AwaitEmpty(ctx context.Context) error {
	err := g.await(ctx, "populated", false, nil)
	if errors.Is(err, ErrNoGroup) {
		return nil
	}
	return err
}

// Kill sends SIGKILL to every process in the group and below it, whatever
// they fork meanwhile, frozen or not. It does not wait. The group must not be
// used for another process afterwards. A group that is gone is no error.
func (g Group) Kill() error {
	if err := g.write("cgroup.kill", "1"); err != nil && !errors.Is(err, ErrNoGroup) {
		return fmt.Errorf("kill: %w", err)
	}
	return nil
}

// Move moves a process with all its threads into the group. What it has forked
// before stays where it is; what it forks from now on is born in g. A frozen
// process that is moved to a group that is not frozen runs.
func (g Group) Move(pid int) error {
	if err := g.write("cgroup.procs", strconv.Itoa(pid)); err != nil {
		if errors.Is(err, unix.ESRCH) {
			err = ErrGone
		}
		return fmt.Errorf("move process %d: %w", pid, err)
	}
	return nil
}

// Remove removes the group and those below it. One that has a living process
// is an error of kind ErrPopulated, after which some empty groups below may be
// gone. A group that is gone is no error.
//
// A process that ends is counted a moment longer than its pidfd says: who
// has just seen the last one end calls AwaitEmpty first.
func (g Group) Remove() error {
	below, err := g.descendants()
	if err != nil {
		return fmt.Errorf("remove group: %w", err)
	}
	for _, group := range append(below, g) {
		err := unix.Rmdir(group.path)
		if errors.Is(err, unix.EBUSY) {
			err = ErrPopulated
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove group %s: %w", group.path, err)
		}
	}
	return nil
}

// descendants are the groups below g, each after those below it.
func (g Group) descendants() ([]Group, error) {
	children, err := g.children()
	if err != nil {
		return nil, err
	}
	var groups []Group
	for _, child := range children {
		below, err := child.descendants()
		if err != nil {
			return nil, err
		}
		groups = append(append(groups, below...), child)
	}
	return groups, nil
}

// linksAlone are the links of a directory that has none below it.
const linksAlone = 2

// children are the groups directly below g; none when g is gone.
func (g Group) children() ([]Group, error) {
	// A directory has a link for each one below it, and files have none: most groups
	// have no group below them, and need not be listed to know that.
	var info unix.Stat_t
	if err := unix.Stat(g.path, &info); err == nil && info.Nlink == linksAlone {
		return nil, nil
	}
	entries, err := os.ReadDir(g.path)
	if err != nil && !errors.Is(goneGroup(err), ErrNoGroup) {
		return nil, err
	}
	var groups []Group
	for _, entry := range entries {
		if entry.IsDir() {
			groups = append(groups, Group{filepath.Join(g.path, entry.Name())})
		}
	}
	return groups, nil
}

const attrPrefix = "user.tenure."

// SetAttr keeps a value with the group for as long as it exists, over the end
// of the daemon: an extended attribute, at most 64 KiB, and 128 KiB in all.
func (g Group) SetAttr(name string, value []byte) error {
	if err := unix.Setxattr(g.path, attrPrefix+name, value, 0); err != nil {
		return fmt.Errorf("set attribute %s of group %s: %w", name, g.path, goneGroup(err))
	}
	return nil
}

// Attr is a value that SetAttr kept. One that was never set is an error of
// kind ErrNoAttr.
func (g Group) Attr(name string) ([]byte, error) {
	value, err := readXattr(g.path, attrPrefix+name)
	if errors.Is(err, unix.ENODATA) {
		err = ErrNoAttr
	}
	if err != nil {
		return nil, fmt.Errorf("attribute %s of group %s: %w", name, g.path, goneGroup(err))
	}
	return value, nil
}

func readXattr(path, name string) ([]byte, error) {
	value := make([]byte, 4096)
	for {
		n, err := unix.Getxattr(path, name, value)
		if errors.Is(err, unix.ERANGE) {
			value = make([]byte, len(value)*2)
			continue
		}
		if err != nil {
			return nil, err
		}
		return value[:n], nil
	}
}

// RemoveAttr forgets a value. One that was never set is no error.
func (g Group) RemoveAttr(name string) error {
	if err := unix.Removexattr(g.path, attrPrefix+name); err != nil && !errors.Is(err, unix.ENODATA) {
		return fmt.Errorf("remove attribute %s of group %s: %w", name, g.path, goneGroup(err))
	}
	return nil
}

// maxGroupFile bounds what is read of a group's file: of cgroup.procs more lines than
// there can be processes.
const maxGroupFile = 64 << 20

func (g Group) read(name string) ([]byte, error) {
	var text []byte
	path := filepath.Join(g.path, name)
	err := readAt(unix.AT_FDCWD, path, maxGroupFile, func(read []byte) error {
		text = bytes.Clone(bytes.TrimSpace(read))
		return nil
	})
	if err != nil {
		return nil, goneGroup(&fs.PathError{Op: "read", Path: path, Err: err})
	}
	return text, nil
}

// write writes value in one call, as control group files want it.
func (g Group) write(name, value string) error {
	file, err := os.OpenFile(filepath.Join(g.path, name), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return goneGroup(err)
	}
	_, err = file.WriteString(value)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return goneGroup(err)
}

// goneGroup turns the errors that a removed group gives into ErrNoGroup:
// ENOENT when a file of it is opened, ENODEV when it was open before.
func goneGroup(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: %w", ErrNoGroup, err)
	}
	return err
}
