package supervisetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// Twin is a supervisor in memory: it interprets Programs instead of running
// them, and has nothing of the machine but its clock. Its units outlive those
// who use it, as real ones outlive a daemon.
//
// One lock guards everything. Whatever happens (a request, a signal, a time that
// is over) is carried out whole before the next thing is; nothing waits with
// the lock held.
type Twin struct {
	mu        sync.Mutex
	later     []func()
	processes map[int]*process
	units     map[tenure.UnitID]*twinUnit
	sockets   map[string]*twinSocket
	readers   map[*reader]struct{}
	lines     []supervise.LogLine
	// printed is closed, and replaced, when lines grows.
	printed chan struct{}
	lastPID int
	record  supervise.Recorder
	arbiter supervise.Arbiter
}

// NewTwin is a supervisor that knows no unit.
func NewTwin() *Twin {
	return &Twin{
		processes: make(map[int]*process), units: make(map[tenure.UnitID]*twinUnit),
		sockets: make(map[string]*twinSocket), readers: make(map[*reader]struct{}), printed: make(chan struct{}), lastPID: 1000,
	}
}

// Record has everything that happens from now on recorded.
func (t *Twin) Record(record supervise.Recorder) { t.do(func() { t.record = record }) }

// Heed has an arbiter asked from now on.
func (t *Twin) Heed(arbiter supervise.Arbiter) { t.do(func() { t.arbiter = arbiter }) }

// do carries out f, and what it put off.
func (t *Twin) do(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for f(); len(t.later) > 0; {
		next := t.later[0]
		t.later = t.later[1:]
		next()
	}
}

// after carries out f when d is over, unless stop is called before.
func (t *Twin) after(d time.Duration, f func()) (stop func()) {
	stopped := false
	timer := time.AfterFunc(d, func() {
		t.do(func() {
			if !stopped {
				f()
			}
		})
	})
	return func() {
		stopped = true
		timer.Stop()
	}
}

// await waits for an answer, or for ctx.
func await[T any](ctx context.Context, reply <-chan T) (answer T, err error) {
	select {
	case answer = <-reply:
		return answer, nil
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	}
}

// rounds are units in the order of their starts: each round waits for those
// before it.
func rounds(units []tenure.UnitID, after map[tenure.UnitID][]tenure.UnitID) ([][]tenure.UnitID, error) {
	var all [][]tenure.UnitID
	done := map[tenure.UnitID]bool{}
	for len(done) < len(units) {
		var round []tenure.UnitID
		for _, unit := range units {
			waits := slices.ContainsFunc(after[unit], func(other tenure.UnitID) bool {
				return other != unit && slices.Contains(units, other) && !done[other]
			})
			if !done[unit] && !waits {
				round = append(round, unit)
			}
		}
		if len(round) == 0 {
			return nil, fmt.Errorf("units wait for each other: %v", units)
		}
		for _, unit := range round {
			done[unit] = true
		}
		all = append(all, round)
	}
	return all, nil
}

// Start implements supervise.Supervisor.
func (t *Twin) Start(ctx context.Context, specs ...supervise.Spec) error {
	byUnit, after := map[tenure.UnitID]supervise.Spec{}, map[tenure.UnitID][]tenure.UnitID{}
	var units []tenure.UnitID
	for _, spec := range specs {
		byUnit[spec.Unit], after[spec.Unit] = spec, spec.After
		units = append(units, spec.Unit)
	}
	order, err := rounds(units, after)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	for _, round := range order {
		replies := make([]chan error, len(round))
		for i, unit := range round {
			replies[i] = make(chan error, 1)
			t.do(func() { t.unit(byUnit[unit]).start(byUnit[unit], change.IDFrom(ctx), replies[i]) })
		}
		for i := range round {
			failure, err := await(ctx, replies[i])
			if err := errors.Join(failure, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// unit is the unit of spec, which may be new.
func (t *Twin) unit(spec supervise.Spec) *twinUnit {
	u := t.units[spec.Unit]
	if u == nil {
		u = &twinUnit{t: t, status: supervise.Status{Unit: spec.Unit, Revision: spec.Revision, State: supervise.Inactive, Since: time.Now(), Spec: &spec}}
		t.units[spec.Unit] = u
	}
	return u
}

// Stop implements supervise.Supervisor.
func (t *Twin) Stop(ctx context.Context, req supervise.StopRequest) (supervise.Ended, error) {
	ended := supervise.Ended{Exits: map[tenure.UnitID]proc.Exit{}}
	after := map[tenure.UnitID][]tenure.UnitID{}
	t.do(func() {
		for _, id := range req.Units {
			if u := t.units[id]; u != nil {
				after[id] = u.status.Spec.After
			}
		}
	})
	order, err := rounds(req.Units, after)
	if err != nil {
		return ended, fmt.Errorf("stop: %w", err)
	}
	var failures []error
	for _, round := range slices.Backward(order) {
		failures = append(failures, t.stopRound(ctx, round, req, &ended))
	}
	t.do(func() { ended.Left = t.left(req.Units) })
	return ended, errors.Join(failures...)
}

func (t *Twin) stopRound(ctx context.Context, round []tenure.UnitID, req supervise.StopRequest, ended *supervise.Ended) error {
	replies := make([]chan twinEnded, len(round))
	for i, id := range round {
		replies[i] = make(chan twinEnded, 1)
		t.do(func() {
			if u := t.units[id]; u != nil {
				u.stop(req, change.IDFrom(ctx), replies[i])
			} else {
				replies[i] <- twinEnded{}
			}
		})
	}
	var failures []error
	for i, id := range round {
		answer, err := await(ctx, replies[i])
		if err := errors.Join(err, answer.err); err != nil {
			failures = append(failures, fmt.Errorf("stop %s: %w", id, err))
		}
		if answer.exit != nil {
			ended.Exits[id] = *answer.exit
		}
		if answer.killed {
			ended.Killed = append(ended.Killed, id)
		}
	}
	return errors.Join(failures...)
}

// left are the living workloads of units.
func (t *Twin) left(units []tenure.UnitID) []tenure.UnitID {
	var left []tenure.UnitID
	for id, u := range t.units {
		if id.Kind == tenure.Workload && u.status.State.Alive() && slices.Contains(units, id.Service()) && !slices.Contains(units, id) {
			left = append(left, id)
		}
	}
	slices.SortFunc(left, compareNames)
	return left
}

func compareNames(a, b tenure.UnitID) int { return strings.Compare(a.String(), b.String()) }

// Reload implements supervise.Supervisor.
func (t *Twin) Reload(ctx context.Context, req supervise.ReloadRequest) error {
	reply, id := make(chan error, 1), req.Spec.Unit
	t.do(func() {
		if u := t.units[id]; u != nil {
			u.reload(req, change.IDFrom(ctx), reply)
		} else {
			reply <- supervise.ErrUnknown
		}
	})
	failure, err := await(ctx, reply)
	if err := errors.Join(failure, err); err != nil {
		return fmt.Errorf("reload %s: %w", id, err)
	}
	return nil
}

// Split implements supervise.Splitter.
func (t *Twin) Split(_ context.Context, service tenure.UnitID) (err error) {
	t.do(func() {
		switch u := t.units[service]; {
		case u == nil:
			err = fmt.Errorf("split %s: %w", service, supervise.ErrUnknown)
		case u.status.State == supervise.Running || u.status.State == supervise.Reloading:
			u.split()
		}
	})
	return err
}

// Units implements supervise.Supervisor.
func (t *Twin) Units(context.Context) ([]supervise.Status, error) {
	var list []supervise.Status
	t.do(func() {
		for _, u := range t.units {
			list = append(list, u.status)
		}
	})
	slices.SortFunc(list, func(a, b supervise.Status) int { return compareNames(a.Unit, b.Unit) })
	return list, nil
}

// Processes implements supervise.Supervisor.
func (t *Twin) Processes(_ context.Context, id tenure.UnitID) (infos []proc.Info, err error) {
	t.do(func() {
		u := t.units[id]
		if u == nil {
			err = fmt.Errorf("processes of %s: %w", id, supervise.ErrUnknown)
			return
		}
		for _, p := range u.living() {
			infos = append(infos, p.info())
		}
	})
	return infos, err
}

// Forget implements supervise.Supervisor.
func (t *Twin) Forget(_ context.Context, units ...tenure.UnitID) (err error) {
	t.do(func() {
		for _, id := range units {
			u := t.units[id]
			switch {
			case u == nil:
			case u.status.State.Alive() || len(u.living()) > 0:
				err = errors.Join(err, fmt.Errorf("forget %s: %w", id, supervise.ErrRunning))
			default:
				u.disarm()
				u.closeSockets()
				delete(t.units, id)
			}
		}
	})
	return err
}

// Track implements supervise.Tracker.
func (t *Twin) Track(_ context.Context, spec supervise.Spec, process tenure.Process) (err error) {
	t.do(func() {
		p := t.processes[process.PID]
		switch {
		case p == nil || p.Process != process:
			err = fmt.Errorf("track %s: %w", spec.Unit, proc.ErrGone)
		case t.units[spec.Unit] != nil:
			err = fmt.Errorf("track %s: %w", spec.Unit, supervise.ErrRunning)
		default:
			t.adopt(spec, p, t.descendants(p))
		}
	})
	return err
}

// Spawn starts a program that belongs to no unit.
func (t *Twin) Spawn(p Program) (process tenure.Process) {
	t.do(func() { process = t.spawn(nil, p, 1, nil).Process })
	return process
}

// reader is one consumer of events.
type reader struct {
	events []supervise.Event
	wake   chan struct{}
}

// send tells everybody who listens.
func (t *Twin) send(e supervise.Event) {
	e.Time = time.Now()
	if t.record != nil {
		t.record(e)
	}
	for r := range t.readers {
		r.events = append(r.events, e)
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// Events implements supervise.Supervisor. No consumer is ever too slow.
func (t *Twin) Events(ctx context.Context) iter.Seq[supervise.Event] {
	r := &reader{wake: make(chan struct{}, 1)}
	t.do(func() { t.readers[r] = struct{}{} })
	return func(yield func(supervise.Event) bool) {
		defer t.do(func() { delete(t.readers, r) })
		for {
			var events []supervise.Event
			t.do(func() { events, r.events = r.events, nil })
			for _, e := range events {
				if !yield(e) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
			}
		}
	}
}
