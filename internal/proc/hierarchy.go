package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Hierarchy is the directory below which all groups of one Tenure are.
type Hierarchy struct {
	// mount is where the cgroup2 file system is, and root which of its
	// directories is there: "/" but in containers without a namespace for
	// control groups.
	mount, root string
	path        string
}

// OpenHierarchy finds the cgroup2 file system, unified or beside version 1 on
// a hybrid host, and makes the directory name in it, unless it is there.
//
// The directory is made at the top of the file system, so that a later daemon
// finds it wherever it was started from; where that is not allowed it is made
// in the caller's own group.
func OpenHierarchy(name string) (*Hierarchy, error) {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("open hierarchy %q: %w", name, fs.ErrInvalid)
	}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("open hierarchy %s: %w", name, err)
	}
	h := &Hierarchy{}
	var found bool
	if h.mount, h.root, found = findCgroup2(string(mountinfo)); !found {
		return nil, fmt.Errorf("open hierarchy %s: %w", name, ErrUnsupported)
	}
	h.path = filepath.Join(h.mount, name)
	err = mkdirExisting(h.path)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		own, ownErr := h.groupOf("self")
		if ownErr != nil {
			return nil, fmt.Errorf("open hierarchy %s: %w", name, ownErr)
		}
		h.path = filepath.Join(own.path, name)
		err = mkdirExisting(h.path)
	}
	if err != nil {
		return nil, fmt.Errorf("open hierarchy %s: %w", name, err)
	}
	return h, nil
}

// findCgroup2 returns the last mount of a cgroup2 file system in the text of
// /proc/self/mountinfo (proc_pid_mountinfo(5)): a later mount covers an earlier.
func findCgroup2(mountinfo string) (mount, root string, found bool) {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if kind, _, _ := strings.Cut(after, " "); ok && kind == "cgroup2" && len(fields) > 4 {
			root, mount, found = unescape(fields[3]), unescape(fields[4]), true
		}
	}
	return mount, root, found
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func mkdirExisting(path string) error {
	if err := os.Mkdir(path, 0o755); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Path is the absolute path of the directory.
func (h *Hierarchy) Path() string { return h.path }

// Create makes the fresh group rel ("virt/virtd.3") and its parents. A group
// that exists is an error of kind fs.ErrExist: it may have been killed before.
func (h *Hierarchy) Create(rel string) (Group, error) {
	if !filepath.IsLocal(rel) || rel == "." {
		return Group{}, fmt.Errorf("create group %q: %w", rel, fs.ErrInvalid)
	}
	path := filepath.Join(h.path, rel)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return Group{}, fmt.Errorf("create group %s: %w", rel, err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return Group{}, fmt.Errorf("create group %s: %w", rel, err)
	}
	return Group{path}, nil
}

// Groups are all groups below the hierarchy, each after those below it.
func (h *Hierarchy) Groups() ([]Group, error) {
	groups, err := Group{h.path}.descendants()
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	return groups, nil
}

// Remove removes the hierarchy, with all groups in it. One that has a living
// process is an error of kind ErrPopulated.
func (h *Hierarchy) Remove() error { return Group{h.path}.Remove() }

// GroupOf is the group that process pid is in now, anywhere on the host.
// Callers that hold no pidfd must check that the pid is still the same process.
func (h *Hierarchy) GroupOf(pid int) (Group, error) {
	return h.groupOf(strconv.Itoa(pid))
}

func (h *Hierarchy) groupOf(pid string) (Group, error) {
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		return Group{}, fmt.Errorf("group of process %s: %w", pid, goneProcess(err))
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			inside := strings.TrimPrefix(strings.TrimSuffix(path, " (deleted)"), strings.TrimSuffix(h.root, "/"))
			return Group{filepath.Join(h.mount, inside)}, nil
		}
	}
	return Group{}, fmt.Errorf("group of process %s: %w", pid, ErrUnsupported)
}
