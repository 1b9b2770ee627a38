package supervisetest

import (
	"reflect"
	"slices"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// twinUnit is a unit of the Twin. Everything in it is guarded by the Twin's lock.
type twinUnit struct {
	t      *Twin
	status supervise.Status
	main   *process
	// passive is that it came out of another unit, or was started elsewhere.
	passive bool
	ready   bool
	// heir is that it is to be the service that it is the successor of, draining that
	// it was a service and has handed over.
	heir, draining bool
	// told is that it runs on although it was told to end.
	told     bool
	ending   *twinEnding
	starting []chan<- error
	stopping []chan<- twinEnded
	queued   []func()
	timers   []func()
	log      []string
	// stored are the names of kept descriptors, passed those that the current
	// generation was given.
	stored, passed []string
	// due is what the time that now runs is for, watchdog what ends the wait for the
	// next sign of life, and every the time between two that the service chose itself.
	due func()
	// by is the change that its current generation was started for.
	by       change.ID
	watchdog func()
	every    time.Duration
}

// twinEnding is the ending of a unit, in progress.
type twinEnding struct {
	supervise.StopRequest

	change change.ID
	// requested is that somebody asked for it, late that the unit was not ready in time.
	// silent that it gave no sign of life.
	requested, late, silent bool
	// commanded is that the stop command runs; posts and posted that the post-stop
	// command has begun and ended.
	commanded, posts, posted bool
	// signals is that the unit has been told, timed that its grace is over, and killing
	// that SIGKILL may follow.
	signals, timed, killing bool
	// told is when the grace period began; began when the stop command did, and took how
	// long that needed.
	told, began time.Time
	took        time.Duration
	// extended is that it has got more time.
	extended bool
	// terms are those of an ending that nobody has asked for, asked that they are not
	// known yet.
	terms     supervise.Terms
	asked     bool
	exit      *proc.Exit
	killed    bool
	signalled map[*process]bool
}

// twinEnded is what the stop of one unit came to.
type twinEnded struct {
	exit   *proc.Exit
	killed bool
	err    error
}

func (u *twinUnit) spec() *supervise.Spec { return u.status.Spec }

// living are the processes of the unit, oldest first.
func (u *twinUnit) living() []*process {
	var list []*process
	for _, p := range u.t.processes {
		if p.unit == u {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, byAge)
	return list
}

func (u *twinUnit) state(state supervise.State) {
	if u.status.State == state {
		return
	}
	u.status.State, u.status.Since = state, time.Now()
	u.tellOf(supervise.Event{Kind: supervise.EventState, State: state, Exit: u.status.LastExit})
}

// tellOf says of an event whose it is, and on whose behalf.
func (u *twinUnit) tellOf(e supervise.Event) {
	e.Unit, e.Revision = u.status.Unit, u.status.Revision
	switch {
	case e.Kind == supervise.EventState && (e.State == supervise.Starting || e.State == supervise.Running):
		e.Change = u.by
	case u.ending != nil:
		e.Reason, e.Change = u.ending.Reason, u.ending.change
		if e.Cause == "" {
			e.Cause = u.ending.cause()
		}
	}
	u.t.send(e)
}

// cause is why the unit is ending.
func (e *twinEnding) cause() supervise.Cause {
	switch {
	case e.requested:
		return supervise.CauseRequest
	case e.late:
		return supervise.CauseTimeout
	case e.silent:
		return supervise.CauseWatchdog
	}
	return supervise.CauseExit
}

func (u *twinUnit) setMain(p *process) {
	u.main, u.status.Main = p, tenure.Process{}
	if p != nil {
		u.status.Main = p.Process
	}
}

// clock does something later, unless the phase of the unit's life ends before.
func (u *twinUnit) clock(d time.Duration, f func()) {
	u.due = f
	u.timers = append(u.timers, u.t.after(d, f))
}

func (u *twinUnit) disarm() {
	for _, stop := range u.timers {
		stop()
	}
	u.timers, u.due = nil, nil
	u.muzzle()
}

// start is a request to run with spec.
func (u *twinUnit) start(spec supervise.Spec, by change.ID, reply chan<- error) {
	same := reflect.DeepEqual(*u.spec(), spec)
	switch state := u.status.State; {
	case u.passive, u.heir, u.draining:
		reply <- &supervise.StartError{Unit: spec.Unit, Err: supervise.ErrUnknown}
	case state == supervise.Stopping:
		u.queued = append(u.queued, func() { u.start(spec, by, reply) })
	case state.Alive() && !same:
		reply <- &supervise.StartError{Unit: spec.Unit, Err: supervise.ErrRunning}
	case state == supervise.Starting:
		u.starting = append(u.starting, reply)
	case state.Alive(), same && (state == supervise.Listening || state == supervise.Waiting):
		u.told = false
		reply <- nil
	default:
		u.disarm()
		u.status.Spec, u.status.Revision, u.status.Restarts, u.told = &spec, spec.Revision, 0, false
		u.openSockets()
		if u.arm() {
			reply <- nil
			return
		}
		u.starting = append(u.starting, reply)
		u.launchFor(by)
	}
}

// arm makes a socket or a timer start the unit, if it has any.
func (u *twinUnit) arm() bool {
	switch {
	case len(u.spec().Sockets) > 0:
		u.state(supervise.Listening)
		u.t.later = append(u.t.later, u.connected)
	case u.spec().Timer != "":
		u.state(supervise.Waiting)
	default:
		return false
	}
	return true
}

// connected launches the unit if somebody waits in one of its sockets.
func (u *twinUnit) connected() {
	waits := slices.ContainsFunc(u.spec().Sockets, func(s supervise.Socket) bool {
		open := u.t.sockets[s.Address]
		return open != nil && len(open.waiting) > 0
	})
	if waits && u.status.State == supervise.Listening {
		u.launch()
	}
}

func (u *twinUnit) openSockets() {
	for _, socket := range u.spec().Sockets {
		if u.t.sockets[socket.Address] == nil {
			u.t.sockets[socket.Address] = &twinSocket{}
		}
	}
}

func (u *twinUnit) closeSockets() {
	u.stored = nil
	for _, declared := range u.spec().Sockets {
		socket := u.t.sockets[declared.Address]
		delete(u.t.sockets, declared.Address)
		if socket == nil {
			continue
		}
		for _, connection := range socket.waiting {
			close(connection)
		}
	}
}

// launch starts the next generation because its time has come.
func (u *twinUnit) launch() { u.launchFor(0) }

// launchFor starts the next generation for a change.
func (u *twinUnit) launchFor(by change.ID) {
	u.by = by
	u.disarm()
	u.ready, u.log, u.status.Text, u.every = false, nil, "", 0
	u.passed = nil
	for _, socket := range u.spec().Sockets {
		u.passed = append(u.passed, socket.Name)
	}
	u.passed = append(u.passed, u.stored...)
	u.status.Generation++
	u.status.Started = time.Now()
	u.state(supervise.Starting)
	program, ok := ParseProgram(u.spec().Command.Argv)
	if !ok {
		u.status.LastExit = nil
		u.ending = &twinEnding{posted: true}
		u.finish()
		return
	}
	if timeout := u.spec().StartTimeout; timeout > 0 && u.spec().Type != supervise.Simple {
		u.clock(timeout, func() {
			if u.status.State == supervise.Starting {
				u.end(twinEnding{late: true})
			}
		})
	}
	u.setMain(u.t.spawn(u, program, 1, nil))
	if u.spec().Type == supervise.Simple {
		u.becomeReady()
	}
}

func (u *twinUnit) becomeReady() {
	u.disarm()
	u.ready = true
	u.feed()
	u.state(supervise.Running)
	u.answerStart(nil)
}

func (u *twinUnit) answerStart(err error) {
	for _, reply := range u.starting {
		reply <- err
	}
	u.starting = nil
}

// saidReady is told when a process of the unit says READY=1.
func (u *twinUnit) saidReady() {
	if u.status.State == supervise.Starting && u.spec().Type == supervise.Notify {
		u.becomeReady()
	}
}

// exited is told of the end of every process of the unit.
func (u *twinUnit) exited(p *process, how proc.Exit) {
	main := p == u.main
	if main {
		u.setMain(nil)
		u.status.LastExit = &how
	}
	switch {
	case u.ending != nil:
		if main {
			u.ending.exit = &how
		}
		u.progress()
	case u.passive:
		u.nextMain()
	case main && u.status.State == supervise.Starting && u.spec().Type == supervise.Forking && how.Success() && len(u.living()) > 0:
		u.setMain(u.living()[0])
		u.becomeReady()
	case main:
		u.end(twinEnding{exit: &how})
	}
}

// nextMain makes the oldest process of a passive unit its main one; the unit
// goes with the last, or rests if it has a name of its own.
func (u *twinUnit) nextMain() {
	if living := u.living(); len(living) > 0 {
		u.setMain(living[0])
		u.tellMain()
		return
	}
	u.tellOf(supervise.Event{Kind: supervise.EventEnded, Cause: supervise.CauseExit, Exit: u.status.LastExit})
	switch {
	case u.transient():
		u.vanish()
	default:
		u.ended(&twinEnding{exit: u.status.LastExit})
		u.tellEmpty()
	}
}

// transient reports whether the unit is forgotten with its last process.
func (u *twinUnit) transient() bool {
	return u.passive && !u.status.Unit.Named() || u.heir || u.draining
}

func (u *twinUnit) vanish() {
	u.state(supervise.Inactive)
	delete(u.t.units, u.status.Unit)
	u.tellEmpty()
}

func (u *twinUnit) tellEmpty() {
	u.t.send(supervise.Event{Kind: supervise.EventEmpty, Unit: u.status.Unit, Revision: u.status.Revision})
}
