// Package witness is a snap's program that says what it sees, for tests: of its
// namespace, its rights, its environment, and what it was given when it was started.
//
// A Report is taken from the kernel at the moment of the question; only what a
// start leaves behind (descriptors, the parent) is read before anything else is done.
// A served witness answers any number of questions, one connection each.
package witness

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Report is what a process sees of itself and around it.
type Report struct {
	PID  int      `json:"pid"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
	Dir  string   `json:"dir"`
	// Status has the lines of /proc/self/status, by name.
	Status map[string]string `json:"status"`
	// Limits has soft and hard limit of each line of /proc/self/limits.
	Limits map[string]string `json:"limits"`
	// Namespaces are the links in /proc/self/ns.
	Namespaces map[string]string `json:"namespaces"`
	Group      string            `json:"group"`
	// Session is the process' session, TTY the number of its terminal, 0 for none.
	Session int `json:"session"`
	TTY     int `json:"tty"`
	// Files are the descriptors that it was started with, and what they are.
	Files map[int]string `json:"files"`
	// Mounts are the lines of /proc/self/mountinfo, by mount point; the last one holds.
	Mounts map[string]Mount `json:"mounts"`
}

// Mount is one line of mountinfo.
type Mount struct {
	Type, Source, Options, Optional, Root string
}

// Getenv is the value of a variable, and whether there is one.
func (r *Report) Getenv(name string) (string, bool) {
	for _, entry := range r.Env {
		if value, found := strings.CutPrefix(entry, name+"="); found {
			return value, true
		}
	}
	return "", false
}

// Inherited are the descriptors that this process was started with.
func Inherited() (map[int]string, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("list descriptors: %w", err)
	}
	files := make(map[int]string)
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return nil, fmt.Errorf("list descriptors: %w", err)
		}
		target, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err != nil || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "/sys/fs/cgroup/") {
			continue // What this very listing and Go's runtime have opened.
		}
		files[fd] = target
	}
	return files, nil
}

// Take reports what this process is, apart from its descriptors.
func Take() (*Report, error) {
	r := &Report{PID: os.Getpid(), Args: os.Args, Env: os.Environ()}
	for _, part := range []func() error{r.status, r.limits, r.namespaces, r.session, r.mounts} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	var err error
	if r.Dir, err = os.Getwd(); err != nil {
		return nil, fmt.Errorf("working directory: %w", err)
	}
	return r, nil
}

func lines(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return slices.Collect(strings.Lines(string(text))), nil
}

func (r *Report) status() error {
	text, err := lines("/proc/self/status")
	r.Status = make(map[string]string, len(text))
	for _, line := range text {
		name, value, _ := strings.Cut(line, ":")
		r.Status[name] = strings.Join(strings.Fields(value), " ")
	}
	return err
}

func (r *Report) limits() error {
	text, err := lines("/proc/self/limits")
	r.Limits = make(map[string]string, len(text))
	for _, line := range text {
		if len(line) > 26 {
			fields := strings.Fields(line[26:])
			r.Limits[strings.TrimSpace(line[:26])] = strings.Join(fields[:min(2, len(fields))], " ")
		}
	}
	return err
}

func (r *Report) namespaces() error {
	links, err := filepath.Glob("/proc/self/ns/*")
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	r.Namespaces = make(map[string]string, len(links))
	for _, link := range links {
		if r.Namespaces[filepath.Base(link)], err = os.Readlink(link); err != nil {
			return fmt.Errorf("list namespaces: %w", err)
		}
	}
	text, err := lines("/proc/self/cgroup")
	for _, line := range text {
		if group, found := strings.CutPrefix(line, "0::"); found {
			r.Group = strings.TrimSpace(group)
		}
	}
	return err
}

func (r *Report) session() error {
	text, err := lines("/proc/self/stat")
	if err != nil {
		return err
	}
	fields := strings.Fields(text[0][strings.LastIndexByte(text[0], ')')+1:])
	for at, into := range map[int]*int{3: &r.Session, 4: &r.TTY} {
		if *into, err = strconv.Atoi(fields[at]); err != nil {
			return fmt.Errorf("read /proc/self/stat: %w", err)
		}
	}
	return nil
}

func (r *Report) mounts() error {
	text, err := lines("/proc/self/mountinfo")
	r.Mounts = make(map[string]Mount, len(text))
	for _, line := range text {
		before, after, _ := strings.Cut(line, " - ")
		own, kind := strings.Fields(before), strings.Fields(after)
		if len(own) < 6 || len(kind) < 2 {
			return fmt.Errorf("read /proc/self/mountinfo: %q: %w", line, fs.ErrInvalid)
		}
		r.Mounts[own[4]] = Mount{
			Type: kind[0], Source: kind[1], Root: own[3], Options: own[5], Optional: strings.Join(own[6:], " "),
		}
	}
	return err
}
