package supervisetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/supervise"
)

// Branch implements supervise.Brancher.
func (t *Twin) Branch(ctx context.Context, parent tenure.UnitID, spec supervise.Spec) error {
	reply := make(chan error, 1)
	t.do(func() {
		generations, err := t.vacate(spec.Unit)
		switch service := t.units[parent]; {
		case err != nil:
		case service == nil:
			err = supervise.ErrUnknown
		case !service.status.State.Alive(), service.endsFinally():
			err = supervise.ErrNotReady
		}
		if err != nil {
			reply <- err
			return
		}
		u := &twinUnit{t: t, passive: true, starting: []chan<- error{reply}, status: supervise.Status{
			Unit: spec.Unit, Revision: spec.Revision, State: supervise.Starting, Generation: generations, Since: time.Now(), Spec: &spec,
		}}
		t.units[spec.Unit] = u
		u.launchFor(change.IDFrom(ctx))
		t.tellSplit(u, t.units[parent])
	})
	failure, err := await(ctx, reply)
	if err := errors.Join(failure, err); err != nil {
		return fmt.Errorf("start workload %s: %w", spec.Unit, err)
	}
	return nil
}

// endsFinally reports whether nothing is to come out of the unit any more.
func (u *twinUnit) endsFinally() bool { return u.ending != nil && u.ending.Reason.Final() }

// vacate is how many generations had a name that is to be given to a workload.
func (t *Twin) vacate(id tenure.UnitID) (generations int, err error) {
	switch u := t.units[id]; {
	case !id.Named():
		return 0, supervise.ErrUnknown
	case u == nil:
		return 0, nil
	case u.status.State.Alive():
		return 0, supervise.ErrRunning
	default:
		return u.status.Generation, nil
	}
}

// Adopt implements supervise.Brancher.
func (t *Twin) Adopt(_ context.Context, spec supervise.Spec, process tenure.Process) (err error) {
	t.do(func() {
		if err = t.adoptProcess(spec, process); err != nil {
			err = fmt.Errorf("adopt %d as %s: %w", process.PID, spec.Unit, err)
		}
	})
	return err
}

func (t *Twin) adoptProcess(spec supervise.Spec, as tenure.Process) error {
	generations, err := t.vacate(spec.Unit)
	p := t.processes[as.PID]
	switch {
	case err != nil:
		return err
	case p == nil || p.Process != as || p.unit == nil || p.unit.status.Unit.Snap != spec.Unit.Snap:
		return supervise.ErrUnknown
	case p.unit.endsFinally():
		return supervise.ErrNotReady
	case p == p.unit.main && !p.unit.passive:
		return supervise.ErrRunning
	}
	from := p.unit
	family := slices.DeleteFunc(t.descendants(p), func(q *process) bool { return q.unit != from || q == from.main && q != p })
	u := t.adopt(spec, p, family)
	u.status.Generation = generations + 1
	t.tellSplit(u, from)
	if from.passive && slices.Contains(family, from.main) {
		from.nextMain()
	}
	return nil
}

func (t *Twin) tellSplit(u, parent *twinUnit) {
	e := supervise.Event{
		Kind: supervise.EventSplit, Unit: u.status.Unit, Revision: u.status.Revision, Parent: parent.status.Unit, State: supervise.Running,
	}
	if u.main != nil {
		e.Processes, e.Command = []tenure.Process{u.main.Process}, u.main.info().CommandLine()
	}
	if parent.ending != nil {
		e.Change, e.Reason = parent.ending.change, parent.ending.Reason
	}
	t.send(e)
}
