package native

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// alarm names one of the times at which something happens to a unit.
type alarm string

const (
	// alarmStart is when the unit must be ready.
	alarmStart alarm = "start"
	// alarmStop is when the grace of the current phase of ending is over.
	alarmStop alarm = "stop"
	// alarmAux is when the command that runs for the unit must have ended.
	alarmAux alarm = "aux"
	// alarmWatchdog is when the next sign of life is due.
	alarmWatchdog alarm = "watchdog"
	// alarmBackoff is when the unit is started again.
	alarmBackoff alarm = "backoff"
	// alarmSplit is when what may be a workload has lived long enough to be one.
	alarmSplit alarm = "split"
	// alarmAgain is when those are told whom the daemon had no room to tell.
	alarmAgain alarm = "again"
	// alarmAftermath is when what is left of the last life is taken down.
	alarmAftermath alarm = "aftermath"
)

// errForgotten is that a unit was forgotten before a message reached it.
var errForgotten = errors.New("unit was forgotten")

// unit is the actor. Everything below groups, and id, belongs to its goroutine.
type unit struct {
	s *Supervisor
	// id is another one after a hand-over (overlap.go). Others read it in status.
	id tenure.UnitID
	// home is the name of the runtime directory, which stays the same for life.
	home   string
	inbox  chan func(context.Context)
	gone   chan struct{}
	status atomic.Pointer[published]
	// groups are the unit's own, for those who look a process up.
	groups atomic.Pointer[territory]

	rec      record
	matchers []matcher
	// main is nil when the main process has ended, or none was there yet.
	main  *proc.Handle
	aux   *proc.Handle
	watch *proc.Watch
	// extra are watches of claimed groups.
	extra     []*proc.Watch
	notify    *notifySocket
	listening func()
	// ticking ends the wait for the unit's own timer.
	ticking func()
	// callers wait until those who have connected are served (Connected).
	callers []chan<- struct{}
	// awaiting ends the wait for a bus name; unready is why there will be none.
	awaiting func()
	unready  error
	early    early
	// adopting is that it has not looked where it is yet: alarms that became due meanwhile do not know either.
	adopting bool
	// barriers are what waits until all is heard that a process has said.
	barriers map[string]func(context.Context)
	// young are processes that may be workloads when they have settled, and whose
	// ends are waited for until then.
	young     map[tenure.Process]bool
	timer     *time.Timer
	prepared  *prepared
	aftermath aftermath
	forgotten bool
	// untold is that there are processes that cannot be signalled, and unnoted that there are descriptors
	// that could not be noted: both are said once.
	untold, unnoted bool
	// by is the change that the request which is carried out now is part of.
	by change.ID
	// gap is the number of the gap in which the unit was made ready; 0 for none, or one of an earlier supervisor.
	gap int

	starting  []chan<- error
	stopping  []chan<- stopAnswer
	reloading []chan<- error
	queued    []queuedStart
}

// queuedStart is a start that waits for the end of the unit.
type queuedStart struct {
	spec  supervise.Spec
	by    change.ID
	reply chan<- error
}

// published is what everybody may see of a unit, with its name, by which many are sorted.
type published struct {
	supervise.Status

	name string
}

func newUnit(s *Supervisor, rec record) *unit {
	rec.Boot = s.boot
	if rec.Deadline == nil {
		rec.Deadline = make(map[alarm]moment)
	}
	u := &unit{
		s: s, id: rec.Spec.Unit, rec: rec, home: cmp.Or(rec.Home, encodeUnit(rec.Spec.Unit)),
		inbox: make(chan func(context.Context), 4),
		gone:  make(chan struct{}),

		early:    early{again: earlyAgain},
		barriers: make(map[string]func(context.Context)),
		young:    make(map[tenure.Process]bool),
	}
	u.early.stand = u.stand
	u.publish()
	return u
}

// tell sends a message to the actor.
func (u *unit) tell(ctx context.Context, m func(context.Context)) error {
	select {
	case u.inbox <- m:
		return nil
	case <-u.gone:
		return errForgotten
	case <-u.s.ended:
		return ErrEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run is the actor: it ends with ctx, leaving everything as it is, or when the
// unit is forgotten. What it does is not cut off by ctx, only what it waits for.
func (u *unit) run(ctx context.Context) {
	defer close(u.gone)
	defer u.letGo()
	u.timer = time.NewTimer(time.Hour)
	defer u.timer.Stop()
	for !u.forgotten {
		u.setTimer()
		var changed <-chan struct{}
		if u.watch != nil {
			changed = u.watch.C()
		}
		select {
		case <-ctx.Done():
			return
		case m := <-u.inbox:
			u.by = 0
			m(ctx)
		case _, open := <-changed:
			if !open {
				u.watch = nil
			}
			u.by = 0
			u.groupChanged(ctx)
		case <-u.timer.C:
			u.by = 0
			u.ring(ctx)
		}
	}
}

// letGo closes what the actor holds, which ends no process.
func (u *unit) letGo() {
	u.stopListening()
	u.stopTicking()
	u.stopAwaiting()
	u.closeNotify()
	u.unwatch()
	u.unprepare()
	u.tidy()
}

// setTimer sets the one timer to the nearest alarm.
func (u *unit) setTimer() {
	if u.adopting {
		u.timer.Stop()
		return
	}
	next := moment(0)
	for _, at := range u.rec.Deadline {
		if next == 0 || at < next {
			next = at
		}
	}
	if next == 0 {
		u.timer.Stop()
		return
	}
	u.timer.Reset(max(0, next.left()))
}

// ring carries out all alarms that are due.
func (u *unit) ring(ctx context.Context) {
	now := present()
	for _, name := range slices.Sorted(maps.Keys(u.rec.Deadline)) {
		at, set := u.rec.Deadline[name]
		if !set || at > now {
			continue
		}
		delete(u.rec.Deadline, name)
		switch name {
		case alarmStart:
			u.startTimedOut(ctx)
		case alarmStop:
			u.graceOver(ctx)
		case alarmAux:
			u.auxTimedOut(ctx)
		case alarmWatchdog:
			u.watchdogMissed(ctx)
		case alarmBackoff:
			u.launchByItself(ctx)
		case alarmSplit:
			u.setApartEarly(ctx)
		case alarmAgain:
			u.tellAgain(ctx)
		case alarmAftermath:
			u.tidy()
		}
	}
}

func (u *unit) setAlarm(name alarm, after time.Duration) {
	u.rec.Deadline[name] = in(after)
}

func (u *unit) clearAlarms(names ...alarm) {
	for _, name := range names {
		delete(u.rec.Deadline, name)
	}
}

// state moves the unit to a state, writes the record, and tells.
func (u *unit) state(state supervise.State) {
	u.turn(state, u.save)
}

// turn is state, with what makes the new state known before it is told.
func (u *unit) turn(state supervise.State, know func()) {
	changed := u.rec.State != state
	if changed {
		u.rec.State, u.rec.Since = state, time.Now()
	}
	know()
	if changed {
		e := supervise.Event{Kind: supervise.EventState, State: state, Exit: u.rec.Exit, Reason: u.rec.Ending.reason()}
		if u.rec.Main.PID != 0 {
			e.Processes = []tenure.Process{u.rec.Main}
		}
		u.event(e)
	}
	if state == supervise.Running {
		u.answerCallers()
	}
}

// save writes the record and publishes it. What cannot be written is told, and
// found by the next supervisor from the group instead.
func (u *unit) save() {
	u.aftermath.unwritten = false
	if err := u.s.records.save(&u.rec); err != nil {
		u.warn("record cannot be written", err)
	}
	u.publish()
}

// publish makes the state visible to those who do not ask the actor.
func (u *unit) publish() {
	status := &published{Status: supervise.Status{
		Unit: u.id, Revision: u.rec.Spec.Revision, State: u.rec.State, Main: u.rec.Main,
		Generation: u.rec.Generation, Group: u.rec.Group, Since: u.rec.Since, Started: u.rec.Started,
		Text: u.rec.Text, Restarts: u.rec.Restarts, LastExit: u.rec.LastExit,
		Spec: u.rec.Spec,
	}}
	if before := u.status.Load(); before != nil && before.Unit == u.id {
		status.name = before.name
	} else {
		status.name = u.id.String()
	}
	if status.Group == "" && len(u.rec.Claims) > 0 {
		status.Group = u.rec.Claims[0]
	}
	// Another supervisor's main process is known before it is held.
	here := u.territory()
	here.main = u.rec.Main
	here.ceded, here.claims, here.moving = slices.Clone(here.ceded), slices.Clone(here.claims), slices.Clone(here.moving)
	u.groups.Store(&here)
	u.status.Store(status)
	u.s.nursery.follow(u)
}

// name is the unit's id, for others than the actor.
func (u *unit) name() tenure.UnitID { return u.status.Load().Unit }

// keeper is the unit under whose name the holder keeps what all generations of a
// service share.
func (u *unit) keeper() tenure.UnitID {
	if u.rec.Heir || u.rec.Draining {
		return u.id.Service()
	}
	return u.id
}

// ownGroups are the absolute paths of the unit's groups. Claims come first, for
// they may be below a group of another unit, which then does not count.
func (u *unit) ownGroups() []string { return u.groups.Load().own() }

func (u *unit) warn(what string, err error) {
	u.s.cfg.Logger.Warn("unit: "+what, slog.String("unit", u.id.String()), slog.Any("error", err)) //nolint:sloglint // The prefix is constant, and so is what every caller passes.
}

// processes are the living processes of the unit, oldest first, without those
// in groups that were ceded to other units. A main process that has left the unit's
// groups is one of them.
func (u *unit) processes() ([]proc.Info, error) {
	here := u.territory()
	return here.processes(u.s, proc.Group.Processes)
}

// inside are the processes in the unit's groups.
func (u *unit) inside() ([]proc.Info, error) {
	here := u.territory()
	return here.inside(proc.Group.Processes)
}

// outside are those of the unit that are in none of its groups.
func (u *unit) outside(inside []proc.Info) []proc.Info {
	here := u.territory()
	return here.outside(u.s, inside)
}

// territory is where the unit's processes are now. Who keeps it copies its lists.
func (u *unit) territory() territory {
	t := territory{group: u.rec.Group, ceded: u.rec.Ceded, claims: u.rec.Claims, moving: u.rec.Moving, keeps: u.keeps()}
	if u.main != nil {
		t.main = u.rec.Main
	}
	return t
}

// living is processes for those who cannot do anything about an error but
// assume that there are some. A unit that is ending is looked at again then.
func (u *unit) living() (infos []proc.Info, ok bool) {
	infos, err := u.processes()
	if err != nil {
		u.warn("processes cannot be listed", err)
		if u.rec.Ending != nil {
			u.setAlarm(alarmAgain, againPause)
		}
	}
	return infos, err == nil
}

// background runs f beside the actor. Its context is the supervisor's own, and
// not that of the message that began it: nothing may keep Run from returning.
func (u *unit) background(f func(context.Context)) {
	u.s.wg.Go(func() { f(u.s.life) })
}

// holdMain makes a process the main one and waits for its end. One that was main
// before is still waited for: it may be a child that nobody else reaps.
func (u *unit) holdMain(handle *proc.Handle) {
	u.main, u.rec.Main = handle, handle.Process()
	group := u.rec.Group
	u.background(func(ctx context.Context) {
		defer handle.Close()
		// Wait would take a goroutine more, and most of what a unit needs of memory is stacks.
		release := context.AfterFunc(ctx, handle.Close)
		defer release()
		exit, err := handle.Stay()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			exit = proc.Exit{}
		}
		if !exit.Known {
			exit = u.exitByHost(ctx, group, handle.Process())
		}
		_ = u.tell(ctx, func(ctx context.Context) {
			u.afterNotified(ctx, func(ctx context.Context) { u.mainExited(ctx, handle, exit) })
		})
	})
}

// mainExited is told once for every main process that ends.
func (u *unit) mainExited(ctx context.Context, handle *proc.Handle, exit proc.Exit) {
	if u.main != handle {
		return
	}
	u.main, u.rec.Main, u.rec.Exit, u.rec.LastExit = nil, tenure.Process{}, &exit, &exit
	switch {
	case u.rec.Ending != nil:
		u.rec.Ending.Exit = &exit
		u.progress(ctx)
	case u.rec.Passive:
		u.nextMain(ctx)
	case u.rec.State == supervise.Starting && u.rec.Spec.Type == supervise.Forking && exit.Success():
		u.forked(ctx)
	default:
		u.endBy(ctx, supervise.CauseExit)
	}
}

// nextMain makes the oldest process of a passive unit its main one, or sees
// that there is none left.
func (u *unit) nextMain(ctx context.Context) {
	for {
		infos, ok := u.living()
		if !ok {
			return
		}
		if len(infos) == 0 {
			u.endBy(ctx, supervise.CauseExit)
			return
		}
		for _, info := range infos {
			if handle, err := proc.Open(info.Process); err == nil {
				u.holdMain(handle)
				u.save()
				u.event(supervise.Event{Kind: supervise.EventMain, Processes: []tenure.Process{info.Process}})
				return
			}
		}
	}
}

// groupChanged is told when a group that is watched may have become empty.
func (u *unit) groupChanged(ctx context.Context) {
	switch {
	case u.rec.Ending != nil:
		u.progress(ctx)
	case u.rec.Passive && u.main == nil:
		u.nextMain(ctx)
	}
}

// watchGroups hears of the groups' getting empty from now on, and at least once.
func (u *unit) watchGroups(ctx context.Context) {
	if u.rec.Group != "" && u.watch == nil {
		watch, err := u.s.watcher.Add(proc.GroupAt(u.rec.Group))
		if err != nil && !errors.Is(err, proc.ErrNoGroup) {
			u.warn("group cannot be watched", err)
		}
		u.watch = watch
	}
	if len(u.extra) > 0 {
		return
	}
	for _, claim := range u.rec.Claims {
		u.watchClaim(ctx, claim)
	}
}

// watchClaim hears of the getting empty of one group that a service made.
func (u *unit) watchClaim(ctx context.Context, claim string) {
	watch, err := u.s.watcher.Add(proc.GroupAt(claim))
	if err != nil {
		return
	}
	u.extra = append(u.extra, watch)
	u.s.wg.Go(func() {
		for range watch.C() {
			if u.tell(ctx, u.groupChanged) != nil {
				return
			}
		}
	})
}

func (u *unit) unwatch() {
	if u.watch != nil {
		u.watch.Close()
		u.watch = nil
	}
	for _, watch := range u.extra {
		watch.Close()
	}
	u.extra = nil
}
