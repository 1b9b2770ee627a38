package supervisetest

import (
	"errors"
	"time"

	"tenure/internal/supervise"
)

// end is one way in which a service can end by itself.
type end struct {
	name    string
	program Program
	change  func(*supervise.Spec)
	// restarted are the conditions under which it is started again, besides always:
	// the columns of the table of Restart= in systemd.service(5).
	restarted []supervise.RestartCondition
	// good is that it counts as clean where it is not started again.
	good bool
}

func ends() []end {
	const (
		success, failure   = supervise.RestartOnSuccess, supervise.RestartOnFailure
		abnormal, abort    = supervise.RestartOnAbnormal, supervise.RestartOnAbort
		watchdog, hesitate = supervise.RestartOnWatchdog, 10 * time.Millisecond
	)
	named := func(s *supervise.Spec) {
		s.Restart.SuccessExit, s.Restart.SuccessSignals = []int{42}, []string{"SIGUSR1"}
	}
	type conditions = []supervise.RestartCondition
	return []end{
		{"clean", Program{Exits: true}, nil, conditions{success}, true},
		{"code", Program{Exits: true, Code: 1}, nil, conditions{failure}, false},
		{"term", Program{Exits: true, Die: "SIGTERM"}, nil, conditions{success}, true},
		{"hup", Program{Exits: true, Die: "SIGHUP"}, nil, conditions{success}, true},
		{"kill", Program{Exits: true, Die: "SIGKILL"}, nil, conditions{failure, abnormal, abort}, false},
		{"usr1", Program{Exits: true, Die: "SIGUSR1"}, nil, conditions{failure, abnormal, abort}, false},
		{"named-code", Program{Exits: true, Code: 42}, named, conditions{success}, true},
		{"other-code", Program{Exits: true, Code: 43}, named, conditions{failure}, false},
		{"named-signal", Program{Exits: true, Die: "SIGUSR1"}, named, conditions{success}, true},
		{"other-signal", Program{Exits: true, Die: "SIGUSR2"}, named, conditions{failure, abnormal, abort}, false},
		{"timeout", Program{}, func(s *supervise.Spec) {
			s.Type, s.StartTimeout = supervise.Notify, hesitate
		}, conditions{failure, abnormal}, false},
		{"watchdog", Program{Notify: true, Add: []string{"WATCHDOG=trigger"}}, func(s *supervise.Spec) {
			s.Watchdog = time.Hour
		}, conditions{failure, abnormal, watchdog}, false},
		{"oneshot", Program{Exits: true}, func(s *supervise.Spec) { s.Type = supervise.Oneshot }, nil, true},
		{"oneshot-term", Program{Exits: true, Die: "SIGTERM"}, func(s *supervise.Spec) {
			s.Type = supervise.Oneshot
		}, conditions{failure, abnormal, abort}, false},
	}
}

// after is the state that follows an end under a condition.
func (e *end) after(condition supervise.RestartCondition) supervise.State {
	again := condition == supervise.RestartAlways && e.name != "oneshot"
	for _, restarted := range e.restarted {
		again = again || restarted == condition
	}
	switch {
	case again:
		return supervise.Backoff
	case e.good:
		return supervise.Inactive
	}
	return supervise.Failed
}

// restarts are every way to end under every condition.
func restarts() (parts []part) {
	for _, e := range ends() {
		parts = append(parts, part{"an end (" + e.name + ") under every restart condition", (&e).underEvery})
	}
	return parts
}

// underEvery is one way to end under every condition.
func (e *end) underEvery(l *law) {
	var specs []supervise.Spec
	want := map[string]supervise.State{}
	for _, condition := range []supervise.RestartCondition{
		supervise.RestartNever, supervise.RestartAlways, supervise.RestartOnSuccess, supervise.RestartOnFailure,
		supervise.RestartOnAbnormal, supervise.RestartOnAbort, supervise.RestartOnWatchdog,
	} {
		name := e.name + "-" + string(condition)
		want[name] = e.after(condition)
		specs = append(specs, l.spec(name, e.program, crashes(condition, time.Hour), func(s *supervise.Spec) {
			if e.change != nil {
				e.change(s)
			}
		}))
	}
	for _, spec := range specs {
		if err := l.Supervisor.Start(l.ctx, spec); err != nil && !errors.Is(err, supervise.ErrNotReady) {
			l.t.Fatal(err)
		}
	}
	for _, spec := range specs {
		name := string(spec.Unit.App)
		status := l.until("has ended", spec.Unit, func(s supervise.Status) bool { return !s.State.Alive() })
		if status.State != want[name] {
			l.t.Errorf("%s is %s after its end (%s), want %s", name, status.State, status.LastExit, want[name])
		}
		l.stop(spec.Unit)
	}
}

// growingBackoff waits twice as long before every restart that did not last.
func growingBackoff(l *law) {
	// An event has its time a moment after what it tells.
	const first, rounds, moment = 20 * time.Millisecond, 4, 5 * time.Millisecond
	id := unit("crashing")
	l.start(l.spec("crashing", Program{Exits: true, Code: 1}, crashes(supervise.RestartAlways, first)))
	for round := range rounds {
		begun := l.becomes(id, supervise.Backoff).Time
		waited := l.becomes(id, supervise.Starting).Time.Sub(begun)
		if least := first<<round - moment; waited < least {
			l.t.Errorf("restart %d came after %s, want at least %s", round+1, waited, least)
		}
	}
	if status := l.status(id); status.Restarts < rounds {
		l.t.Errorf("%d restarts, want %d", status.Restarts, rounds)
	}
	l.stop(id)
	l.inState(id, supervise.Inactive)
}
