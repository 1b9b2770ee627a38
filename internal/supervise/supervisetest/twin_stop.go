package supervisetest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// stop is a request to end.
func (u *twinUnit) stop(req supervise.StopRequest, by change.ID, reply chan<- twinEnded) {
	u.queued = nil
	switch {
	case u.status.State == supervise.Stopping:
		u.stopping = append(u.stopping, reply)
		u.ending.requested = true
		u.ending.HoldSockets, u.ending.Reason, u.ending.change = req.HoldSockets, req.Reason, by
		u.ending.Kill, u.ending.Limit, u.ending.Terms = u.ending.Kill || req.Kill, req.Limit, req.Terms
		u.settle()
	case u.status.State.Alive():
		u.stopping = append(u.stopping, reply)
		u.end(twinEnding{StopRequest: req, change: by, requested: true})
	default:
		u.disarm()
		u.rest(req.HoldSockets)
		reply <- twinEnded{}
	}
}

// rest is the state of a unit that was told to stop and has.
func (u *twinUnit) rest(hold bool) {
	if !hold {
		u.closeSockets()
	}
	u.state(supervise.Inactive)
}

// end begins an ending: the stop command first, where there is one and the unit
// was asked to end.
func (u *twinUnit) end(e twinEnding) {
	u.disarm()
	e.signalled = map[*process]bool{}
	u.ending = &e
	u.state(supervise.Stopping)
	command := u.spec().Stop.Command
	if e.requested && command != nil && (u.ready || u.passive) {
		u.ending.commanded, u.ending.began = true, time.Now()
		u.command(*command, func(proc.Exit) {
			u.ending.commanded, u.ending.took = false, time.Since(u.ending.began)
			u.progress()
		})
	}
	u.progress()
}

// command runs a command for the unit.
func (u *twinUnit) command(c supervise.Command, done func(proc.Exit)) {
	program, ok := ParseProgram(c.Argv)
	if !ok {
		u.t.later = append(u.t.later, func() { done(proc.Exit{}) })
		return
	}
	env := map[string]string{"MAINPID": strconv.Itoa(u.status.Main.PID)}
	u.t.spawn(nil, program, 1, env).aux = done
}

// progress goes on with an ending as far as it can without waiting.
func (u *twinUnit) progress() {
	e := u.ending
	if e == nil || e.commanded {
		return
	}
	if !e.signals {
		e.signals = true
		u.signal()
	}
	if u.main != nil || !u.emptied() {
		return
	}
	if !e.posts {
		e.took = max(e.took, time.Since(e.told))
	}
	if post := u.spec().PostStop; post != nil && !e.posts {
		e.posts = true
		u.command(*post, func(proc.Exit) {
			e.posted = true
			u.progress()
		})
	}
	if e.posted || !e.posts {
		u.finish()
	}
}

// signal tells the unit to end, after what must not be told has been set apart.
func (u *twinUnit) signal() {
	u.waitGrace()
	u.split()
	u.tell(u.stopSignal(), u.targets())
}

// grace is how long the unit has to end; 0 is for ever.
func (u *twinUnit) grace() time.Duration {
	return u.terms().Grace(u.spec().Stop, u.ending.Limit)
}

// waitGrace begins the grace period, and asks on which terms it is where no request
// has said so.
func (u *twinUnit) waitGrace() {
	e := u.ending
	e.told = time.Now()
	if timeout := u.grace(); timeout > 0 {
		u.clock(timeout, u.graceOver)
	}
	arbiter := u.t.arbiter
	if e.requested || arbiter == nil || len(u.living()) == 0 {
		return
	}
	e.asked = true
	id := u.status.Unit
	go func() {
		terms, err := arbiter(context.Background(), id)
		if err != nil {
			terms = supervise.Terms{Kill: supervise.KillNever}
		}
		u.t.do(func() {
			if u.ending == e && e.asked {
				e.terms = terms
				u.settle()
			}
		})
	}()
}

// settle goes on with an ending whose terms are known now: what has been waited counts.
func (u *twinUnit) settle() {
	e := u.ending
	if !e.asked {
		return
	}
	e.asked = false
	if timeout := u.grace(); timeout > 0 {
		u.disarm()
		u.clock(time.Until(e.told.Add(timeout)), u.graceOver)
	}
}

// terms are those of the request to end, or those that were asked for.
func (u *twinUnit) terms() supervise.Terms {
	if u.ending.requested {
		return u.ending.Terms[u.status.Unit]
	}
	return u.ending.terms
}

func (u *twinUnit) stopSignal() syscall.Signal {
	if u.ending.silent && u.main != nil {
		return syscall.SIGABRT
	}
	for number := syscall.Signal(1); number < 32; number++ {
		if proc.SignalName(number) == u.spec().Stop.Signal {
			return number
		}
	}
	return syscall.SIGTERM
}

func (u *twinUnit) targets() []*process {
	aborts := u.ending.silent && u.main != nil && !u.ending.killing
	if u.spec().Stop.Target == supervise.TargetGroup && !aborts {
		return u.living()
	}
	return slices.DeleteFunc(u.living(), func(p *process) bool { return p != u.main })
}

func (u *twinUnit) tell(number syscall.Signal, targets []*process) {
	var told []tenure.Process
	for _, p := range targets {
		if u.ending.signalled[p] && number != syscall.SIGKILL {
			continue
		}
		u.ending.signalled[p] = true
		told = append(told, p.Process)
	}
	if len(told) == 0 {
		return
	}
	e := supervise.Event{Kind: supervise.EventSignal, Signal: proc.SignalName(number), Processes: told}
	e.Late = u.ending.killing
	e.Forced = number == syscall.SIGKILL && u.ending.Kill && !u.terms().MayKill(u.spec().Stop)
	u.tellOf(e)
	for _, p := range told {
		if target := u.t.processes[p.PID]; target != nil {
			target.signal(number)
		}
	}
}

// emptied reports whether a unit without main process has no process of its own
// any more.
func (u *twinUnit) emptied() bool {
	u.split()
	rest := u.living()
	switch {
	case len(rest) == 0:
		return true
	case u.spec().Stop.Target == supervise.TargetMain && !u.passive:
		u.leaveBehind(rest)
		return true
	case u.ending.killing:
		u.tell(syscall.SIGKILL, rest)
	default:
		u.tell(u.stopSignal(), rest)
	}
	return false
}

// graceOver is told when the unit has had its time.
func (u *twinUnit) graceOver() {
	e := u.ending
	if e == nil || e.timed || e.asked {
		return
	}
	e.timed = true
	if e.Kill || u.terms().MayKill(u.spec().Stop) {
		e.killing, e.killed = true, true
		u.tell(syscall.SIGKILL, u.targets())
		return
	}
	err := fmt.Errorf("%w within %s", supervise.ErrStopTimeout, u.grace())
	if u.main == nil && !u.passive {
		u.leaveBehind(u.living())
		u.answerStop(twinEnded{exit: e.exit, err: err})
		u.progress()
		return
	}
	u.ending, u.told = nil, e.requested
	u.state(supervise.Running)
	u.answerStart(&supervise.StartError{Unit: u.status.Unit, Err: fmt.Errorf("%w: %w", supervise.ErrNotReady, err)})
	u.answerStop(twinEnded{err: err})
	u.runQueued()
}

func (u *twinUnit) answerStop(a twinEnded) {
	for _, reply := range u.stopping {
		reply <- a
	}
	u.stopping = nil
}

func (u *twinUnit) runQueued() {
	queued := u.queued
	u.queued = nil
	for _, start := range queued {
		start()
	}
}

// finish closes an ending: the unit has no process any more.
func (u *twinUnit) finish() {
	e, told := u.ending, u.told
	end := supervise.Event{Kind: supervise.EventEnded, Exit: e.exit, Given: u.spec().Stop.Timeout, Extended: e.extended}
	if e.requested && !e.killed {
		end.Took = e.took
	}
	u.tellOf(end)
	u.disarm()
	u.ending, u.told = nil, false
	starting := u.starting
	u.starting = nil
	outcome := u.outcome(e)
	switch {
	case u.transient():
		u.vanish()
	case e.requested || told:
		u.rest(e.HoldSockets)
	default:
		u.ended(e)
	}
	if !u.transient() {
		u.tellEmpty()
	}
	u.answerStop(twinEnded{exit: e.exit, killed: e.killed})
	for _, reply := range starting {
		reply <- outcome
	}
	if !u.status.State.Alive() {
		u.runQueued()
	}
}

// outcome is what those hear who wait for the start of a unit that has ended.
func (u *twinUnit) outcome(e *twinEnding) error {
	if u.spec().Type == supervise.Oneshot && e.exit != nil && u.clean(*e.exit) && !e.requested {
		return nil
	}
	return &supervise.StartError{Unit: u.status.Unit, Exit: e.exit, Log: u.log, Err: supervise.ErrNotReady}
}

// ended decides what follows when a unit has ended by itself.
func (u *twinUnit) ended(e *twinEnding) {
	good := !e.late && !e.silent && e.exit != nil && u.clean(*e.exit)
	policy := u.spec().Restart
	if u.restarts(e, good) {
		delay := policy.Delay
		if delay <= 0 {
			delay = 100 * time.Millisecond
		}
		u.status.Restarts++
		u.clock(delay<<min(u.status.Restarts-1, 8), u.launch)
		u.state(supervise.Backoff)
		return
	}
	switch {
	case u.arm():
	case good:
		u.state(supervise.Inactive)
	default:
		u.state(supervise.Failed)
	}
}

func (u *twinUnit) restarts(e *twinEnding, good bool) bool {
	signalled := !e.late && !e.silent && e.exit != nil && e.exit.Signal != "" && !good
	if good && u.spec().Type == supervise.Oneshot {
		return false
	}
	switch u.spec().Restart.Condition {
	case supervise.RestartAlways:
		return true
	case supervise.RestartOnSuccess:
		return good
	case supervise.RestartOnFailure:
		return !good
	case supervise.RestartOnAbnormal:
		return e.late || e.silent || e.exit == nil || signalled
	case supervise.RestartOnAbort:
		return signalled
	case supervise.RestartOnWatchdog:
		return e.silent
	case supervise.RestartNever:
	}
	return false
}

// clean is the rule of systemd.service(5).
func (u *twinUnit) clean(exit proc.Exit) bool {
	switch {
	case exit.Signal == "":
		return exit.Code == 0 || slices.Contains(u.spec().Restart.SuccessExit, exit.Code)
	case slices.Contains(u.spec().Restart.SuccessSignals, exit.Signal):
		return true
	case u.spec().Type == supervise.Oneshot:
		return false
	}
	return slices.Contains([]string{"SIGHUP", "SIGINT", "SIGTERM", "SIGPIPE"}, exit.Signal)
}
