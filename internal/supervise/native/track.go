package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// Track implements supervise.Tracker.
func (s *Supervisor) Track(ctx context.Context, spec supervise.Spec, process tenure.Process) error {
	err := s.await(ctx)
	if err == nil {
		err = s.track(ctx, &spec, process)
	}
	if err != nil {
		return fmt.Errorf("track process %d as %s: %w", process.PID, spec.Unit, err)
	}
	return nil
}

func (s *Supervisor) track(ctx context.Context, spec *supervise.Spec, process tenure.Process) error {
	if spec.Unit.IsZero() {
		return fmt.Errorf("%w: no unit", tenure.ErrName)
	}
	// The handle proves that the pid is the process's for as long as it lives.
	handle, err := proc.Open(process)
	if err != nil {
		return err
	}
	defer handle.Close()
	info, err := proc.Read(process.PID)
	if err != nil {
		return err
	}
	u := newUnit(s, record{
		Spec: spec, State: supervise.Running, Since: time.Now(), Started: info.Started, Generation: 1,
		Main: process, Passive: true, Ready: true,
	})
	if !s.add(u) {
		return supervise.ErrRunning
	}
	if err := u.take(process); err != nil {
		s.drop(u)
		close(u.gone)
		return errors.Join(err, s.records.remove(u.id), os.RemoveAll(u.dir()))
	}
	s.spawn(ctx, u, u.attend)
	u.event(supervise.Event{
		Kind: supervise.EventState, State: supervise.Running, Processes: []tenure.Process{process}, Command: strings.Join(spec.Command.Argv, " "),
	})
	return nil
}

// take moves a process, and what it has forked, into a fresh group of the unit.
func (u *unit) take(process tenure.Process) error {
	group, err := u.newGroup()
	if err != nil {
		return err
	}
	u.rec.Group, u.rec.Moving = group.Path(), []tenure.Process{process}
	err = u.s.records.save(&u.rec)
	if err == nil {
		err = os.MkdirAll(u.dir(), 0o755)
	}
	if err == nil {
		err = u.gather(u.s.life, group, process)
	}
	if err != nil {
		return errors.Join(err, group.Remove())
	}
	// What it forks from now on is born in the group; what it has forked before
	// may still fork outside, until nothing is found there any more.
	var children []tenure.Process
	for _, pid := range offspring(process.PID) {
		if info, err := proc.Read(pid); err == nil {
			children = append(children, info.Process)
		}
	}
	if err := u.gather(u.s.life, group, children...); err != nil {
		u.warn("children cannot be moved", err)
	}
	u.rec.Moving = nil
	u.save()
	return nil
}

// offspring are the pids of all that came out of a process and still has it as
// an ancestor, parents first.
func offspring(pid int) []int {
	var all []int
	next := []int{pid}
	for len(next) > 0 {
		var found []int
		for _, parent := range next {
			found = append(found, children(parent)...)
		}
		all, next = append(all, found...), found
	}
	return all
}

// children reads what the kernel lists for every thread (proc_tid_children(5)).
func children(pid int) (pids []int) {
	tasks := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return nil
	}
	for _, thread := range threads {
		text, err := os.ReadFile(tasks + "/" + thread.Name() + "/children")
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}
