package native

import (
	"slices"

	"tenure/internal/proc"
)

// outside are the main process, if it has moved itself into a group that is not the unit's, as
// root may, and what it has forked there, unless that is another unit's. Those inside are
// known. Where there may be workloads among what it has forked, that is left alone.
func (t *territory) outside(s *Supervisor, inside []proc.Info) []proc.Info {
	main := t.main
	if main.PID == 0 || slices.ContainsFunc(inside, func(i proc.Info) bool { return i.Process == main }) {
		return nil
	}
	info, err := proc.Read(main.PID)
	if err != nil || info.Process != main || gone(info) {
		return nil
	}
	found := []proc.Info{info}
	if t.keeps {
		return found
	}
	for _, pid := range offspring(main.PID) {
		child, err := proc.Read(pid)
		if err != nil || gone(child) || slices.ContainsFunc(inside, func(i proc.Info) bool { return i.Process == child.Process }) {
			continue
		}
		group, err := s.cfg.Hierarchy.GroupOf(pid)
		if _, owned := s.owner(group.Path()); err == nil && !owned {
			found = append(found, child)
		}
	}
	return found
}

// gone reports whether a process has ended, and waits to be reaped.
func gone(info proc.Info) bool { return info.State == 'Z' || info.State == 'X' }
