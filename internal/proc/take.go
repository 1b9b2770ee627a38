package proc

import (
	"errors"
	"fmt"
)

// Take moves the process of a handle into a group, as Move does, and no other process. The
// kernel moves by pids, and one can be another's at that very moment: whose it was shows
// afterwards (PutBack). A process that has ended is an error of kind ErrGone.
func (h *Hierarchy) Take(g Group, process *Handle) error {
	if err := g.Move(process.process.PID); err != nil {
		return err
	}
	return h.PutBack(g, process)
}

// PutBack is for who has just moved a process into a group by its pid, or had it moved. A
// process that is there, alive or not yet waited for, has had its pid all the time, and
// nothing is done. If it is gone that is an error of kind ErrGone; whoever got its pid
// meanwhile and was moved in its place is moved to the group of its parent, where it was born.
func (h *Hierarchy) PutBack(g Group, process *Handle) error {
	err := process.Signal(0)
	if !errors.Is(err, ErrGone) {
		return err
	}
	return errors.Join(err, h.putBack(g, process.process.PID))
}

func (h *Hierarchy) putBack(g Group, pid int) error {
	other, err := OpenPID(pid)
	if errors.Is(err, ErrGone) {
		return nil // The pid is nobody's.
	}
	if err != nil {
		return err
	}
	defer other.Close()
	at, err := h.GroupOf(pid)
	if err != nil || at != g {
		return ignoreGone(err)
	}
	info, err := Read(pid)
	if err != nil {
		return ignoreGone(err)
	}
	home, err := h.GroupOf(info.PPID)
	if err == nil {
		err = home.Move(pid)
	}
	if err != nil {
		return ignoreGone(fmt.Errorf("put process %d back: %w", pid, err))
	}
	return nil
}

func ignoreGone(err error) error {
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}
