package native

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// Start implements supervise.Supervisor. A ctx that ends stops the waiting, and
// keeps units that wait for others from being started; those that were begun go on.
func (s *Supervisor) Start(ctx context.Context, specs ...supervise.Spec) error {
	if err := s.await(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	after := make(map[tenure.UnitID][]tenure.UnitID, len(specs))
	byUnit := make(map[tenure.UnitID]supervise.Spec, len(specs))
	for _, spec := range specs {
		if _, twice := byUnit[spec.Unit]; twice {
			return fmt.Errorf("start %s: the unit is named twice", spec.Unit)
		}
		after[spec.Unit], byUnit[spec.Unit] = spec.After, spec
	}
	order := startOrder(after)
	if err := order.check(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	failures := order.walk(ctx, false, func(ctx context.Context, id tenure.UnitID) error {
		return s.startOne(ctx, byUnit[id])
	})
	return startFailure(ctx, specs, failures)
}

// startFailure is the error of the first unit, in the order of the request,
// that failed by itself.
func startFailure(ctx context.Context, specs []supervise.Spec, failures map[tenure.UnitID]error) error {
	for _, spec := range specs {
		if err := failures[spec.Unit]; err != nil && !errors.Is(err, errNotTold) {
			return err
		}
	}
	if len(failures) > 0 {
		return fmt.Errorf("start: %w", context.Cause(ctx))
	}
	return nil
}

func (s *Supervisor) startOne(ctx context.Context, spec supervise.Spec) error {
	if err := check(&spec); err != nil {
		return &supervise.StartError{Unit: spec.Unit, Err: err}
	}
	s.common.share(&spec)
	for {
		failure, known, err := request(ctx, s, spec.Unit, func(u *unit, ctx context.Context, reply chan<- error) { u.start(ctx, spec, reply) })
		if err != nil {
			return fmt.Errorf("start %s: %w", spec.Unit, err)
		}
		if known {
			return failure
		}
		u := newUnit(s, record{Spec: &spec, State: supervise.Inactive, Since: time.Now(), Stored: true})
		if s.add(u) {
			s.spawn(ctx, u, nil)
		}
	}
}

// check refuses what cannot be carried out, before anything is touched.
func check(spec *supervise.Spec) error {
	if spec.Unit.IsZero() || len(spec.Command.Argv) == 0 || !path.IsAbs(spec.Command.Argv[0]) {
		return fmt.Errorf("%w: a unit needs a name and a command with an absolute path", supervise.ErrNotReady)
	}
	if _, err := compileWorkloads(spec.Workloads); err != nil {
		return err
	}
	for _, w := range spec.Workloads {
		if err := tenure.CheckUnitName(w.Name); err != nil {
			return err
		}
		if _, err := signalNumber(w.Stop.Signal); err != nil {
			return err
		}
	}
	if _, err := signalNumber(spec.Stop.Signal); err != nil {
		return err
	}
	if spec.Timer != "" {
		if _, err := nextRun(spec.Timer, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// sameSpec compares two Specs as they are stored, where nothing is as good as empty.
func sameSpec(a, b *supervise.Spec) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	textA, errA := json.Marshal(a)
	textB, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(textA, textB)
}

// start is a request to run with spec.
func (u *unit) start(ctx context.Context, spec supervise.Spec, reply chan<- error) {
	same := func() bool { return sameSpec(u.rec.Spec, &spec) }
	if u.overlaps() {
		reply <- &supervise.StartError{Unit: u.id, Err: fmt.Errorf("%w: it cannot be started, only its service can", supervise.ErrUnknown)}
		return
	}
	running := &supervise.StartError{Unit: u.id, Err: fmt.Errorf("%w with other settings (revision %s)", supervise.ErrRunning, u.rec.Spec.Revision)}
	switch u.rec.State {
	case supervise.Running, supervise.Reloading:
		u.unprepare()
		if !same() {
			reply <- running
			return
		}
		if u.rec.Told {
			u.rec.Again = true
			u.save()
		}
		reply <- nil
	case supervise.Starting:
		if !same() {
			reply <- running
			return
		}
		u.starting = append(u.starting, reply)
	case supervise.Stopping:
		u.queued = append(u.queued, queuedStart{spec, u.by, reply})
	case supervise.Listening, supervise.Waiting:
		if same() {
			reply <- nil
			return
		}
		u.begin(ctx, spec, reply)
	case supervise.Inactive, supervise.Backoff, supervise.Failed:
		u.begin(ctx, spec, reply)
	}
}

// begin takes over a Spec, and arms or launches.
func (u *unit) begin(ctx context.Context, spec supervise.Spec, reply chan<- error) {
	if u.rec.Passive {
		reply <- &supervise.StartError{Unit: u.id, Err: fmt.Errorf("%w: it cannot be started, only its service can", supervise.ErrUnknown)}
		return
	}
	u.disarm()
	old := u.rec.Spec
	matchers, err := compileWorkloads(spec.Workloads)
	if err == nil {
		u.rec.Spec, u.matchers = &spec, matchers
		err = u.openSockets(ctx, old)
	}
	if err != nil {
		u.state(supervise.Failed)
		reply <- &supervise.StartError{Unit: u.id, Err: err}
		return
	}
	u.rec.Restarts, u.rec.Streak, u.rec.Started = 0, 0, time.Time{}
	u.rec.Told, u.rec.Again, u.rec.Holding = false, false, false
	u.enterGap()
	if u.arm(ctx) {
		u.unprepare()
		reply <- nil
		return
	}
	u.starting = append(u.starting, reply)
	u.launch(ctx)
}

// arm makes sockets and timers start the unit, if it has any.
func (u *unit) arm(ctx context.Context) bool {
	state, timed := supervise.Inactive, false
	if keeper := u.doorkeeper(); keeper != nil && (u.rec.Spec.Timer != "" || len(u.rec.Spec.Sockets) > 0) {
		timed = keeper.Arm(u.rec.Spec)
	}
	if timed {
		state = supervise.Waiting
	} else if u.rec.Spec.Timer != "" {
		next, err := nextRun(u.rec.Spec.Timer, u.s.cfg.Now())
		if err == nil {
			u.rec.Next = next
			u.awaitNext()
			state = supervise.Waiting
		}
	}
	if len(u.rec.Spec.Sockets) > 0 {
		u.listen(ctx)
		state = supervise.Listening
	}
	if state == supervise.Inactive {
		return false
	}
	u.state(state)
	if state == supervise.Listening && len(u.callers) > 0 {
		u.connected(ctx)
	}
	return true
}

// disarm takes back what arm did; the sockets stay open.
func (u *unit) disarm() {
	u.stopListening()
	u.unwind()
	u.clearAlarms(alarmBackoff)
}

// launchByItself starts the unit because a timer, a connection or its restart
// policy says so.
func (u *unit) launchByItself(ctx context.Context) {
	if u.rec.State.Alive() {
		return
	}
	u.disarm()
	u.launch(ctx)
}

// launch starts the next generation.
func (u *unit) launch(ctx context.Context) {
	u.stopListening()
	u.rec.Ready, u.rec.Text, u.rec.Exit, u.rec.Watchdog = false, "", nil, 0
	u.rec.Told, u.rec.Again, u.rec.Ceded, u.rec.Alone, u.rec.Found = false, false, nil, false, false
	u.unready = nil
	if err := supervise.Short(u.fork(context.WithoutCancel(ctx))); err != nil {
		u.rec.Launching = false
		u.fail(ctx, err)
		return
	}
	u.started(ctx)
}

// started is told when the first process of a launch is known.
func (u *unit) started(ctx context.Context) {
	switch u.rec.Spec.Type {
	case supervise.Forking, supervise.Oneshot, supervise.Notify:
	case supervise.DBus:
		u.awaitBusName(ctx)
	case supervise.Simple:
		u.becomeReady()
		return
	default:
		u.becomeReady()
		return
	}
	if timeout := u.rec.Spec.StartTimeout; timeout > 0 {
		u.setAlarm(alarmStart, timeout)
	}
	u.state(supervise.Starting)
}

// becomeReady is told when the unit is what its type calls ready.
func (u *unit) becomeReady() {
	u.clearAlarms(alarmStart)
	u.stopAwaiting()
	u.rec.Ready = true
	u.feedWatchdog()
	if u.keeps() {
		u.setAlarm(alarmSplit, 0)
	}
	u.state(supervise.Running)
	u.answerStart(nil)
	if u.rec.Spec.Type != supervise.Simple {
		u.tidy() // A simple one has hardly begun.
	}
}

func (u *unit) answerStart(err error) {
	for _, reply := range u.starting {
		reply <- err
	}
	u.starting = nil
}

// forked finds the main process of a unit whose first process has left it
// behind: the oldest.
func (u *unit) forked(ctx context.Context) {
	infos, _ := u.living()
	for _, info := range infos {
		if handle, err := proc.Open(info.Process); err == nil {
			u.rec.Exit = nil
			u.rec.Started = info.Started
			u.holdMain(handle)
			u.becomeReady()
			return
		}
	}
	u.endBy(ctx, supervise.CauseExit)
}

// startTimedOut ends a unit that was not ready in time. What was found of one that forks,
// and has not ended in that time, is what its first process has left behind.
func (u *unit) startTimedOut(ctx context.Context) {
	switch {
	case u.rec.State != supervise.Starting:
	case u.rec.Found && u.rec.Spec.Type == supervise.Forking && u.main != nil:
		u.becomeReady()
	default:
		u.endBy(ctx, supervise.CauseTimeout)
	}
}

// awaitBusName waits for the name of a unit of type dbus.
func (u *unit) awaitBusName(ctx context.Context) {
	names, generation, name := u.s.cfg.BusNames, u.rec.Generation, u.rec.Spec.BusName
	waiting, cancel := context.WithCancel(ctx)
	u.stopAwaiting()
	u.awaiting = cancel
	u.s.wg.Go(func() {
		defer cancel()
		err := fmt.Errorf("there is no system bus to wait for the name %s on", name)
		if names != nil {
			err = names.Await(waiting, name, u.owns)
		}
		if waiting.Err() != nil {
			return
		}
		_ = u.tell(ctx, func(ctx context.Context) {
			switch {
			case u.rec.Generation != generation || u.rec.State != supervise.Starting:
			case err != nil:
				u.unready = err
				u.endBy(ctx, supervise.CauseTimeout)
			default:
				u.becomeReady()
			}
		})
	})
}

// stopAwaiting ends the wait for the name of a unit of type dbus.
func (u *unit) stopAwaiting() {
	if u.awaiting != nil {
		u.awaiting()
		u.awaiting = nil
	}
}

// fail is told when a launch did not even come to a process.
func (u *unit) fail(ctx context.Context, err error) {
	u.event(supervise.Event{Kind: supervise.EventEnded, Cause: supervise.CauseExit, Exit: &proc.Exit{Known: true, Code: execFailed}})
	remove := u.dropGroup(ctx, true)
	u.warn("launch failed", err)
	starting := u.starting
	u.starting = nil
	if supervise.IsShort(err) && len(starting) == 0 && !u.rec.Passive && len(u.queued) == 0 {
		// It was not the unit that failed, so that what it says of its failures does not count.
		u.backOff()
	} else {
		u.afterEnd(ctx, supervise.CauseExit, proc.Exit{Known: true, Code: execFailed})
	}
	remove()
	for _, reply := range starting {
		reply <- &supervise.StartError{Unit: u.id, Err: fmt.Errorf("%w: %w", supervise.ErrNotReady, err)}
	}
}

// execFailed is the exit status that stands for a program that could not be
// executed (EXIT_EXEC of systemd.exec(5)).
const execFailed = 203

// startError says how a unit ended that was to become ready.
func (u *unit) startError(ctx context.Context, why supervise.Cause) error {
	e := &supervise.StartError{Unit: u.id, Exit: u.rec.Exit, Log: u.s.logTail(ctx, u.keeper(), u.rec.Started)}
	switch {
	case why == supervise.CauseTimeout && u.unready != nil:
		e.Err = fmt.Errorf("%w: %w", supervise.ErrNotReady, u.unready)
	case why == supervise.CauseTimeout:
		e.Err = fmt.Errorf("%w within %s", supervise.ErrNotReady, u.rec.Spec.StartTimeout)
	case why == supervise.CauseRequest:
		e.Err = fmt.Errorf("%w: it was told to stop", supervise.ErrNotReady)
	case u.rec.Exit != nil && u.rec.Exit.Success():
		e.Err = fmt.Errorf("%w: its process ended and left none", supervise.ErrNotReady)
	case u.rec.Exit != nil && u.rec.Exit.Signal == "SIGKILL" && !u.killed():
		e.Err = fmt.Errorf("%w: %s, and not by Tenure: %s", supervise.ErrNotReady, u.rec.Exit, u.whoKilled())
	case u.rec.Exit != nil:
		e.Err = fmt.Errorf("%w: %s", supervise.ErrNotReady, u.rec.Exit)
	default:
		e.Err = supervise.ErrNotReady
	}
	return e
}

// killed reports whether the unit was sent SIGKILL.
func (u *unit) killed() bool { return u.rec.Ending != nil && u.rec.Ending.Killed }

// whoKilled says what is known of a SIGKILL that the unit was sent by somebody else, and what to do.
func (u *unit) whoKilled() string {
	if n, err := proc.GroupAt(u.rec.Group).OOMKills(); err == nil && n > 0 {
		return "its control group was out of memory; raise memory.max (MemoryMax= where systemd has it)"
	}
	return "if the machine, or a control group, was out of memory, dmesg says so"
}

// afterEnd decides what follows when a unit has ended by itself.
func (u *unit) afterEnd(ctx context.Context, why supervise.Cause, exit proc.Exit) {
	if len(u.queued) > 0 {
		u.rec.State = supervise.Inactive
		u.runQueued(ctx)
		return
	}
	if u.overlaps() {
		u.vanish(ctx)
		return
	}
	if restarts(u.rec.Spec, why, exit) {
		if !u.rec.Started.IsZero() && time.Since(u.rec.Started) > lasting {
			u.rec.Streak = 0
		}
		u.backOff()
		return
	}
	if u.arm(ctx) {
		return
	}
	if why == supervise.CauseExit && clean(u.rec.Spec, exit) {
		u.state(supervise.Inactive)
	} else {
		u.state(supervise.Failed)
	}
	u.closeNotifyAtRest(ctx)
}

// backOff has the unit started again after a while.
func (u *unit) backOff() {
	delay := restartDelay(u.rec.Spec.Restart, u.rec.Streak)
	u.setAlarm(alarmBackoff, delay)
	u.rec.Restarts++
	u.rec.Streak++
	u.state(supervise.Backoff)
	u.setAlarm(alarmBackoff, delay) // The time counts from when everybody knows.
}

// runQueued carries out the starts that waited for the end.
func (u *unit) runQueued(ctx context.Context) {
	for _, q := range slices.Clone(u.queued) {
		u.queued, u.by = u.queued[1:], q.by
		u.start(ctx, q.spec, q.reply)
	}
}
