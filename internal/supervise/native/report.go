package native

import (
	"slices"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// Every signal that a supervisor sends goes through send or killGroups: it is
// recorded, then sent, then told to those who listen.

// event records something that has happened to the unit, and tells of it.
func (u *unit) event(e supervise.Event) { u.s.tell(u.stamp(e)) }

// tell records an event, and tells of it.
func (s *Supervisor) tell(e supervise.Event) {
	s.record(e)
	s.bus.send(e)
}

func (s *Supervisor) record(e supervise.Event) {
	if s.cfg.Record != nil {
		s.cfg.Record(e)
	}
}

// stamp says of an event whose it is, when, and on whose behalf.
func (u *unit) stamp(e supervise.Event) supervise.Event {
	e.Time, e.Unit, e.Revision = time.Now(), u.id, u.rec.Spec.Revision
	switch ending, reloading := u.rec.Ending, u.rec.Reloading; {
	case e.Kind == supervise.EventState && (e.State == supervise.Starting || e.State == supervise.Running):
		e.Change = u.rec.Change
	case ending != nil && e.Cause == "":
		e.Cause, e.Reason, e.Change = ending.Cause, ending.Reason, ending.Change
	case ending != nil:
		e.Reason, e.Change = ending.Reason, ending.Change
	case reloading != nil && e.Kind != supervise.EventEnded:
		e.Reason, e.Change = reloading.Reason, reloading.Change
	}
	return e
}

// signalling is the event of a signal. What has had its grace has it for SIGKILL.
func (u *unit) signalling(number syscall.Signal, e supervise.Event, processes []tenure.Process) supervise.Event {
	e.Kind, e.Signal, e.Processes = supervise.EventSignal, proc.SignalName(number), processes
	if ending := u.rec.Ending; ending != nil && number == syscall.SIGKILL {
		e.Late = e.Late || ending.Killed
		e.Forced = ending.Kill && !ending.Terms.MayKill(u.rec.Spec.Stop)
	}
	if u.rec.Ending == nil && e.Cause == "" {
		e.Cause = supervise.CauseRequest
	}
	return u.stamp(e)
}

// send sends a signal to processes, and returns those who were sent it. One that ended
// in that very moment may be recorded nevertheless.
func (u *unit) send(number syscall.Signal, e supervise.Event, all []*proc.Handle) (told []tenure.Process) {
	if len(all) == 0 {
		return nil
	}
	for _, handle := range all {
		told = append(told, handle.Process())
	}
	e = u.signalling(number, e, told)
	u.s.record(e)
	told = slices.Clone(told[:0])
	for _, handle := range all {
		if handle.Signal(number) == nil {
			told = append(told, handle.Process())
		}
	}
	if e.Processes = told; len(told) > 0 {
		u.s.bus.send(e)
	}
	return told
}

// sendAll sends a signal to those of a list that still live.
func (u *unit) sendAll(number syscall.Signal, e supervise.Event, infos []proc.Info) {
	var all []*proc.Handle
	for _, info := range infos {
		if handle, err := proc.Open(info.Process); err == nil {
			defer handle.Close()
			all = append(all, handle)
		}
	}
	u.send(number, e, all)
}

// killGroups sends SIGKILL to all in groups. The list is of all who are there, if that
// is known.
func (u *unit) killGroups(e supervise.Event, infos []proc.Info, known bool, groups ...proc.Group) {
	infos = slices.DeleteFunc(slices.Clone(infos), gone)
	e.Whole = true
	e = u.signalling(syscall.SIGKILL, e, processesOf(infos))
	somebody := len(infos) > 0 || !known
	if somebody {
		u.s.record(e)
	}
	for _, group := range groups {
		if err := group.Kill(); err != nil {
			u.warn("group cannot be killed, and will be", err)
			u.setAlarm(alarmAgain, againPause)
		}
	}
	if somebody {
		u.s.bus.send(e)
	}
}
