package native

import (
	"context"
	"fmt"
	"time"

	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// The terms of an ending that somebody has asked for are in the request. Those of any
// other, and those on which a command of a unit that goes on is ended, are asked for:
// beside the actor, for whoever answers looks at the unit's processes. Meanwhile the
// unit is told to end, and its grace period runs; SIGKILL waits for the answer.

// termsPatience is how long an answer may take. None is one that forbids SIGKILL.
const termsPatience = 10 * time.Second

// settled reports whether the terms of an ending are known.
func (e *ending) settled() bool { return e.Settled || e.Cause == supervise.CauseRequest }

// terms are those on which the unit is ended now, if they are known.
func (u *unit) terms() (t supervise.Terms, known bool) {
	if e := u.rec.Ending; e != nil && e.settled() {
		return e.Terms, true
	}
	return supervise.Terms{}, false
}

// mayKill reports whether the unit's protocol on these terms, or an order, allow SIGKILL.
func (u *unit) mayKill(t supervise.Terms) bool {
	return u.rec.Ending != nil && u.rec.Ending.Kill || t.MayKill(u.rec.Spec.Stop)
}

// askTerms asks on which terms the unit ends, if they are not known. An ending that
// has become that of a request meanwhile does not need the answer.
func (u *unit) askTerms() {
	e := u.rec.Ending
	if e.settled() || e.asked {
		return
	}
	e.asked = true
	u.hearTerms(func(_ context.Context, t supervise.Terms) {
		if u.rec.Ending == e && !e.settled() {
			u.settleTerms(t)
		}
	})
}

// hearTerms asks on which terms the unit is ended, and calls then with the answer: as a
// message to the actor, or when there is none any more.
func (u *unit) hearTerms(then func(context.Context, supervise.Terms)) {
	id := u.id
	u.background(func(life context.Context) {
		ctx, cancel := context.WithTimeout(life, termsPatience)
		defer cancel()
		t, err := u.s.cfg.Terms(ctx, id)
		if life.Err() != nil {
			return // The next supervisor asks again.
		}
		answer := func(ctx context.Context) {
			if err != nil {
				u.warn("terms of its end are not known, so that it is not killed", err)
				t = supervise.Terms{Kill: supervise.KillNever}
			}
			then(ctx, t)
		}
		if !u.deliver(life, answer) && life.Err() == nil {
			answer(life)
		}
	})
}

// deliver tells the actor, and reports whether it has carried out what it was told. It has
// not where it ended before that, for ever or with its supervisor.
func (u *unit) deliver(ctx context.Context, m func(context.Context)) bool {
	done := make(chan struct{})
	err := u.tell(ctx, func(ctx context.Context) {
		defer close(done)
		m(ctx)
	})
	if err != nil {
		return false
	}
	select {
	case <-done:
	case <-u.gone:
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// settleTerms goes on with an ending whose terms are known now: what has been waited
// counts.
func (u *unit) settleTerms(t supervise.Terms) {
	e, before := u.rec.Ending, u.grace()
	e.Terms, e.Settled = t, true
	more := moment(u.grace() - before)
	for _, name := range []alarm{alarmStop, alarmAux} {
		if at, set := u.rec.Deadline[name]; set {
			u.rec.Deadline[name] = at + more
		}
	}
	if u.rec.Aux != "" && before <= 0 && more > 0 {
		u.setAlarm(alarmAux, u.grace())
	}
	u.resumeGrace()
	u.save()
}

// resumeGrace sets the end of the grace period, unless it is set or there is none.
func (u *unit) resumeGrace() {
	e := u.rec.Ending
	if _, set := u.rec.Deadline[alarmStop]; set || e.Phase != phaseSignal || e.Told == 0 {
		return
	}
	if timeout := u.grace(); timeout > 0 {
		u.rec.Deadline[alarmStop] = e.Told + moment(timeout)
	}
}

// dropLater ends what is left of a command as soon as it is known on which terms. One
// that must not be killed and does not end in its time is a unit of its own then, for
// all to see, and to stop.
func (u *unit) dropLater(event supervise.Event, group proc.Group) {
	if event.Cause == "" && u.rec.Ending == nil {
		event.Cause = supervise.CauseRequest
	}
	event, spec := u.stamp(event), u.rec.Spec
	u.hearTerms(func(ctx context.Context, t supervise.Terms) {
		u.endCommand(event, group, t)
		grace := t.Grace(spec.Stop, 0)
		if u.mayKill(t) || grace <= 0 || u.id.Service().IsZero() {
			u.s.discard(ctx, group)
			return
		}
		u.background(func(ctx context.Context) { u.outlasts(ctx, spec, group, grace) })
	})
}

// outlasts waits for the end of what is left of a command, and makes a unit of it if
// that takes too long.
func (u *unit) outlasts(ctx context.Context, spec *supervise.Spec, group proc.Group, grace time.Duration) {
	patience, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := u.s.release(group, true)(patience); err == nil || ctx.Err() != nil {
		return
	}
	told := u.deliver(ctx, func(ctx context.Context) {
		infos, err := group.Processes()
		if err != nil || len(infos) == 0 {
			u.s.discard(ctx, group)
			return
		}
		u.warn("command did not end in its time, and must not be killed", fmt.Errorf("process %d (%s)", infos[0].PID, infos[0].CommandLine()))
		child := u.leftover(spec, group.Path(), infos[0])
		u.addLeftover(child)
		u.adoptChild(ctx, child)
	})
	if !told {
		u.s.discard(ctx, group)
	}
}
