package proc

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxReadings bounds how often a group that keeps forking is read again.
const maxReadings = 16

// Processes are the living processes in the group and below it, oldest first.
// A group that is gone has none.
//
// What ends meanwhile is left out, and the group is read again until nothing
// new is in it. For a frozen group that is the whole truth; a running one may
// have forked again before this returns.
func (g Group) Processes() ([]Info, error) { return g.list(maxReadings) }

// Glance is Processes for who only shows them: the group is read once, and what is forked at
// that moment may be missing.
func (g Group) Glance() ([]Info, error) { return g.list(1) }

func (g Group) list(readings int) ([]Info, error) {
	known := make(map[int]Info)
	for range readings {
		pids := make(map[int]string)
		if err := g.pids("", pids); err != nil {
			return nil, fmt.Errorf("list processes of group %s: %w", g.path, err)
		}
		fresh, err := describe(pids, known)
		if err != nil {
			return nil, fmt.Errorf("list processes of group %s: %w", g.path, err)
		}
		if !fresh {
			break
		}
	}
	return slices.SortedFunc(maps.Values(known), func(a, b Info) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.PID, b.PID))
	}), nil
}

// describe makes known what pids (with their groups) are, and reports whether there was a
// process among them that was not known. One that was is not read again: a pid is given away
// again only when all others have been.
func describe(pids map[int]string, known map[int]Info) (fresh bool, err error) {
	maps.DeleteFunc(known, func(pid int, info Info) bool {
		group, listed := pids[pid]
		return !listed || group != info.Group
	})
	for pid, group := range pids {
		if _, ok := known[pid]; ok {
			continue
		}
		info, err := Read(pid)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return false, err
		}
		info.Group, info.Foreign = group, group != ""
		known[pid], fresh = info, true
	}
	return fresh, nil
}

// pids adds the pids in g and below it to into, with the group of each
// relative to the first.
func (g Group) pids(rel string, into map[int]string) error {
	text, err := g.read("cgroup.procs")
	switch {
	case errors.Is(err, ErrNoGroup):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		// A threaded group: its processes are listed by the domain above it.
	case err != nil:
		return err
	}
	for field := range strings.FieldsSeq(string(text)) {
		// 0 stands for a process outside of the caller's pid namespace.
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			into[pid] = rel
		}
	}
	children, err := g.children()
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := child.pids(filepath.Join(rel, filepath.Base(child.path)), into); err != nil {
			return err
		}
	}
	return nil
}
