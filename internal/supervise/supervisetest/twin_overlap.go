package supervisetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/supervise"
)

var _ supervise.Overlapper = (*Twin)(nil)

// Succeed implements supervise.Overlapper.
func (t *Twin) Succeed(ctx context.Context, spec supervise.Spec) error {
	reply := make(chan error, 1)
	t.do(func() {
		if u := t.units[spec.Unit]; u != nil && !u.passive && spec.Unit.Kind == tenure.Service {
			u.succeed(spec, change.IDFrom(ctx), reply)
		} else {
			reply <- supervise.ErrUnknown
		}
	})
	failure, err := await(ctx, reply)
	if err := errors.Join(failure, err); err != nil {
		return fmt.Errorf("succeed %s: %w", spec.Unit, err)
	}
	return nil
}

func (u *twinUnit) succeed(spec supervise.Spec, by change.ID, reply chan<- error) {
	heir := u.successor()
	switch {
	case u.ending != nil:
		reply <- fmt.Errorf("%w: it is ending", supervise.ErrNotReady)
	case u.status.State.Alive() && reflect.DeepEqual(*u.spec(), spec):
		reply <- nil
	case heir == nil:
		own := spec
		own.Unit = u.status.Unit.Workload(tenure.Successor, u.status.Generation+1)
		heir = u.t.unit(own)
		heir.heir, heir.status.Generation = true, u.status.Generation
		heir.openSockets()
		heir.starting = append(heir.starting, reply)
		heir.launchFor(by)
	case !reflect.DeepEqual(heir.asService(), spec):
		reply <- supervise.ErrRunning
	case heir.ending != nil:
		reply <- fmt.Errorf("%w: it is ending", supervise.ErrNotReady)
	case heir.status.State == supervise.Starting:
		heir.starting = append(heir.starting, reply)
	default:
		reply <- nil
	}
}

// successor is that of the service u, if there is one.
func (u *twinUnit) successor() *twinUnit {
	for id, other := range u.t.units {
		if other.heir && id.Service() == u.status.Unit {
			return other
		}
	}
	return nil
}

// asService is the Spec of a successor as that of the service that it becomes.
func (u *twinUnit) asService() supervise.Spec {
	spec := *u.spec()
	spec.Unit = spec.Unit.Service()
	return spec
}

// TakeOver implements supervise.Overlapper.
func (t *Twin) TakeOver(ctx context.Context, service tenure.UnitID, drain time.Duration) (draining tenure.UnitID, err error) {
	t.do(func() {
		u := t.units[service]
		if u == nil {
			err = supervise.ErrUnknown
			return
		}
		heir := u.successor()
		if heir == nil || heir.status.State != supervise.Running || u.ending != nil {
			err = supervise.ErrNotReady
			return
		}
		if u.status.State.Alive() {
			draining = u.drain(drain, change.IDFrom(ctx))
		} else {
			u.disarm()
		}
		heir.inherit(change.IDFrom(ctx))
	})
	if err != nil {
		return draining, fmt.Errorf("let the successor of %s take over: %w", service, err)
	}
	return draining, nil
}

// drain gives the name of a service away.
func (u *twinUnit) drain(timeout time.Duration, by change.ID) tenure.UnitID {
	service, spec := u.status.Unit, *u.spec()
	spec.Unit = service.Workload(tenure.Draining, u.status.Main.PID)
	spec.Sockets, spec.Timer, spec.After = nil, "", nil
	spec.Restart = supervise.RestartPolicy{Condition: supervise.RestartNever}
	if timeout > 0 {
		spec.Stop.Timeout = timeout
	}
	u.answerStart(&supervise.StartError{Unit: service, Err: supervise.ErrNotReady})
	u.draining, u.status.Unit, u.status.Spec = true, spec.Unit, &spec
	u.t.units[spec.Unit] = u
	u.t.send(supervise.Event{
		Kind: supervise.EventSplit, Unit: spec.Unit, Revision: u.status.Revision, Parent: service, State: u.status.State,
		Processes: []tenure.Process{u.status.Main}, Change: by,
	})
	return spec.Unit
}

// inherit makes the successor the service.
func (u *twinUnit) inherit(by change.ID) {
	spec, successor := u.asService(), u.status.Unit
	delete(u.t.units, u.status.Unit)
	u.heir, u.status.Unit, u.status.Spec = false, spec.Unit, &spec
	u.t.units[spec.Unit] = u
	u.t.send(supervise.Event{
		Kind: supervise.EventMain, Unit: spec.Unit, Revision: u.status.Revision, Processes: []tenure.Process{u.status.Main},
		Parent: successor, Change: by,
	})
}
