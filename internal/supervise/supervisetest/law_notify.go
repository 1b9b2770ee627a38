package supervisetest

import (
	"slices"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

// until waits until the status of a unit is as wanted.
func (l *law) until(what string, id tenure.UnitID, want func(supervise.Status) bool) supervise.Status {
	l.t.Helper()
	for {
		if status, known := l.known(id); known && want(status) {
			return status
		}
		l.event(id.String()+" "+what, func(e supervise.Event) bool { return e.Unit == id })
	}
}

// signals are the signals that were sent to a unit, as far as they were told.
func (l *law) signals(id tenure.UnitID) (all []string) {
	for _, e := range l.seen {
		if e.Kind == supervise.EventSignal && e.Unit == id {
			all = append(all, e.Signal)
		}
	}
	return all
}

func crashes(condition supervise.RestartCondition, delay time.Duration) func(*supervise.Spec) {
	return func(s *supervise.Spec) {
		s.Restart = supervise.RestartPolicy{Condition: condition, Delay: delay}
	}
}

// status is what a service says of itself, the last word counts, and what is no
// word of sd_notify(3) says nothing.
func saysStatus(l *law) {
	id := unit("talkative")
	l.start(l.spec("talkative", Program{Notify: true, Say: []string{"STATUS=one", "UNKNOWN=1\nSTATUS=two", "nonsense"}}))
	if status := l.inState(id, supervise.Running); status.Text != "two" {
		l.t.Errorf("text %q, want what it said last", status.Text)
	}
	l.stop(id)
}

// saysStopping ends of its own accord: nobody signals it.
func saysStopping(l *law) {
	id := unit("leaving")
	l.start(l.spec("leaving", Program{Notify: true, Add: []string{"STOPPING=1"}, Exits: true, RunFor: 50 * time.Millisecond}))
	l.becomes(id, supervise.Stopping)
	if e := l.becomes(id, supervise.Inactive); e.Exit == nil || !e.Exit.Success() {
		l.t.Errorf("exit %v, want 0", e.Exit)
	}
	if sent := l.signals(id); len(sent) > 0 {
		l.t.Errorf("it was sent %v although it was ending by itself", sent)
	}
}

// saysStoppingAndStays has no longer than if it had been told.
func saysStoppingAndStays(l *law) {
	id := unit("lingering")
	l.start(l.spec("lingering", Program{Notify: true, Add: []string{"STOPPING=1"}}, func(s *supervise.Spec) { s.Stop.Timeout = 50 * time.Millisecond }))
	if e := l.becomes(id, supervise.Failed); e.Exit == nil || e.Exit.Signal != "SIGKILL" {
		l.t.Errorf("exit %v, want SIGKILL", e.Exit)
	}
}

func saysMain(l *law) {
	id := unit("handing-over")
	l.start(l.spec("handing-over", Program{
		Notify: true, Children: []Program{{Name: "worker"}}, Say: []string{"MAINPID=1"}, Add: []string{"MAINPID=CHILD"},
		Exits: true, RunFor: 50 * time.Millisecond, Code: 3,
	}))
	changed := l.event("another main process", func(e supervise.Event) bool { return e.Kind == supervise.EventMain && e.Unit == id })
	status := l.inState(id, supervise.Running)
	if !slices.Equal(changed.Processes, []tenure.Process{status.Main}) {
		l.t.Errorf("event %+v, want the main process %+v", changed, status.Main)
	}
	for len(l.processes(id)) > 1 && l.ctx.Err() == nil { // Nobody tells the end of one that was main.
		<-time.After(time.Millisecond)
	}
	if now := l.inState(id, supervise.Running); now.Main != status.Main {
		l.t.Errorf("main process %+v after the end of the first, want %+v", now.Main, status.Main)
	}
	ended := l.stop(id)
	if exit := ended.Exits[id]; exit.Signal != "SIGTERM" {
		l.t.Errorf("exit %s, want that of the worker, by SIGTERM", exit)
	}
}

func extendsItsStart(l *law) {
	id := unit("slow")
	l.start(l.spec("slow", Program{Notify: true, Say: []string{"EXTEND_TIMEOUT_USEC=20000000"}, ReadyAfter: 1200 * time.Millisecond},
		func(s *supervise.Spec) { s.StartTimeout = time.Second }))
	l.inState(id, supervise.Running)
	l.stop(id)
}

func extendsItsStop(l *law) {
	id := unit("slow")
	l.start(l.spec("slow", Program{Notify: true, TermSay: "EXTEND_TIMEOUT_USEC=20000000", TermAfter: 1200 * time.Millisecond, TermCode: 5},
		func(s *supervise.Spec) { s.Stop.Timeout = time.Second }))
	if ended := l.stop(id); ended.Exits[id].Code != 5 || len(ended.Killed) > 0 {
		l.t.Errorf("ended %+v, want exit status 5 and nobody killed", ended)
	}
}

func extendsWithinLimit(l *law) {
	id := unit("slow")
	l.start(l.spec("slow", Program{Notify: true, TermSay: "EXTEND_TIMEOUT_USEC=20000000", TermAfter: 2 * patience},
		func(s *supervise.Spec) { s.Stop.Timeout = 2 * patience }))
	ended, err := l.Supervisor.Stop(l.ctx, supervise.StopRequest{Units: []tenure.UnitID{id}, Limit: time.Second})
	if err != nil || !slices.Equal(ended.Killed, []tenure.UnitID{id}) {
		l.t.Errorf("ended %+v, %v, want it killed", ended, err)
	}
}

// storedDescriptors are passed to the next generation, by their names, also after a
// crash; a stop that holds nothing drops them.
func storedDescriptors(l *law) {
	id := unit("keeper")
	spec := l.spec("keeper", Program{
		Notify: true, Passed: true, Store: []string{"one", "two"}, Say: []string{"FDSTOREREMOVE=1\nFDNAME=two"},
	})
	l.start(spec)
	l.hasText(id, passedText(""))
	if _, err := l.Supervisor.Stop(l.ctx, supervise.StopRequest{Units: []tenure.UnitID{id}, Reason: tenure.ReasonRefresh, HoldSockets: true}); err != nil {
		l.t.Fatal(err)
	}
	l.start(spec)
	l.hasText(id, passedText("one"))
	l.stop(id)
	l.start(spec)
	l.hasText(id, passedText(""))
	l.stop(id)

	crashing := unit("crashing-keeper")
	l.start(l.spec("crashing-keeper", Program{
		Notify: true, Passed: true, Store: []string{"one"}, Exits: true, RunFor: 50 * time.Millisecond, Code: 1,
	}, crashes(supervise.RestartAlways, time.Millisecond)))
	l.until("has what it stored", crashing, func(s supervise.Status) bool {
		return s.Generation > 1 && s.State == supervise.Running && s.Text != passedText("")
	})
	l.stop(crashing)
}

func (l *law) hasText(id tenure.UnitID, want string) {
	l.t.Helper()
	if status := l.inState(id, supervise.Running); status.Text != want {
		l.t.Errorf("%s says %q, want %q", id, status.Text, want)
	}
}

// watchdogMissed is told by SIGABRT, and is a failure.
func watchdogMissed(l *law) {
	for name, p := range map[string]Program{
		"silent":     {Notify: true, Alive: 3, Every: 20 * time.Millisecond},
		"triggering": {Notify: true, Add: []string{"WATCHDOG=trigger"}},
		"choosing":   {Notify: true, Say: []string{"WATCHDOG_USEC=1000"}},
	} {
		id := unit(name)
		l.start(l.spec(name, p, func(s *supervise.Spec) { s.Watchdog = 300 * time.Millisecond }))
		if e := l.becomes(id, supervise.Failed); e.Exit == nil || e.Exit.Success() {
			l.t.Errorf("%s: exit %v, want a failure", name, e.Exit) // Which one it makes of SIGABRT is its own affair.
		}
		if sent := l.signals(id); !slices.Equal(sent, []string{"SIGABRT"}) {
			l.t.Errorf("%s: it was sent %v, want SIGABRT", name, sent)
		}
	}
}

// watchdogFed says that it lives for longer than it may be silent.
func watchdogFed(l *law) {
	id := unit("alive")
	l.start(l.spec("alive", Program{Notify: true, Alive: 1 << 10, Every: 100 * time.Millisecond, Exits: true, RunFor: 2 * time.Second},
		func(s *supervise.Spec) { s.Watchdog = time.Second }))
	l.becomes(id, supervise.Inactive)
	if sent := l.signals(id); len(sent) > 0 {
		l.t.Errorf("it was sent %v although it said that it lived", sent)
	}
}

// splitEarly makes units of workloads while their service goes on.
func splitEarly(l *law) {
	splitter, ok := l.Supervisor.(supervise.Splitter)
	if !ok {
		l.t.Skip("this supervisor does not set workloads apart before a stop")
	}
	id := unit("virtd")
	l.start(l.spec("virtd", hypervisor(), withVMs))
	main, before := l.status(id).Main, l.snapshot(id)
	for range 2 {
		if err := splitter.Split(l.ctx, id); err != nil {
			l.t.Fatal(err)
		}
	}
	if status := l.inState(id, supervise.Running); status.Main != main {
		l.t.Errorf("main process %+v, want %+v", status.Main, main)
	}
	if infos := l.processes(id); len(infos) != 2 || infos[0].Process != main {
		l.t.Errorf("processes %+v, want the manager and its dns", infos)
	}
	split := func(e supervise.Event) bool { return e.Kind == supervise.EventSplit && e.Parent == id }
	came := []tenure.UnitID{l.event("a machine", split).Unit, l.event("another machine", split).Unit}
	left := l.stop(id).Left
	if !slices.Contains(left, came[0]) || !slices.Contains(left, came[1]) {
		l.t.Errorf("left %v, want %v that had come out of it", left, came)
	}
	l.stop(l.vms(left, before)...)
	if err := splitter.Split(l.ctx, unit("unknown")); err == nil {
		l.t.Error("an unknown service was split")
	}
}

// logged waits until a unit's log has n lines: what it printed before it was ready
// is there some time after.
func (l *law) logged(reader supervise.LogReader, id tenure.UnitID, n int) {
	l.t.Helper()
	for _, err := range reader.Logs(l.ctx, []tenure.UnitID{id}, -1, true) {
		if err != nil {
			l.t.Fatal(err)
		}
		if n--; n == 0 {
			return
		}
	}
}

// printed lines can be read, and followed over a restart.
func printed(l *law) {
	reader, ok := l.Supervisor.(supervise.LogReader)
	if !ok {
		l.t.Skip("this supervisor keeps no logs")
	}
	id := unit("printer")
	spec := l.spec("printer", Program{Notify: true, Print: []string{"one", "two", "three"}})
	l.start(spec)
	main := l.status(id).Main
	l.logged(reader, id, 3)
	var texts []string
	for line, err := range reader.Logs(l.ctx, []tenure.UnitID{id}, 2, true) {
		if err != nil {
			l.t.Fatal(err)
		}
		if texts = append(texts, line.Text); len(texts) == 2 {
			if line.Unit != id || line.PID != main.PID || line.Time.IsZero() {
				l.t.Errorf("line %+v, want one of %s by %d", line, id, main.PID)
			}
			l.stop(id)
			l.start(spec)
		}
		if len(texts) == 5 {
			break
		}
	}
	if want := []string{"two", "three", "one", "two", "three"}; !slices.Equal(texts, want) {
		l.t.Errorf("followed %q, want %q", texts, want)
	}
	texts = nil
	for line, err := range reader.Logs(l.ctx, []tenure.UnitID{id, unit("nobody")}, -1, false) {
		if err != nil {
			l.t.Fatal(err)
		}
		texts = append(texts, line.Text)
	}
	if len(texts) != 6 {
		l.t.Errorf("all lines are %q, want six", texts)
	}
	l.stop(id)
}
