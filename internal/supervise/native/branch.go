package native

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// Branch implements supervise.Brancher.
func (s *Supervisor) Branch(ctx context.Context, parent tenure.UnitID, spec supervise.Spec) error {
	err := s.await(ctx)
	if err == nil {
		err = errors.Join(checkName(&spec), check(&spec))
	}
	if err == nil {
		var failure error
		var known bool
		failure, known, err = request(ctx, s, parent, func(u *unit, ctx context.Context, reply chan<- error) { u.branch(ctx, spec, reply) })
		if err == nil && !known {
			err = fmt.Errorf("%s: %w", parent, supervise.ErrUnknown)
		}
		err = errors.Join(err, failure)
	}
	if err != nil {
		return fmt.Errorf("start workload %s: %w", spec.Unit, err)
	}
	return nil
}

// checkName refuses what is no workload that a service names itself.
func checkName(spec *supervise.Spec) error {
	if !spec.Unit.Named() {
		return fmt.Errorf("%w: it is no workload with a name of its own", supervise.ErrUnknown)
	}
	return nil
}

// branch starts a workload that the unit has named. Whoever stops the unit later
// finds it alive.
func (u *unit) branch(ctx context.Context, spec supervise.Spec, reply chan<- error) {
	if !u.rec.State.Alive() {
		reply <- fmt.Errorf("%s: %w: it is not running", u.id, supervise.ErrNotReady)
		return
	}
	if u.rec.Ending.reason().Final() {
		reply <- u.errFinal()
		return
	}
	generations, err := u.s.vacate(ctx, spec.Unit)
	if err != nil {
		reply <- err
		return
	}
	child := newUnit(u.s, record{
		Spec: &spec, State: supervise.Starting, Since: time.Now(), Generation: generations, Passive: true, Parent: u.id,
	})
	child.starting = []chan<- error{reply}
	// It is launched before it hears anything else, as that it is to stop.
	by := u.by
	child.inbox <- func(ctx context.Context) {
		child.by = by
		child.launch(ctx)
	}
	if !u.s.add(child) {
		reply <- supervise.ErrRunning
		return
	}
	u.s.spawn(ctx, child, nil)
	u.tellSplit(child)
}

// errFinal is that the unit is ending, and nothing is to come out of it any more.
func (u *unit) errFinal() error {
	return fmt.Errorf("%s: %w: it is ending (%s)", u.id, supervise.ErrNotReady, u.rec.Ending.Reason)
}

// vacate makes the name of a unit that has ended free for another, and tells how
// many generations had it.
func (s *Supervisor) vacate(ctx context.Context, id tenure.UnitID) (generations int, err error) {
	if u, known := s.find(id); known && u.status.Load().State.Alive() {
		return 0, supervise.ErrRunning // It may be busy with just who asks.
	}
	generations, known, err := request(ctx, s, id, func(u *unit, _ context.Context, reply chan<- int) {
		if u.rec.State.Alive() {
			reply <- inUse
			return
		}
		u.forgotten = true
		s.drop(u)
		reply <- u.rec.Generation
	})
	if err == nil && known && generations == inUse {
		err = supervise.ErrRunning
	}
	return generations, err
}

// inUse is no number of generations.
const inUse = -1

// Adopt implements supervise.Brancher.
func (s *Supervisor) Adopt(ctx context.Context, spec supervise.Spec, process tenure.Process) error {
	err := s.await(ctx)
	if err == nil {
		err = checkName(&spec)
	}
	if err == nil {
		err = s.adoptProcess(ctx, spec, process)
	}
	if errors.Is(err, proc.ErrGone) {
		err = fmt.Errorf("%w: %w", supervise.ErrUnknown, err)
	}
	if err != nil {
		return fmt.Errorf("adopt process %d as %s: %w", process.PID, spec.Unit, err)
	}
	return nil
}

// errMoved is that a process is not among those of the unit that it was in.
var errMoved = fmt.Errorf("%w: the process is not the unit's own", supervise.ErrUnknown)

// adoptProcess asks the unit that the process is in for it: by its control group, as
// long as the process, of which it has hold, lives. Some other workload may have taken
// it from there meanwhile.
func (s *Supervisor) adoptProcess(ctx context.Context, spec supervise.Spec, process tenure.Process) error {
	handle, err := proc.Open(process)
	if err != nil {
		return err
	}
	defer handle.Close()
	var before tenure.UnitID
	for {
		owner, found, err := s.UnitOfProcess(handle)
		if err != nil {
			return err
		}
		if !found || owner.Snap != spec.Unit.Snap {
			return fmt.Errorf("%w: the process is of no unit of %s", supervise.ErrUnknown, spec.Unit.Snap)
		}
		failure, known, err := request(ctx, s, owner, func(u *unit, ctx context.Context, reply chan<- error) { reply <- u.letGoOf(ctx, spec, process) })
		if err == nil && !known {
			failure = errMoved
		}
		if !errors.Is(failure, errMoved) || owner == before {
			return errors.Join(err, failure)
		}
		before = owner
	}
}

// letGoOf makes a workload of one of the unit's processes and what came out of it.
func (u *unit) letGoOf(ctx context.Context, spec supervise.Spec, process tenure.Process) error {
	switch {
	case !u.rec.State.Alive():
		return errMoved
	case u.rec.Ending.reason().Final():
		return u.errFinal()
	case process == u.rec.Main && !u.rec.Passive:
		return fmt.Errorf("%w: it is the main process of %s", supervise.ErrRunning, u.id)
	case u.rec.Main.PID == 0 && u.rec.State == supervise.Starting:
		return fmt.Errorf("%s: %w: it may become the main process", u.id, supervise.ErrNotReady)
	case u.id == spec.Unit:
		return supervise.ErrRunning
	case len(u.rec.Claims) > 0:
		return fmt.Errorf("%s: %w: it has control groups that the service made, and stays whole", u.id, supervise.ErrRunning)
	}
	generations, err := u.s.vacate(ctx, spec.Unit)
	if err != nil {
		return err
	}
	main := u.rec.Main
	if u.rec.Passive {
		main = tenure.Process{}
	}
	thaw := u.freeze(ctx)
	infos, _ := u.living()
	p, err := family(infos, process, main)
	if err == nil {
		spec.Command.Argv = p.Leader.Args
		err = u.part(ctx, spec, generations, p)
	}
	thaw()
	if err == nil && slices.Contains(processesOf(p.Members), u.rec.Main) {
		u.main, u.rec.Main = nil, tenure.Process{}
	}
	u.save()
	u.groupChanged(ctx)
	return err
}

// family is a process with all that came out of it, but the main process. A group
// that the service made belongs to the family if nobody else is in it, and else
// stays with the service.
func family(infos []proc.Info, leader, main tenure.Process) (pick, error) {
	kin := make(map[int]proc.Info)
	for grown := true; grown; {
		grown = false
		for _, info := range infos {
			parent, ok := kin[info.PPID]
			born := info.Process == leader || ok && parent.Start <= info.Start
			if _, known := kin[info.PID]; born && !known && info.Process != main {
				kin[info.PID], grown = info, true
			}
		}
	}
	p := pick{Leader: kin[leader.PID]}
	if p.Leader.PID == 0 {
		return p, errMoved
	}
	shared := make(map[string]proc.Info)
	for _, info := range infos {
		if _, own := kin[info.PID]; info.Foreign && !own {
			shared[topGroup(info.Group)] = info
		}
	}
	if other, ok := shared[topGroup(p.Leader.Group)]; ok && p.Leader.Foreign {
		return p, fmt.Errorf("%w: it is in a control group that the service made, and so is process %d, which is none of its own", supervise.ErrRunning, other.PID)
	}
	for _, info := range infos {
		top := topGroup(info.Group)
		_, own := kin[info.PID]
		_, mixed := shared[top]
		switch {
		case !own:
		case !info.Foreign:
			p.Members = append(p.Members, info)
		case !mixed && !slices.Contains(p.Claims, top):
			p.Claims = append(p.Claims, top)
		}
	}
	return p, nil
}
