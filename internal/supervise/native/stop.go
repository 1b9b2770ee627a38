package native

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// phase is how far the ending of a unit has come.
//
//	command → signal → kill → post → (done)
//
// Without a stop command an ending begins with the signal, without a timeout it
// never comes to the kill.
type phase string

const (
	phaseCommand phase = "command"
	phaseSignal  phase = "signal"
	phaseKill    phase = "kill"
	phasePost    phase = "post"
)

// ending is what is known of an ending in progress. It is part of the record,
// so that the next supervisor goes on with it.
type ending struct {
	Cause  supervise.Cause `json:"cause"`
	Reason tenure.Reason   `json:"reason,omitempty"`
	From   tenure.Revision `json:"from,omitzero"`
	To     tenure.Revision `json:"to,omitzero"`
	Hold   bool            `json:"hold,omitempty"`
	Kill   bool            `json:"kill,omitempty"`
	Limit  time.Duration   `json:"limit,omitempty"`
	// Told is when the grace period began; zero before.
	Told moment `json:"told_at,omitzero"`
	// Began is when the stop command, and then the signal, began; Took is how long the
	// longer of both needed, and Cut that one had no more time.
	Began moment        `json:"began_at,omitzero"`
	Took  time.Duration `json:"took,omitempty"`
	Cut   bool          `json:"cut,omitempty"`
	// Extended is that the unit has got more time than its grace period.
	Extended bool `json:"extended,omitempty"`
	// Terms replace parts of the protocol. Settled is that they are known although nobody
	// has asked for the ending, asked that the answer is on its way.
	Terms   supervise.Terms `json:"terms,omitzero"`
	Settled bool            `json:"settled,omitempty"`
	asked   bool
	// Change is the change that asked for it, if one did.
	Change   change.ID  `json:"change,omitzero"`
	Phase    phase      `json:"phase"`
	Killed   bool       `json:"killed,omitempty"`
	PostDone bool       `json:"post_done,omitempty"`
	Exit     *proc.Exit `json:"exit,omitempty"`
	// Signalled are those that have been told, so that nobody is told twice.
	Signalled []tenure.Process `json:"signalled,omitempty"`
}

// next begins the next phase, and notes how long the one before took.
func (e *ending) next(p phase) {
	now := present()
	if e.Began != 0 {
		e.Took = max(e.Took, time.Duration(now-e.Began))
	}
	e.Phase, e.Began = p, now
}

// took is how much of a grace period a unit needed that was asked to end; 0 when that is
// not known, for it had no more. What was not cut short has kept within it.
func (e *ending) took(grace time.Duration) time.Duration {
	switch {
	case e.Cause != supervise.CauseRequest || e.Cut || e.Killed:
		return 0
	case grace <= 0 || e.Extended:
		return e.Took
	}
	return min(e.Took, grace)
}

func (e *ending) reason() tenure.Reason {
	if e == nil {
		return ""
	}
	return e.Reason
}

// stopAnswer is what the stop of one unit came to.
type stopAnswer struct {
	exit   *proc.Exit
	killed bool
	err    error
}

// freezePatience bounds how long the processes of a unit may take to stand
// still. One that does not, because it is deep inside the kernel, is told like the others.
const freezePatience = 5 * time.Second

// Stop implements supervise.Supervisor.
func (s *Supervisor) Stop(ctx context.Context, req supervise.StopRequest) (supervise.Ended, error) {
	if err := s.await(ctx); err != nil {
		return supervise.Ended{}, fmt.Errorf("stop: %w", err)
	}
	after := make(map[tenure.UnitID][]tenure.UnitID, len(req.Units))
	got := make(map[tenure.UnitID]*stopAnswer, len(req.Units))
	for _, id := range req.Units {
		got[id] = &stopAnswer{}
		after[id] = nil
		if u, known := s.find(id); known {
			after[id] = u.status.Load().Spec.After
		}
	}
	order := startOrder(after).reverse()
	if err := order.check(); err != nil {
		return supervise.Ended{}, fmt.Errorf("stop: %w", err)
	}
	failures := order.walk(ctx, true, func(ctx context.Context, id tenure.UnitID) error {
		a, err := s.stopOne(ctx, id, req)
		*got[id] = a
		return errors.Join(err, a.err)
	})
	return s.stopped(req.Units, got, failures)
}

func (s *Supervisor) stopOne(ctx context.Context, id tenure.UnitID, req supervise.StopRequest) (stopAnswer, error) {
	a, _, err := request(ctx, s, id, func(u *unit, ctx context.Context, reply chan<- stopAnswer) { u.stop(ctx, req, reply) })
	return a, err
}

func (s *Supervisor) stopped(units []tenure.UnitID, got map[tenure.UnitID]*stopAnswer, failures map[tenure.UnitID]error) (supervise.Ended, error) {
	ended := supervise.Ended{Exits: make(map[tenure.UnitID]proc.Exit)}
	var errs []error
	for _, id := range units {
		if a := got[id]; a.exit != nil {
			ended.Exits[id] = *a.exit
		}
		if got[id].killed {
			ended.Killed = append(ended.Killed, id)
		}
		if err := failures[id]; err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", id, err))
		}
	}
	for _, u := range s.all() {
		id, alive := u.name(), u.status.Load().State.Alive()
		if alive && id.Kind == tenure.Workload && slices.Contains(units, id.Service()) && !slices.Contains(units, id) {
			ended.Left = append(ended.Left, id)
		}
	}
	slices.SortFunc(ended.Left, func(a, b tenure.UnitID) int { return strings.Compare(a.String(), b.String()) })
	return ended, errors.Join(errs...)
}

// stop is a request to end.
func (u *unit) stop(ctx context.Context, req supervise.StopRequest, reply chan<- stopAnswer) {
	for _, q := range u.queued {
		q.reply <- &supervise.StartError{Unit: u.id, Err: fmt.Errorf("%w: it was told to stop", supervise.ErrNotReady)}
	}
	u.queued = nil
	switch u.rec.State {
	case supervise.Inactive, supervise.Failed, supervise.Listening, supervise.Waiting, supervise.Backoff:
		u.disarm()
		u.restByHost(req.Reason, req.HoldSockets)
		u.rest(ctx, req.HoldSockets)
		reply <- stopAnswer{}
	case supervise.Stopping:
		u.stopping = append(u.stopping, reply)
		e := u.rec.Ending
		e.Cause, e.Reason, e.From, e.To, e.Hold = supervise.CauseRequest, req.Reason, req.From, req.To, req.HoldSockets
		e.Kill, e.Limit, e.Terms, e.Change = e.Kill || req.Kill, req.Limit, req.Terms[u.id], u.by
		u.resumeGrace()
		u.save()
	case supervise.Starting, supervise.Running, supervise.Reloading:
		u.stopping = append(u.stopping, reply)
		u.end(ctx, ending{
			Cause: supervise.CauseRequest, Reason: req.Reason, From: req.From, To: req.To, Hold: req.HoldSockets,
			Kill: req.Kill, Limit: req.Limit, Terms: req.Terms[u.id], Change: u.by,
		})
	}
}

// rest is the state of a unit that was told to stop and has.
func (u *unit) rest(ctx context.Context, hold bool) {
	u.rec.Holding, u.rec.InGap = hold, false
	if !hold {
		u.closeSockets(ctx)
	}
	u.state(supervise.Inactive)
	if !hold {
		u.closeNotifyAtRest(ctx)
	}
}

// endBy begins the ending of a unit that nobody asked to end.
func (u *unit) endBy(ctx context.Context, why supervise.Cause) {
	if u.rec.Ending != nil {
		return
	}
	u.end(ctx, ending{Cause: why})
}

// end begins an ending. The reason is where the unit can read it before anybody
// is told.
func (u *unit) end(ctx context.Context, e ending) {
	u.clearAlarms(alarmStart, alarmWatchdog, alarmSplit)
	u.stopAwaiting()
	e.Phase, e.Began = phaseCommand, present()
	u.rec.Ending = &e
	u.outlive()
	u.dropAux(ctx, supervise.Event{})
	u.answerReload(fmt.Errorf("%w: it is ending", supervise.ErrNotReady))
	u.writeReason(e.Reason)
	u.state(supervise.Stopping)
	u.watchGroups(ctx)
	command := u.rec.Spec.Stop.Command
	if e.Cause == supervise.CauseRequest && command != nil && (u.rec.Ready || u.rec.Passive) {
		err := u.runAux(ctx, auxStop, *command, u.grace())
		if err == nil {
			return
		}
		u.warn("stop command cannot run", err)
	}
	u.progress(ctx)
}

// grace is how long the unit has to end; 0 is for ever.
func (u *unit) grace() time.Duration {
	if e := u.rec.Ending; e != nil {
		return e.Terms.Grace(u.rec.Spec.Stop, e.Limit)
	}
	return u.rec.Spec.Stop.Timeout
}

// endByItself notes that the unit is ending of its own accord (STOPPING=1 of
// sd_notify(3)): nobody is told, but it has no longer than if it had been.
func (u *unit) endByItself() {
	u.clearAlarms(alarmWatchdog, alarmSplit)
	now := present()
	u.rec.Ending = &ending{Cause: supervise.CauseExit, Phase: phaseSignal, Began: now, Told: now}
	u.answerReload(fmt.Errorf("%w: it is ending", supervise.ErrNotReady))
	u.resumeGrace()
	u.askTerms()
	u.state(supervise.Stopping)
}

// progress goes on with an ending as far as it can without waiting.
func (u *unit) progress(ctx context.Context) {
	for u.rec.Ending != nil {
		e := u.rec.Ending
		switch e.Phase {
		case phaseCommand:
			if u.rec.Aux != "" {
				return
			}
			e.next(phaseSignal)
			u.signal(ctx)
		case phaseSignal, phaseKill:
			if u.main != nil || !u.emptied(ctx) {
				return
			}
			e.next(phasePost)
			u.clearAlarms(alarmStop)
		case phasePost:
			if u.rec.Aux != "" || u.runPost(ctx) {
				return
			}
			u.finish(ctx)
			return
		}
	}
}

// runPost runs the post-stop command once, and reports whether it now runs.
func (u *unit) runPost(ctx context.Context) bool {
	post := u.rec.Spec.PostStop
	if post == nil || u.rec.Ending.PostDone {
		return false
	}
	u.rec.Ending.PostDone = true
	if err := u.runAux(ctx, auxPost, *post, u.grace()); err != nil {
		u.warn("post-stop command cannot run", err)
		return false
	}
	u.askTerms()
	return true
}

// keeps reports whether anything may come out of the unit that must not be signalled.
func (u *unit) keeps() bool { return len(u.matchers) > 0 && !u.rec.Passive }

// signal tells the unit to end: with everything standing still, so that what
// must not be told has been set apart, and nobody forks away meanwhile.
func (u *unit) signal(ctx context.Context) {
	u.rec.Ending.Told = present()
	u.resumeGrace()
	infos, _ := u.living()
	if len(infos) > 0 {
		u.askTerms()
	}
	u.tellAll(ctx, infos)
}

// stopSignal is what the unit is told with now.
func (u *unit) stopSignal() syscall.Signal {
	if u.rec.Ending.Cause == supervise.CauseWatchdog && u.main != nil {
		return syscall.SIGABRT
	}
	number, err := signalNumber(u.rec.Spec.Stop.Signal)
	if err != nil {
		return syscall.SIGTERM
	}
	return number
}

// targets are those of a unit's own processes that its stop signal is for. The
// watchdog's is for the main process, as long as there is one.
func (u *unit) targets(infos []proc.Info) []proc.Info {
	watchdog := u.rec.Ending.Cause == supervise.CauseWatchdog && u.main != nil && u.rec.Ending.Phase == phaseSignal
	if u.rec.Spec.Stop.Target == supervise.TargetGroup && !watchdog {
		return infos
	}
	return slices.DeleteFunc(slices.Clone(infos), func(i proc.Info) bool { return i.Process != u.rec.Main })
}

// signalAll sends a signal to those who have not been sent one in this ending. A
// process that was stopped by a signal is let go on, or it would not hear.
func (u *unit) signalAll(number syscall.Signal, infos []proc.Info) {
	e := u.rec.Ending
	var all, halted []*proc.Handle
	var untold error
	for _, info := range infos {
		if slices.Contains(e.Signalled, info.Process) && number != syscall.SIGKILL {
			continue
		}
		handle, err := proc.Open(info.Process)
		if err != nil {
			if !errors.Is(err, proc.ErrGone) {
				untold = err
			}
			continue
		}
		defer handle.Close()
		all = append(all, handle)
		if info.State == 'T' {
			halted = append(halted, handle)
		}
	}
	if untold != nil {
		if !u.untold { // As long as it lasts this is said once.
			u.warn("processes cannot be told, and will be", untold)
		}
		u.setAlarm(alarmAgain, againPause)
	}
	u.untold = untold != nil
	e.Signalled = append(e.Signalled, u.send(number, supervise.Event{}, all)...)
	u.send(syscall.SIGCONT, supervise.Event{}, halted)
}

// signalMain sends a signal to the main process, outside of an ending.
func (u *unit) signalMain(number syscall.Signal, reason tenure.Reason) error {
	if u.main == nil {
		return fmt.Errorf("%w: it has no main process", supervise.ErrNotReady)
	}
	if told := u.send(number, supervise.Event{Reason: reason}, []*proc.Handle{u.main}); len(told) == 0 {
		return fmt.Errorf("%w: its main process has ended", supervise.ErrNotReady)
	}
	return nil
}

// emptied is asked when there is no main process: it reports whether the unit
// has no process of its own any more. What is to live on is set apart; the
// others are told, if they were not.
func (u *unit) emptied(ctx context.Context) bool {
	infos, ok := u.living()
	if !ok || len(infos) == 0 {
		return ok
	}
	if u.keeps() {
		thaw := u.freeze(ctx)
		infos = u.split(ctx)
		thaw()
		if len(infos) == 0 {
			return true
		}
	}
	if u.rec.Spec.Stop.Target == supervise.TargetMain && !u.rec.Passive {
		u.leaveBehind(ctx, infos)
		return true
	}
	if u.rec.Ending.Phase == phaseSignal {
		u.signalAll(u.stopSignal(), infos)
	} else if u.rec.Ending.Killed {
		u.kill(ctx)
	}
	u.save()
	u.watchGroups(ctx)
	u.watchOldest(ctx, infos)
	// They may have ended before anybody watched.
	infos, ok = u.living()
	return ok && len(infos) == 0
}

// graceOver is told when a unit has had its time.
func (u *unit) graceOver(ctx context.Context) {
	e := u.rec.Ending
	if e == nil || e.Phase != phaseSignal {
		return
	}
	if !e.settled() {
		u.askTerms() // Its time is set anew by the answer.
		return
	}
	if !u.mayKill(e.Terms) {
		u.giveUp(ctx)
		return
	}
	e.Phase, e.Killed = phaseKill, true
	u.kill(ctx)
	u.save()
	u.progress(ctx)
}

// kill sends SIGKILL to those who the protocol is for. The whole group at once
// only where nothing in it or below it is, or may become, another unit's.
func (u *unit) kill(ctx context.Context) {
	if u.rec.Spec.Stop.Target == supervise.TargetMain && !u.rec.Passive && !u.keeps() {
		infos, _ := u.living()
		u.signalAll(syscall.SIGKILL, u.targets(infos))
		return
	}
	if u.keeps() || len(u.rec.Ceded) > 0 {
		thaw := u.freeze(ctx)
		u.signalAll(syscall.SIGKILL, u.targets(u.split(ctx)))
		thaw()
		return
	}
	infos, err := u.inside()
	if err != nil {
		u.warn("processes cannot be listed", err)
	}
	var groups []proc.Group
	for _, path := range u.ownGroups() {
		groups = append(groups, proc.GroupAt(path))
	}
	u.killGroups(supervise.Event{}, infos, err == nil, groups...)
	u.signalAll(syscall.SIGKILL, u.outside(infos))
}

func processesOf(infos []proc.Info) []tenure.Process {
	list := make([]tenure.Process, 0, len(infos))
	for _, info := range infos {
		list = append(list, info.Process)
	}
	return list
}

// watchOldest hears of the end of the oldest of what is left, where the group
// cannot tell because others live in groups below it, or there is nobody to tell.
func (u *unit) watchOldest(ctx context.Context, infos []proc.Info) {
	watched := u.watch != nil || u.rec.Group == ""
	if !u.crowded() && watched {
		return
	}
	for _, info := range infos {
		handle, err := proc.Open(info.Process)
		if err != nil {
			continue
		}
		u.s.wg.Go(func() {
			defer handle.Close()
			if _, err := handle.Wait(ctx); err == nil {
				_ = u.tell(ctx, u.groupChanged)
			}
		})
		return
	}
}

// giveUp ends an ending whose unit may not be killed and has not ended. If its
// main process lives the unit runs on; what is left without one becomes a unit of
// its own.
func (u *unit) giveUp(ctx context.Context) {
	infos, _ := u.living()
	names := make([]string, 0, len(infos))
	for _, info := range infos {
		names = append(names, fmt.Sprintf("%d (%s)", info.PID, info.CommandLine()))
	}
	err := fmt.Errorf("%w within %s, and must not be killed: process %s", supervise.ErrStopTimeout, u.grace(), strings.Join(names, ", "))
	u.warn("stop timed out", err)
	if u.main == nil {
		if !u.rec.Passive {
			u.leaveBehind(ctx, infos)
			u.answerStop(stopAnswer{exit: u.rec.Exit, err: err})
			u.progress(ctx)
			return
		}
		u.nextMain(ctx)
	}
	if len(u.starting) > 0 {
		u.answerStart(u.startError(ctx, u.rec.Ending.Cause))
	}
	u.rec.Told = u.rec.Ending.Cause == supervise.CauseRequest
	u.rec.Ending = nil
	u.state(supervise.Running)
	u.answerStop(stopAnswer{err: err})
	u.runQueued(ctx)
}

func (u *unit) answerStop(a stopAnswer) {
	for _, reply := range u.stopping {
		reply <- a
	}
	u.stopping = nil
}

// finish closes an ending: the unit has no process any more.
func (u *unit) finish(ctx context.Context) {
	e := u.rec.Ending
	needed, given := e.took(u.grace()), u.rec.Spec.Stop.Timeout
	u.event(supervise.Event{Kind: supervise.EventEnded, Exit: u.rec.Exit, Took: needed, Given: given, Extended: e.Extended})
	starting, outcome := u.starting, error(nil)
	if u.starting = nil; len(starting) > 0 {
		outcome = u.startOutcome(ctx, e.Cause)
	}
	told, again := u.rec.Told, u.rec.Again
	told = told || e.Cause == supervise.CauseExit && u.toldByHost(ctx, u.rec.Group)
	remove := u.dropGroup(ctx, e.Cause == supervise.CauseRequest || told || u.overlaps())
	u.rec.Ending = nil
	u.clearAlarms(alarmStart, alarmStop, alarmWatchdog, alarmAgain)
	answer := stopAnswer{exit: e.Exit, killed: e.Killed}
	u.rec.Told, u.rec.Again = false, false
	switch {
	case u.rec.Passive && !u.id.Named() || u.overlaps():
		u.vanish(ctx)
	case e.Cause == supervise.CauseRequest && e.Hold:
		u.restBriefly()
	case e.Cause == supervise.CauseRequest || told:
		u.awayAtBoot(e.Reason, e.Hold)
		u.rest(ctx, e.Hold)
	default:
		exit := proc.Exit{}
		if u.rec.Exit != nil {
			exit = *u.rec.Exit
		}
		u.afterEnd(ctx, e.Cause, exit)
	}
	if u.s.cfg.Host != nil && !e.Hold && !u.forgotten {
		u.answerWhen(remove(), answer)
	} else {
		u.removeLater(e.Hold, func() { remove() })
		u.answerStop(answer)
	}
	for _, reply := range starting {
		reply <- outcome
	}
	if again {
		u.launchByItself(ctx)
	}
	if !u.rec.State.Alive() {
		u.runQueued(ctx)
	}
}

// startOutcome is what those hear who wait for a unit that has ended: a oneshot
// that ended well is what they waited for.
func (u *unit) startOutcome(ctx context.Context, why supervise.Cause) error {
	exit := u.rec.Exit
	if u.rec.Spec.Type == supervise.Oneshot && why == supervise.CauseExit && exit != nil && clean(u.rec.Spec, *exit) {
		return nil
	}
	return u.startError(ctx, why)
}
