package native

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

const (
	// defaultSettle is for who has left its parent: it has gone to the background, or
	// is about to fork for the second and last time.
	defaultSettle = 200 * time.Millisecond
	// childrenSettle is how much longer it is for who has not: even on a machine that
	// is busy, a program that goes to the background has done so by then.
	childrenSettle = 10
	// earlyPatience bounds how long a service that goes on may stand still. With one whose
	// processes do not, because one is deep inside the kernel, or waits for a processor, it is tried again
	// after earlyAgain, so that it stands still for little of its time; at the latest it is split when it stops.
	earlyPatience = 200 * time.Millisecond
	earlyAgain    = 10 * time.Second
)

// early is how a unit is split while it goes on.
type early struct {
	stand func(context.Context, time.Duration) (thaw func(), err error)
	again time.Duration
	// failed is that it did not stand still the last time.
	failed bool
}

// nursery hears of processes that become other programs, and wakes the unit of each
// that matches one of its patterns. It listens only while a service with patterns
// runs, so that nobody is woken for the programs of an idle machine.
type nursery struct {
	s *Supervisor

	mu       sync.Mutex
	followed map[*unit]*followed
	// deafen ends the listening; nil when nobody listens.
	deafen context.CancelFunc
}

// followed is a service that runs.
type followed struct {
	matchers []matcher
	// woken is that it has been told to look, and has not yet.
	woken bool
}

// follow is told whenever the state of a unit may have changed.
func (n *nursery) follow(u *unit) {
	wanted := u.keeps() && u.rec.State.Alive()
	n.mu.Lock()
	defer n.mu.Unlock()
	known := n.followed[u]
	switch {
	case wanted && known != nil:
		known.matchers = u.matchers
	case wanted:
		if n.followed == nil {
			n.followed = make(map[*unit]*followed)
		}
		n.followed[u] = &followed{matchers: u.matchers}
		n.begin()
	case known != nil:
		delete(n.followed, u)
		if len(n.followed) == 0 {
			n.deafen()
			n.deafen = nil
		}
	}
}

// begin listens, if nobody does.
func (n *nursery) begin() {
	if n.deafen != nil {
		return
	}
	var ctx context.Context
	ctx, n.deafen = context.WithCancel(n.s.life)
	n.s.wg.Go(func() { n.listen(ctx) })
}

// listen wakes units until ctx ends.
func (n *nursery) listen(ctx context.Context) {
	births, err := proc.Births(ctx, proc.Executed)
	if err != nil {
		n.s.cfg.Logger.Info("workloads are set apart only when their services stop", slog.Any("error", err))
		return
	}
	n.wakeAll() // What became what it is before anybody listened.
	for birth := range births {
		if birth.Kind == proc.Missed {
			n.wakeAll()
			continue
		}
		n.executed(birth.PID)
	}
}

// executed wakes the unit that a process belongs to, if it looks like a workload, or is
// in a group that was made below the unit's own: perhaps for a workload.
func (n *nursery) executed(pid int) {
	group, err := n.s.cfg.Hierarchy.GroupOf(pid)
	if err != nil {
		return
	}
	if _, ours := group.Rel(n.s.cfg.Hierarchy); !ours {
		return
	}
	owner, _ := n.s.owner(group.Path())
	u, ok := n.s.find(owner)
	if !ok {
		return
	}
	info, err := proc.Read(pid)
	if err != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if service := n.followed[u]; service != nil {
		_, matches := match(service.matchers, info)
		if matches || group.Path() != u.status.Load().Group {
			n.wake(u, service)
		}
	}
}

func (n *nursery) wakeAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for u, service := range n.followed {
		n.wake(u, service)
	}
}

// wake tells a unit to look, once until it does. Nobody waits for it.
func (n *nursery) wake(u *unit, service *followed) {
	if service.woken {
		return
	}
	service.woken = true
	u.background(func(ctx context.Context) {
		_ = u.tell(ctx, func(ctx context.Context) {
			n.mu.Lock()
			service.woken = false
			n.mu.Unlock()
			u.setApartEarly(ctx)
		})
	})
}

// setApartEarly splits a unit that runs on, as soon as there is something to be set
// apart that has lived long enough.
func (u *unit) setApartEarly(ctx context.Context) {
	if !u.knowsMain() || !u.keeps() || u.rec.Group == "" {
		return
	}
	if grown := u.grown(); len(grown) == 0 {
		return
	}
	thaw, err := u.early.stand(ctx, earlyPatience)
	defer thaw()
	if err != nil {
		if !u.early.failed {
			u.warn("workloads are not set apart yet", err)
		}
		u.early.failed = true
		u.setAlarm(alarmSplit, u.early.again)
		return
	}
	u.early.failed = false
	u.giveAll(ctx, u.grown())
	u.save()
}

// knowsMain reports whether the unit goes on, and what is forked is not to become
// its main process.
func (u *unit) knowsMain() bool {
	switch u.rec.State {
	case supervise.Running, supervise.Reloading:
		return true
	case supervise.Starting:
		return u.rec.Spec.Type != supervise.Forking && u.rec.Main.PID != 0
	case supervise.Inactive, supervise.Listening, supervise.Waiting, supervise.Stopping, supervise.Backoff, supervise.Failed:
		return false
	}
	return false
}

// grown are the workloads that have settled. For the others the alarm is set.
func (u *unit) grown() []pick {
	infos, ok := u.living()
	if !ok {
		return nil
	}
	picks := classify(u.matchers, u.rec.Main, infos, u.kin(infos)).Picks
	u.clearAlarms(alarmSplit)
	var next time.Duration
	picks = slices.DeleteFunc(picks, func(p pick) bool {
		settle := u.s.cfg.Settle
		if slices.ContainsFunc(infos, func(i proc.Info) bool { return i.PID == p.Leader.PPID }) {
			settle *= childrenSettle
		}
		left := settle - time.Since(p.Leader.Started)
		if left > 0 {
			u.awaitExit(p.Leader.Process, left)
			if next == 0 || left < next {
				next = left
			}
		}
		return left > 0
	})
	if next > 0 {
		u.setAlarm(alarmSplit, next)
	}
	return picks
}

// awaitExit looks again when a process ends within a time: what it has left in the
// background is what stays.
func (u *unit) awaitExit(process tenure.Process, within time.Duration) {
	if u.young[process] {
		return
	}
	handle, err := proc.Open(process)
	if err != nil {
		return
	}
	u.young[process] = true
	u.background(func(ctx context.Context) {
		defer handle.Close()
		within, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		_, err := handle.Wait(within)
		_ = u.tell(ctx, func(ctx context.Context) {
			delete(u.young, process)
			if err == nil {
				u.setApartEarly(ctx)
			}
		})
	})
}
