package native

import (
	"context"
	"time"

	"tenure/internal/supervise"
)

// aftermathPatience is how long the next life may take to be ready before what is
// left of the last one is taken down nevertheless.
const aftermathPatience = 250 * time.Millisecond

// aftermath is what is left of a life that another one is to follow at once, and
// that nobody waits for: its mount namespace, its empty control group, and the record
// of its end. To take it down costs the kernel milliseconds, under locks that a start
// needs too, so that the start goes first.
//
// All of it is lost with the supervisor without harm: the namespace ends, and the
// next supervisor finds the end and the empty group by itself.
type aftermath struct {
	// work is what there is to do.
	work []func()
	// unwritten is that the record lags behind: it says that the unit is ending.
	unwritten bool
}

// outlive keeps the mount namespace of a main process that is to end for longer than
// the process, if another life is to follow: to take it down is otherwise part of the
// end, which is heard only then.
func (u *unit) outlive() {
	if !u.rec.Ending.Hold || u.main == nil || hostRoot(u.rec.Spec) {
		return
	}
	namespace, err := u.main.MountNamespace()
	if err != nil {
		return // The end takes a little longer.
	}
	u.later(func() { _ = namespace.Close() })
}

// restBriefly is rest for a unit that is to start again at once: if nothing comes of
// that the record is written later.
func (u *unit) restBriefly() {
	u.rec.Holding = true
	u.turn(supervise.Inactive, u.publish)
	u.aftermath.unwritten = true
}

// removeLater removes what a life has left: now, or later.
func (u *unit) removeLater(follows bool, remove func()) {
	if follows {
		u.later(remove)
		return
	}
	remove()
}

// later has work done in the background when the next life is ready, or did not
// become so in time.
func (u *unit) later(work func()) {
	u.aftermath.work = append(u.aftermath.work, work)
	u.setAlarm(alarmAftermath, aftermathPatience)
}

// tidy does what was left for later.
func (u *unit) tidy() {
	u.clearAlarms(alarmAftermath)
	if u.aftermath.unwritten {
		u.save()
	}
	work := u.aftermath.work
	if u.aftermath.work = nil; len(work) > 0 {
		u.background(func(context.Context) {
			for _, f := range work {
				f()
			}
		})
	}
}
