package supervisetest

import (
	"errors"
	"slices"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

func restartOnFailure(l *law) {
	id := unit("crashing")
	l.start(l.spec("crashing", Program{Exits: true, RunFor: 10 * time.Millisecond, Code: 1}, func(s *supervise.Spec) {
		s.Restart = supervise.RestartPolicy{Condition: supervise.RestartOnFailure, Delay: 10 * time.Millisecond}
	}))
	if e := l.becomes(id, supervise.Backoff); e.Exit == nil || e.Exit.Code != 1 {
		l.t.Errorf("exit %v, want 1", e.Exit)
	}
	l.becomes(id, supervise.Running)
	if status := l.status(id); status.Generation < 2 || status.Restarts < 1 {
		l.t.Errorf("status after a restart: %+v", status)
	}
	l.becomes(id, supervise.Backoff)
	l.stop(id)
	l.inState(id, supervise.Inactive)
}

func cleanExit(l *law) {
	id := unit("clean")
	l.start(l.spec("clean", Program{Exits: true, RunFor: 10 * time.Millisecond}, func(s *supervise.Spec) {
		s.Restart.Condition = supervise.RestartOnFailure
	}))
	l.becomes(id, supervise.Inactive)
	l.start(l.spec("unclean", Program{Exits: true, RunFor: 10 * time.Millisecond, Code: 1}, func(s *supervise.Spec) {
		s.Restart.Condition = supervise.RestartOnAbort
	}))
	l.becomes(unit("unclean"), supervise.Failed)
}

func stopInBackoff(l *law) {
	id := unit("crashing")
	l.start(l.spec("crashing", Program{Exits: true, Code: 1}, func(s *supervise.Spec) {
		s.Restart = supervise.RestartPolicy{Condition: supervise.RestartAlways, Delay: time.Hour}
	}))
	l.becomes(id, supervise.Backoff)
	l.stop(id)
	l.inState(id, supervise.Inactive)
}

func afterUnits(names ...string) func(*supervise.Spec) {
	return func(s *supervise.Spec) {
		for _, name := range names {
			s.After = append(s.After, unit(name))
		}
	}
}

func ordered(l *law) {
	ready := Program{Notify: true, ReadyAfter: 20 * time.Millisecond, TermAfter: 20 * time.Millisecond}
	l.start(
		l.spec("web", ready, afterUnits("cache", "db")),
		l.spec("cache", ready, afterUnits("db", "not-there")),
		l.spec("db", ready),
	)
	l.stop(unit("db"), unit("web"), unit("cache"))
	l.becomes(unit("db"), supervise.Inactive)
	var order []string
	for _, e := range l.seen {
		if e.Kind == supervise.EventState && slices.Contains([]supervise.State{supervise.Starting, supervise.Running, supervise.Stopping, supervise.Inactive}, e.State) {
			order = append(order, string(e.Unit.App)+" "+string(e.State))
		}
	}
	want := []string{
		"db starting", "db running", "cache starting", "cache running", "web starting", "web running",
		"web stopping", "web inactive", "cache stopping", "cache inactive", "db stopping", "db inactive",
	}
	if !slices.Equal(order, want) {
		l.t.Errorf("order\n%q, want\n%q", order, want)
	}
}

func orderedFailure(l *law) {
	err := l.Supervisor.Start(l.ctx,
		l.spec("web", Program{}, afterUnits("db")),
		l.spec("db", Program{Exits: true, Code: 5}, func(s *supervise.Spec) { s.Type = supervise.Notify }),
	)
	failed, ok := errors.AsType[*supervise.StartError](err)
	if !ok || failed.Unit != unit("db") {
		l.t.Errorf("start: %v, want the failure of db", err)
	}
	if status, known := l.known(unit("web")); known && status.State != supervise.Inactive {
		l.t.Errorf("web is %s", status.State)
	}
}

func orderedCircle(l *law) {
	err := l.Supervisor.Start(l.ctx, l.spec("a", Program{}, afterUnits("b")), l.spec("b", Program{}, afterUnits("a")))
	if err == nil {
		l.t.Error("units that wait for each other were started")
	}
	for _, name := range []string{"a", "b"} {
		if status, known := l.known(unit(name)); known && status.State.Alive() {
			l.t.Errorf("%s is %s", name, status.State)
		}
	}
}

func reloadSignal(l *law) {
	id := unit("reload")
	spec := l.spec("reload", Program{Notify: true, Reload: "new configuration"})
	l.start(spec)
	main := l.status(id).Main
	if err := l.Supervisor.Reload(l.ctx, supervise.ReloadRequest{Spec: spec}); err != nil {
		l.t.Fatal(err)
	}
	signal := l.event("SIGHUP", func(e supervise.Event) bool { return e.Kind == supervise.EventSignal })
	if signal.Signal != "SIGHUP" || !slices.Equal(signal.Processes, []tenure.Process{main}) {
		l.t.Errorf("event %+v, want SIGHUP to %+v", signal, main)
	}
	if status := l.inState(id, supervise.Running); status.Main != main {
		l.t.Errorf("main %+v, want %+v", status.Main, main)
	}
	l.stop(id)
	if err := l.Supervisor.Reload(l.ctx, supervise.ReloadRequest{Spec: spec}); err == nil {
		l.t.Error("a stopped unit was reloaded")
	}
}

func reloadCommand(l *law) {
	id := unit("reload")
	withReload := func(p Program) func(*supervise.Spec) {
		return func(s *supervise.Spec) { c := p.Command(l.Exe); s.Reload = &c }
	}
	good := l.spec("reload", Program{}, withReload(Program{Name: "reloader", Exits: true}))
	l.start(good)
	if err := l.Supervisor.Reload(l.ctx, supervise.ReloadRequest{Spec: good}); err != nil {
		l.t.Error(err)
	}
	l.becomes(id, supervise.Reloading)
	l.becomes(id, supervise.Running)
	l.stop(id)
	bad := l.spec("reload", Program{}, withReload(Program{Name: "reloader", Exits: true, Code: 9}))
	l.start(bad)
	if err := l.Supervisor.Reload(l.ctx, supervise.ReloadRequest{Spec: bad}); err == nil {
		l.t.Error("a reload command that failed is no error")
	}
	l.inState(id, supervise.Running)
	l.stop(id)
}

// reloadFollows gives a running unit another revision: the process stays, and
// what is started later is the new one.
func reloadFollows(l *law) {
	id := unit("follower")
	revision := func(n int) supervise.Spec {
		return l.spec("follower", Program{Notify: true, Reload: "told"}, func(s *supervise.Spec) {
			s.Revision = tenure.LocalRevision(n)
			s.Restart = supervise.RestartPolicy{Condition: supervise.RestartAlways, Delay: time.Millisecond}
		})
	}
	l.start(revision(1))
	main := l.status(id).Main
	req := supervise.ReloadRequest{
		Spec: revision(2), Reason: tenure.ReasonRefresh, From: tenure.LocalRevision(1), To: tenure.LocalRevision(2),
	}
	if err := l.Supervisor.Reload(l.ctx, req); err != nil {
		l.t.Fatal(err)
	}
	signal := l.event("SIGHUP", func(e supervise.Event) bool { return e.Kind == supervise.EventSignal })
	if signal.Reason != tenure.ReasonRefresh {
		l.t.Errorf("event %+v, want the reason refresh", signal)
	}
	if status := l.inState(id, supervise.Running); status.Main != main || status.Revision != tenure.LocalRevision(2) {
		l.t.Errorf("status %+v, want the same process on x2", status)
	}
	l.start(revision(2))
	if err := l.Supervisor.Start(l.ctx, revision(1)); !errors.Is(err, supervise.ErrRunning) {
		l.t.Errorf("start with the Spec before: %v, want ErrRunning", err)
	}
	if err := l.Supervisor.Reload(l.ctx, supervise.ReloadRequest{Spec: revision(1), Quiet: true}); err != nil {
		l.t.Fatal(err)
	}
	if status := l.inState(id, supervise.Running); status.Main != main || status.Revision != tenure.LocalRevision(1) {
		l.t.Errorf("status %+v, want the same process on x1", status)
	}
	l.stop(id)
	for _, e := range l.seen {
		if e.Signal == "SIGHUP" && e.Reason != tenure.ReasonRefresh {
			l.t.Errorf("a quiet reload told it: %+v", e)
		}
	}
}

func stopCommand(l *law) {
	id := unit("polite")
	l.start(l.spec("polite", Program{Notify: true, TermAfter: time.Millisecond, TermCode: 12}, func(s *supervise.Spec) {
		c := Program{Name: "stopper", Kill: "MAINPID", Exits: true, RunFor: 100 * time.Millisecond}.Command(l.Exe)
		s.Stop.Command, s.Stop.Signal = &c, "SIGINT"
	}))
	ended := l.stop(id)
	if exit := ended.Exits[id]; exit.Code != 12 {
		l.t.Errorf("exit %s, want 12, by the command's SIGTERM", exit)
	}
	l.becomes(id, supervise.Inactive)
	for _, e := range l.seen {
		if e.Kind == supervise.EventSignal {
			l.t.Errorf("the supervisor sent %s although the command had ended the unit", e.Signal)
		}
	}
}

func postStop(l *law) {
	id := unit("cleaned")
	post := func(s *supervise.Spec) {
		c := Program{Name: "cleaner", Exits: true, RunFor: 30 * time.Millisecond}.Command(l.Exe)
		s.PostStop = &c
	}
	l.start(l.spec("cleaned", Program{}, post))
	begun := time.Now()
	l.stop(id)
	if took := time.Since(begun); took < 30*time.Millisecond {
		l.t.Errorf("stop returned after %s, before the post-stop command had ended", took)
	}
	l.becomes(id, supervise.Inactive)
	l.start(l.spec("cleaned", Program{Exits: true, Code: 1}, post))
	l.becomes(id, supervise.Stopping)
	l.becomes(id, supervise.Failed)
}

func (l *law) socketSpec(socket supervise.Socket, revision int) supervise.Spec {
	return l.spec("server", Program{Notify: true, Serve: true}, func(s *supervise.Spec) {
		s.Sockets, s.Revision = []supervise.Socket{socket}, tenure.LocalRevision(revision)
	})
}

func socketActivation(l *law) {
	id, socket := unit("server"), l.Socket(l.t, "main")
	l.start(l.socketSpec(socket, 1))
	l.inState(id, supervise.Listening)
	if answer := <-l.Connect(l.t, socket); answer == "" {
		l.t.Error("no answer")
	}
	l.becomes(id, supervise.Running)
	l.stop(id)
	l.inState(id, supervise.Inactive)
	if answer, ok := <-l.Connect(l.t, socket); ok {
		l.t.Errorf("a stopped service answered %q", answer)
	}
}

func heldSocket(l *law) {
	id, socket := unit("server"), l.Socket(l.t, "main")
	l.start(l.socketSpec(socket, 1))
	first := <-l.Connect(l.t, socket)
	if _, err := l.Supervisor.Stop(l.ctx, supervise.StopRequest{Units: []tenure.UnitID{id}, Reason: tenure.ReasonRefresh, HoldSockets: true}); err != nil {
		l.t.Fatal(err)
	}
	waiting := l.Connect(l.t, socket)
	l.start(l.socketSpec(socket, 2))
	if second := <-waiting; second == "" || second == first {
		l.t.Errorf("answer %q to who waited, want one of another process than %q", second, first)
	}
	if status := l.status(id); status.Revision != tenure.LocalRevision(2) {
		l.t.Errorf("revision %s, want x2", status.Revision)
	}
	l.stop(id)
}
