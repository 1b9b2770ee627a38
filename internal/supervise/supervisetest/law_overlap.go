package supervisetest

import (
	"errors"
	"slices"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

// overlapper is the supervisor's ability to hand over; one that has none has
// nothing to prove.
func (l *law) overlapper() supervise.Overlapper {
	l.t.Helper()
	o, able := l.Supervisor.(supervise.Overlapper)
	if !able {
		l.t.Skip("this supervisor cannot let generations overlap")
	}
	return o
}

// next is the next revision of a service.
func next(n int) func(*supervise.Spec) {
	return func(s *supervise.Spec) { s.Revision = tenure.LocalRevision(n) }
}

func (l *law) succeed(spec supervise.Spec) {
	l.t.Helper()
	if err := l.overlapper().Succeed(l.ctx, spec); err != nil {
		l.t.Fatalf("succeed: %v%s", err, logOf(err))
	}
}

func (l *law) takeOver(id tenure.UnitID, drain time.Duration) tenure.UnitID {
	l.t.Helper()
	draining, err := l.overlapper().TakeOver(l.ctx, id, drain)
	if err != nil {
		l.t.Fatalf("take over: %v", err)
	}
	return draining
}

// successors are the units beside a service that are to be it.
func (l *law) successors(service tenure.UnitID) []supervise.Status {
	l.t.Helper()
	units, err := l.Supervisor.Units(l.ctx)
	if err != nil {
		l.t.Fatalf("units: %v", err)
	}
	return slices.DeleteFunc(units, func(s supervise.Status) bool {
		return s.Unit.Name != tenure.Successor || s.Unit.Service() != service
	})
}

// unsignalled checks that nobody has been told anything.
func (l *law) unsignalled() {
	l.t.Helper()
	for _, e := range l.seen {
		if e.Kind == supervise.EventSignal {
			l.t.Errorf("a signal was sent: %+v", e)
		}
	}
}

func takesOver(l *law) {
	id, socket := unit("server"), l.Socket(l.t, "main")
	l.start(l.socketSpec(socket, 1))
	first := <-l.Connect(l.t, socket)
	l.becomes(id, supervise.Running)
	old := l.status(id)
	l.succeed(l.socketSpec(socket, 2))
	l.succeed(l.socketSpec(socket, 2)) // It is there.
	if now := l.status(id); now.Main != old.Main || now.Revision != old.Revision || now.State != supervise.Running {
		l.t.Fatalf("the service with a successor is %+v, before %+v", now, old)
	}
	heirs := l.successors(id)
	if len(heirs) != 1 || heirs[0].Revision != tenure.LocalRevision(2) || heirs[0].State != supervise.Running {
		l.t.Fatalf("successors %+v, want one of x2", heirs)
	}
	if infos := l.processes(heirs[0].Unit); len(infos) != 1 || infos[0].Process == old.Main {
		l.t.Errorf("processes of the successor: %+v", infos)
	}
	draining := l.takeOver(id, 0)
	l.event("the service is another process", func(e supervise.Event) bool {
		return e.Kind == supervise.EventMain && e.Unit == id && e.Revision == tenure.LocalRevision(2)
	})
	l.unsignalled()
	now, before := l.status(id), l.status(draining)
	if now.Main != heirs[0].Main || now.Revision != tenure.LocalRevision(2) || now.State != supervise.Running || now.Spec.Unit != id {
		l.t.Errorf("the service is %+v, want the successor %+v", now, heirs[0])
	}
	if before.Main != old.Main || before.Revision != old.Revision || before.State != supervise.Running || draining.Service() != id {
		l.t.Errorf("what drains is %+v, want the service before %+v", before, old)
	}
	l.stop(draining)
	l.empty(draining)
	if _, known := l.known(draining); known || len(l.successors(id)) > 0 {
		l.t.Error("what has drained, or the successor, is still known")
	}
	if second := <-l.Connect(l.t, socket); second == "" || second == first {
		l.t.Errorf("answer %q, want one of another process than %q", second, first)
	}
	l.succeed(l.socketSpec(socket, 2)) // It is the service.
	if len(l.successors(id)) > 0 {
		l.t.Error("the service has become its own successor")
	}
	l.stop(id)
}

func successorNotReady(l *law) {
	id := unit("steady")
	l.start(l.spec("steady", Program{Notify: true}))
	old := l.status(id)
	never := l.spec("steady", Program{Notify: true, ReadyAfter: patience}, next(2), func(s *supervise.Spec) { s.StartTimeout = 100 * time.Millisecond })
	err := l.overlapper().Succeed(l.ctx, never)
	failed, ok := errors.AsType[*supervise.StartError](err)
	if !ok || !errors.Is(err, supervise.ErrNotReady) {
		l.t.Fatalf("error %v, want that it was not ready", err)
	}
	l.empty(failed.Unit)
	if now := l.status(id); now.Main != old.Main || now.State != supervise.Running || len(l.successors(id)) > 0 {
		l.t.Errorf("the service is %+v, before %+v; successors %+v", now, old, l.successors(id))
	}
	for _, e := range l.seen {
		if e.Unit == id && e.Kind == supervise.EventSignal {
			l.t.Errorf("the service was signalled: %+v", e)
		}
	}
	if _, err := l.overlapper().TakeOver(l.ctx, id, 0); !errors.Is(err, supervise.ErrNotReady) {
		l.t.Errorf("taking over without a successor: %v", err)
	}
	// What failed once may be tried again.
	l.succeed(l.spec("steady", Program{Notify: true}, next(2)))
	l.stop(l.takeOver(id, 0), id)
}

func successorEnds(l *law) {
	id := unit("steady")
	l.start(l.spec("steady", Program{Notify: true}))
	old := l.status(id)
	brief := Program{Notify: true, Exits: true, RunFor: 100 * time.Millisecond, Code: 1}
	restarted := func(s *supervise.Spec) { s.Restart.Condition = supervise.RestartAlways }
	l.succeed(l.spec("steady", brief, next(2), restarted))
	heir := l.successors(id)[0].Unit
	l.empty(heir)
	if _, err := l.overlapper().TakeOver(l.ctx, id, 0); !errors.Is(err, supervise.ErrNotReady) {
		l.t.Errorf("taking over by what has ended: %v", err)
	}
	if now := l.status(id); now.Main != old.Main || now.State != supervise.Running || len(l.successors(id)) > 0 {
		l.t.Errorf("the service is %+v, before %+v; successors %+v", now, old, l.successors(id))
	}
	l.unsignalled()
	l.stop(id)
}

func successorStopped(l *law) {
	id := unit("steady")
	l.start(l.spec("steady", Program{Notify: true}))
	old := l.status(id)
	l.succeed(l.spec("steady", Program{Notify: true}, next(2)))
	if err := l.overlapper().Succeed(l.ctx, l.spec("steady", Program{Notify: true}, next(3))); !errors.Is(err, supervise.ErrRunning) {
		l.t.Errorf("a second successor: %v", err)
	}
	heir := l.successors(id)[0].Unit
	l.stop(heir)
	l.empty(heir)
	if now := l.status(id); now.Main != old.Main || now.State != supervise.Running || len(l.successors(id)) > 0 {
		l.t.Errorf("the service is %+v, before %+v; successors %+v", now, old, l.successors(id))
	}
	if err := l.overlapper().Succeed(l.ctx, l.spec("nobody", Program{})); !errors.Is(err, supervise.ErrUnknown) {
		l.t.Errorf("the successor of nobody: %v", err)
	}
	l.stop(id)
}

func drainTimeout(l *law) {
	id := unit("slow")
	l.start(l.spec("slow", Program{Notify: true, IgnoreTerm: true}))
	l.succeed(l.spec("slow", Program{Notify: true}, next(2)))
	draining := l.takeOver(id, 100*time.Millisecond)
	if ended := l.stop(draining); !slices.Equal(ended.Killed, []tenure.UnitID{draining}) {
		l.t.Errorf("ended %+v, want %s killed", ended, draining)
	}
	l.empty(draining)
	if now := l.inState(id, supervise.Running); now.Spec.Stop.Timeout != patience {
		l.t.Errorf("the service has the time of what drained: %+v", now.Spec.Stop)
	}
	l.stop(id)
}

// extendsItsDrain is a generation that asks for more time to drain than it was given.
func extendsItsDrain(l *law) {
	id := unit("slow")
	const drain = time.Second
	l.start(l.spec("slow", Program{Notify: true, TermSay: "EXTEND_TIMEOUT_USEC=20000000", TermAfter: drain + drain/4, TermCode: 5}))
	l.succeed(l.spec("slow", Program{Notify: true}, next(2)))
	draining := l.takeOver(id, drain)
	if ended := l.stop(draining); ended.Exits[draining].Code != 5 || len(ended.Killed) > 0 {
		l.t.Errorf("ended %+v, want exit status 5 and nobody killed", ended)
	}
	l.empty(draining)
	l.inState(id, supervise.Running)
	l.stop(id)
}

func takesOverNothing(l *law) {
	id := unit("gone")
	l.start(l.spec("gone", Program{Exits: true}))
	l.empty(id)
	l.succeed(l.spec("gone", Program{Notify: true}, next(2)))
	if draining := l.takeOver(id, 0); !draining.IsZero() {
		l.t.Errorf("%s drains, want nothing", draining)
	}
	if now := l.inState(id, supervise.Running); now.Revision != tenure.LocalRevision(2) || len(l.successors(id)) > 0 {
		l.t.Errorf("the service is %+v", now)
	}
	l.stop(id)
	l.empty(id)
}

func handsBack(l *law) {
	id := unit("undecided")
	l.start(l.spec("undecided", Program{Notify: true}))
	for n := 2; n < 5; n++ {
		old := l.status(id)
		spec := l.spec("undecided", Program{Notify: true}, next(2+n%2))
		l.succeed(spec)
		draining := l.takeOver(id, 0)
		l.stop(draining)
		now := l.inState(id, supervise.Running)
		if now.Main == old.Main || now.Revision != spec.Revision || now.Generation != n {
			l.t.Errorf("after hand-over %d the service is %+v", n, now)
		}
	}
	l.stop(id)
	l.start(l.spec("undecided", Program{Notify: true}, next(7)))
	l.inState(id, supervise.Running)
	l.stop(id)
}

func handsOverWorkloads(l *law) {
	id := unit("virtd")
	toMain := func(s *supervise.Spec) { s.Stop.Target = supervise.TargetMain }
	l.start(l.spec("virtd", hypervisor(), withVMs, toMain))
	before := l.snapshot(id)
	l.succeed(l.spec("virtd", Program{Notify: true}, withVMs, toMain, next(2)))
	l.stop(l.takeOver(id, 0))
	left := l.stop(id).Left
	at := slices.IndexFunc(left, func(u tenure.UnitID) bool { return u.Name == tenure.Leftover })
	if at < 0 {
		l.t.Fatalf("left %v, want the leftover too", left)
	}
	l.stop(left[at])
	l.stop(l.vms(slices.Delete(slices.Clone(left), at, at+1), before)...)
}
