package native

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// Doorkeeper is the ability of a Host to keep declared sockets open and to watch timers by
// itself. What it keeps is not passed to Launch: the host has it.
type Doorkeeper interface {
	// Keeps reports whether a declared socket is for the host to keep. Others are kept by the holder.
	Keeps(service *supervise.Spec, socket supervise.Socket) bool
	// Open opens those that are for the host to keep and are not open.
	Open(ctx context.Context, service *supervise.Spec) error
	// Close closes sockets, which are gone when the service is next opened, or Closed
	// returns. It is told whether they have been replaced by others, or are to be opened again.
	Close(service *supervise.Spec, sockets []supervise.Socket, replaced bool)
	Closed(ctx context.Context, service tenure.UnitID) error
	// Arm is told that a service waits for a connection (Supervisor.Connected) or its timer
	// (Supervisor.Struck), and what it is started from then. It reports whether it watches the timer.
	Arm(service *supervise.Spec) (timed bool)
	// Disarm is told that the timer of a service is not to be watched.
	Disarm(service tenure.UnitID)
}

func (u *unit) doorkeeper() Doorkeeper {
	keeper, _ := u.s.cfg.Host.(Doorkeeper)
	return keeper
}

// held are the sockets that the holder keeps for the unit.
func (u *unit) held() []supervise.Socket {
	keeper, spec := u.doorkeeper(), asService(u.rec.Spec)
	if keeper == nil {
		return spec.Sockets
	}
	return slices.DeleteFunc(slices.Clone(spec.Sockets), func(s supervise.Socket) bool { return keeper.Keeps(spec, s) })
}

// openByHost has the host open what it keeps, and close what old has declared.
func (u *unit) openByHost(ctx context.Context, old *supervise.Spec) error {
	keeper := u.doorkeeper()
	if keeper == nil {
		return nil
	}
	if u.rec.Spec.Timer == "" && old.Timer != "" {
		keeper.Disarm(u.id)
	}
	gone := withoutAlike(old.Sockets, u.rec.Spec.Sockets)
	if len(gone) > 0 {
		keeper.Close(u.rec.Spec, gone, true)
	}
	if len(u.rec.Spec.Sockets) == 0 {
		return nil
	}
	return keeper.Open(ctx, u.rec.Spec)
}

// alike reports whether sockets are the same, whatever they are called. Only a file has a mode.
func alike(a, b supervise.Socket) bool {
	return a.Network == b.Network && a.Address == b.Address && (a.Mode == b.Mode || a.Network != "unix")
}

// withoutAlike are the sockets that are not among others, whatever they are called.
func withoutAlike(sockets, others []supervise.Socket) (rest []supervise.Socket) {
	for _, socket := range sockets {
		if !slices.ContainsFunc(others, func(o supervise.Socket) bool { return alike(o, socket) }) {
			rest = append(rest, socket)
		}
	}
	return rest
}

// closeByHost has the host close what it keeps for a unit that has no process and is to have none.
func (u *unit) closeByHost() {
	if keeper := u.doorkeeper(); keeper != nil {
		if u.rec.Spec.Timer != "" {
			keeper.Disarm(u.id)
		}
		if len(u.rec.Spec.Sockets) > 0 {
			keeper.Close(u.rec.Spec, u.rec.Spec.Sockets, false)
		}
	}
	u.answerCallers()
}

// Connected is told by the Host that somebody has connected to a service. It returns
// when nobody need be told again: the service runs, or its sockets are closed. Within the gap of a
// change that is after the gap.
func (s *Supervisor) Connected(ctx context.Context, service tenure.UnitID) error {
	if err := s.await(ctx); err != nil {
		return fmt.Errorf("connect to %s: %w", service, err)
	}
	_, err := requestKnown(ctx, s, service, func(u *unit, ctx context.Context, reply chan<- struct{}) {
		if u.served() {
			reply <- struct{}{}
			return
		}
		u.callers = append(u.callers, reply)
		if u.rec.State == supervise.Listening {
			u.connected(ctx)
		}
	})
	if err != nil {
		return fmt.Errorf("connect to %s: %w", service, err)
	}
	return nil
}

// served reports whether nobody need be told that somebody has connected: the service runs, and has the connection,
// or is down and has no sockets. Those of one that could not be started are open still.
func (u *unit) served() bool {
	switch u.rec.State {
	case supervise.Running, supervise.Reloading, supervise.Waiting:
		return true
	case supervise.Inactive:
		return !u.rec.Holding
	case supervise.Listening, supervise.Starting, supervise.Backoff, supervise.Stopping, supervise.Failed:
	}
	return false
}

func (u *unit) answerCallers() {
	for _, reply := range u.callers {
		reply <- struct{}{}
	}
	u.callers = nil
}

// Struck is told by the Host that the time of a service has come. One that runs goes on.
func (s *Supervisor) Struck(ctx context.Context, service tenure.UnitID) error {
	err := s.await(ctx)
	if err == nil {
		_, err = requestKnown(ctx, s, service, func(u *unit, ctx context.Context, reply chan<- struct{}) {
			if u.rec.State == supervise.Waiting || u.rec.State == supervise.Listening && u.rec.Spec.Timer != "" {
				u.launchByItself(ctx)
			}
			reply <- struct{}{}
		})
	}
	if err != nil {
		return fmt.Errorf("timer of %s: %w", service, err)
	}
	return nil
}

// Held reports whether a service is down in the middle of a change, in the records of a supervisor of this
// boot in a directory (Config.StateDir): it is not to be started then but by who goes on with the change.
func Held(dir, boot string, service tenure.UnitID) bool {
	rec, err := readRecord(records{dir}.path(service))
	if err != nil || rec.Boot != boot {
		return false
	}
	return rec.Holding || rec.InGap || rec.Ending != nil && rec.Ending.Hold
}

// Elsewhere reports whether a service runs, in those records, in another group than one of a name.
func Elsewhere(dir, boot string, service tenure.UnitID, name string) bool {
	rec, err := readRecord(records{dir}.path(service))
	if err != nil || rec.Boot != boot || rec.Group == "" || filepath.Base(rec.Group) == name {
		return false
	}
	main, err := proc.Open(rec.Main)
	if err != nil {
		return false
	}
	defer main.Close()
	ended, err := main.Ended()
	return err == nil && !ended
}

// gaps counts the gaps of changes, for a Doorkeeper that starts what is not held (Held).
type gaps struct {
	mu sync.Mutex
	// last is the number of the last gap, open that it is not over.
	last int
	open bool
}

// now is the number of the gap that is open; 0 is none.
func (g *gaps) now() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		return g.last
	}
	return 0
}

// turn notes a beginning or an end, and gives the number of the gap.
func (g *gaps) turn(begins bool) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if begins {
		g.last++
	}
	g.open = begins
	return g.last
}

// Turn is told when the first change enters a gap, and when the last has left it. What was made ready in
// it is held until then.
func (s *Supervisor) Turn(begins bool) {
	gap := s.gaps.turn(begins)
	if begins {
		return
	}
	go func() {
		select {
		case <-s.ready:
		case <-s.ended:
			return
		}
		for _, u := range s.all() {
			_ = u.tell(s.life, func(context.Context) { u.leaveGap(gap) }) // One that is gone is not held.
		}
	}()
}

// enterGap has the unit held, if it is made ready in a gap; the caller writes the record.
func (u *unit) enterGap() {
	u.gap = u.s.gaps.now()
	u.rec.InGap = u.gap > 0 && u.doorkeeper() != nil
}

// leaveGap lets the unit go that was made ready in a gap, or in one of an earlier supervisor.
func (u *unit) leaveGap(gap int) {
	if u.rec.InGap && u.gap <= gap {
		u.rec.InGap = false
		u.save()
	}
}
