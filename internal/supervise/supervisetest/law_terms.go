package supervisetest

import (
	"context"
	"errors"
	"slices"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

// terms are on what terms units end that nobody has asked to end.
func terms() []part {
	return []part{
		{"the terms of a crash go before the protocol", crashTerms},
		{"without an answer nobody is killed", crashUnanswered},
		{"a request goes before the terms of a crash", crashStopped},
		{"the terms of a start that takes too long", lateTerms},
		{"the terms of an end of its own accord", stoppingTerms},
	}
}

// short is a grace period that is over soon, long one that never is.
const (
	short = 30 * time.Millisecond
	long  = 2 * patience
)

// heed has an arbiter asked, which finds the unit it is asked about and its processes.
func (l *law) heed(arbiter supervise.Arbiter) {
	l.t.Helper()
	if l.Heed == nil {
		l.t.Fatal("the harness has no Heed")
	}
	l.Heed(func(ctx context.Context, id tenure.UnitID) (supervise.Terms, error) {
		if infos, err := l.Supervisor.Processes(ctx, id); err != nil || len(infos) == 0 {
			l.t.Errorf("whoever is asked about %s sees %+v, %v", id, infos, err)
		}
		return arbiter(ctx, id)
	})
}

// orphaning is a service whose main process ends, and leaves behind a child that ignores
// its signal.
func (l *law) orphaning(name string, grace time.Duration, kill supervise.Kill) supervise.Spec {
	p := Program{Notify: true, Exits: true, Code: 1, Children: []Program{{Name: "backend", IgnoreTerm: true}}}
	return l.spec(name, p, func(s *supervise.Spec) { s.Stop.Timeout, s.Stop.Kill = grace, kill })
}

// left is the leftover of a unit, when there is one.
func (l *law) left(id tenure.UnitID) tenure.UnitID {
	l.t.Helper()
	for {
		units, err := l.Supervisor.Units(l.ctx)
		if err != nil {
			l.t.Fatal(err)
		}
		for i := range units {
			if unit := units[i].Unit; unit.Name == tenure.Leftover && unit.Service() == id {
				return unit
			}
		}
		l.event("something is left of "+id.String(), func(e supervise.Event) bool { return e.Kind == supervise.EventSplit })
	}
}

// sentTo is what a unit was sent, in order. One that has not ended yet may be told again.
func (l *law) sentTo(id tenure.UnitID) []string {
	l.t.Helper()
	var sent []string
	for _, e := range l.recorded(supervise.EventSignal) {
		if e.Unit == id {
			sent = append(sent, e.Signal)
		}
	}
	return slices.Compact(sent)
}

// endByOrder ends what was never to be killed.
func (l *law) endByOrder(id tenure.UnitID) {
	l.t.Helper()
	if sent := l.sentTo(id); slices.Contains(sent, "SIGKILL") {
		l.t.Errorf("%s was sent %v", id, sent)
	}
	req := supervise.StopRequest{Units: []tenure.UnitID{id}, Reason: tenure.ReasonStop, Kill: true, Limit: short}
	if ended, err := l.Supervisor.Stop(l.ctx, req); err != nil || !slices.Equal(ended.Killed, req.Units) {
		l.t.Errorf("stop of %s by order: %+v, %v", id, ended, err)
	}
}

// crashTerms are those of what a main process leaves behind: whether it is killed, and when.
func crashTerms(l *law) {
	never, sooner, after := unit("never"), unit("sooner"), unit("after")
	l.heed(func(_ context.Context, id tenure.UnitID) (supervise.Terms, error) {
		return map[tenure.UnitID]supervise.Terms{
			never:  {Kill: supervise.KillNever},
			sooner: {Timeout: short},
			after:  {Timeout: short, Kill: supervise.KillAfterTimeout},
		}[id], nil
	})
	for _, spec := range []supervise.Spec{
		l.orphaning("never", short, supervise.KillAfterTimeout),
		l.orphaning("sooner", long, supervise.KillAfterTimeout),
		l.orphaning("after", long, supervise.KillNever),
	} {
		l.start(spec)
	}
	for _, id := range []tenure.UnitID{sooner, after} {
		l.until("has ended", id, func(s supervise.Status) bool { return s.State == supervise.Failed })
		if sent := l.sentTo(id); !slices.Equal(sent, []string{"SIGTERM", "SIGKILL"}) {
			l.t.Errorf("%s was sent %v", id, sent)
		}
	}
	backend := l.left(never)
	if infos := l.processes(backend); len(infos) != 1 {
		l.t.Errorf("processes of %s: %+v", backend, infos)
	}
	l.until("has ended", never, func(s supervise.Status) bool { return s.State == supervise.Failed })
	if sent := l.sentTo(never); !slices.Equal(sent, []string{"SIGTERM"}) {
		l.t.Errorf("%s was sent %v", never, sent)
	}
	l.endByOrder(backend)
}

// crashUnanswered waits for the answer beyond the grace period, and takes an error for
// one that forbids SIGKILL.
func crashUnanswered(l *law) {
	id, answer := unit("unanswered"), make(chan error)
	l.heed(func(ctx context.Context, _ tenure.UnitID) (supervise.Terms, error) {
		// Another stop, which is not asked about, takes as long as the grace period.
		if _, err := l.Supervisor.Stop(ctx, supervise.StopRequest{Units: []tenure.UnitID{unit("other")}}); err != nil {
			return supervise.Terms{}, err
		}
		select {
		case err := <-answer:
			return supervise.Terms{}, err
		case <-ctx.Done():
			return supervise.Terms{}, context.Cause(ctx)
		}
	})
	// It is ready before there is anybody to be asked about, and so is stopped when it runs.
	l.start(l.spec("other", Program{Notify: true, IgnoreTerm: true}, func(s *supervise.Spec) { s.Stop.Timeout = 2 * short }))
	l.start(l.orphaning("unanswered", short, supervise.KillAfterTimeout))
	l.becomes(unit("other"), supervise.Inactive)
	l.inState(id, supervise.Stopping)
	answer <- errors.New("nobody knows")
	l.endByOrder(l.left(id))
}

// crashStopped is a request while the answer is waited for: it is not needed any more.
func crashStopped(l *law) {
	id, asked, answer := unit("stopped"), make(chan struct{}), make(chan struct{})
	l.heed(func(ctx context.Context, _ tenure.UnitID) (supervise.Terms, error) {
		close(asked)
		select {
		case <-answer:
		case <-ctx.Done():
		}
		return supervise.Terms{Kill: supervise.KillNever}, nil
	})
	l.start(l.orphaning("stopped", short, supervise.KillAfterTimeout))
	<-asked
	if ended, err := l.Supervisor.Stop(l.ctx, supervise.StopRequest{Units: []tenure.UnitID{id}}); err != nil || !slices.Equal(ended.Killed, []tenure.UnitID{id}) {
		l.t.Errorf("ended %+v, %v", ended, err)
	}
	close(answer)
	l.inState(id, supervise.Inactive)
}

// lateTerms are those of a unit that was not ready in time.
func lateTerms(l *law) {
	l.heed(func(context.Context, tenure.UnitID) (supervise.Terms, error) {
		return supervise.Terms{Timeout: short, Kill: supervise.KillNever}, nil
	})
	spec := l.spec("late", Program{Notify: true, ReadyAfter: long, IgnoreTerm: true}, func(s *supervise.Spec) { s.StartTimeout = 10 * short })
	_ = l.failsToStart(spec)
	l.until("runs on", spec.Unit, func(s supervise.Status) bool { return s.State == supervise.Running })
	l.endByOrder(spec.Unit)
}

// stoppingTerms are those of a unit that says it ends, and stays.
func stoppingTerms(l *law) {
	for name, kill := range map[string]supervise.Kill{"staying": supervise.KillNever, "killed": supervise.KillAfterTimeout} {
		l.heed(func(context.Context, tenure.UnitID) (supervise.Terms, error) {
			return supervise.Terms{Timeout: short, Kill: kill}, nil
		})
		spec := l.spec(name, Program{Notify: true, Add: []string{"STOPPING=1"}, IgnoreTerm: true}, func(s *supervise.Spec) { s.Stop.Timeout = long })
		l.start(spec)
		if kill == supervise.KillNever {
			l.becomes(spec.Unit, supervise.Stopping)
			l.becomes(spec.Unit, supervise.Running)
			l.endByOrder(spec.Unit)
			continue
		}
		l.until("has ended", spec.Unit, func(s supervise.Status) bool { return !s.State.Alive() })
	}
}
