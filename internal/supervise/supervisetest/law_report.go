package supervisetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/supervise"
)

// reports are what is written down of all that happens.
func reports() []part {
	return []part{
		{"every signal is recorded, with whom it went to, why, and for which change", signalsRecorded},
		{"every start and every end is recorded, once", endsRecorded},
		{"it is recorded how long a stop took", stopsTimed},
		{"a hand-over is recorded", handOverRecorded},
	}
}

// recorded are what the Recorder was told of one kind, in order.
func (l *law) recorded(kind supervise.EventKind) []supervise.Event {
	l.t.Helper()
	if l.Recorded == nil {
		l.t.Fatal("the harness has no Recorder")
	}
	return slices.DeleteFunc(l.Recorded(), func(e supervise.Event) bool { return e.Kind != kind })
}

// on is the law on behalf of a change.
func (l *law) on(id change.ID) *law {
	behalf := *l
	behalf.ctx = change.WithID(l.ctx, id)
	return &behalf
}

// describe is an event of a signal or an end in one line.
func describe(e supervise.Event) string {
	words := []string{string(e.Unit.App), e.Revision.String()}
	if e.Signal != "" {
		words = append(words, e.Signal, fmt.Sprintf("to %d", len(e.Processes)))
	}
	if e.Late {
		words = append(words, "late")
	}
	if e.Forced {
		words = append(words, "forced")
	}
	if e.Exit != nil {
		words = append(words, e.Exit.String())
	}
	return strings.Join(append(words, string(e.Cause), string(e.Reason), fmt.Sprint(uint64(e.Change))), " ")
}

func (l *law) wantRecorded(kind supervise.EventKind, want ...string) []supervise.Event {
	l.t.Helper()
	events := l.recorded(kind)
	var got []string
	for _, e := range events {
		got = append(got, describe(e))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		l.t.Errorf("recorded of kind %s:\n\t%s\nwant:\n\t%s", kind, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	return events
}

func signalsRecorded(l *law) {
	short := func(s *supervise.Spec) { s.Stop.Timeout = 30 * time.Millisecond }
	l.start(l.spec("family", Program{Children: []Program{{Name: "one"}, {Name: "two"}}, Notify: true}),
		l.spec("stubborn", Program{Notify: true, IgnoreTerm: true}, short),
		l.spec("reloaded", Program{Notify: true, Reload: "again"}),
		l.spec("silent", Program{Notify: true}, func(s *supervise.Spec) { s.Watchdog = 30 * time.Millisecond }))
	var told []tenure.Process
	for _, info := range l.processes(unit("family")) {
		told = append(told, info.Process)
	}
	reload := supervise.ReloadRequest{Spec: l.spec("reloaded", Program{Notify: true, Reload: "again"}), Reason: tenure.ReasonRefresh}
	if err := l.Supervisor.Reload(l.on(3).ctx, reload); err != nil {
		l.t.Fatal(err)
	}
	l.becomes(unit("silent"), supervise.Failed)
	l.on(4).stop(unit("family"), unit("stubborn"))
	l.stop(unit("reloaded"))
	events := l.wantRecorded(supervise.EventSignal,
		"family x1 SIGTERM to 3 request stop 4", "stubborn x1 SIGTERM to 1 request stop 4", "stubborn x1 SIGKILL to 1 late request stop 4",
		"reloaded x1 SIGHUP to 1 request refresh 3", "reloaded x1 SIGTERM to 1 request stop 0", "silent x1 SIGABRT to 1 watchdog  0")
	ended := l.recorded(supervise.EventEnded)
	for _, e := range events {
		if e.Unit == unit("family") && !slices.Equal(e.Processes, told) {
			l.t.Errorf("recorded is a signal to %v, want %v", e.Processes, told)
		}
		if after := slices.IndexFunc(ended, func(end supervise.Event) bool { return end.Unit == e.Unit }); after < 0 || ended[after].Time.Before(e.Time) {
			l.t.Errorf("the end of %s is not recorded after the signal", e.Unit)
		}
	}
}

func endsRecorded(l *law) {
	l.on(5).start(l.spec("served", Program{Notify: true, TermCode: 4}))
	_ = l.on(6).failsToStart(l.spec("early", Program{Exits: true, Code: 7}, func(s *supervise.Spec) { s.Type = supervise.Notify }))
	_ = l.failsToStart(l.spec("late", Program{}, func(s *supervise.Spec) { s.Type, s.StartTimeout = supervise.Notify, 30*time.Millisecond }))
	l.start(l.spec("again", Program{Exits: true, Code: 3}, func(s *supervise.Spec) {
		s.Restart = supervise.RestartPolicy{Condition: supervise.RestartOnFailure, Delay: patience}
	}))
	l.becomes(unit("again"), supervise.Backoff)
	l.on(8).stop(unit("served"), unit("again"))
	l.wantRecorded(supervise.EventEnded, "served x1 exit status 4 request stop 8", "early x1 exit status 7 exit  0",
		"late x1 killed by SIGTERM timeout  0", "again x1 exit status 3 exit  0")
	begun := map[tenure.UnitID]change.ID{}
	for _, e := range l.recorded(supervise.EventState) {
		if e.State == supervise.Starting {
			begun[e.Unit] = e.Change
		}
	}
	if begun[unit("served")] != 5 || begun[unit("early")] != 6 || begun[unit("late")] != 0 || len(begun) != 4 {
		l.t.Errorf("recorded are the starts of %v", begun)
	}
}

// stopsTimed are stops: one that takes its time, one whose command does, one that is
// cut short, one that asks for more time, and one that nobody has asked for.
func stopsTimed(l *law) {
	const little = 60 * time.Millisecond
	l.start(l.spec("slow", Program{Notify: true, TermAfter: little, TermCode: 1}),
		l.spec("commanded", Program{Notify: true}, func(s *supervise.Spec) {
			command := Program{Exits: true, RunFor: little}.Command(l.Exe)
			s.Stop.Command = &command
		}),
		l.spec("cut", Program{Notify: true, IgnoreTerm: true}, func(s *supervise.Spec) { s.Stop.Timeout = little }),
		l.spec("extended", Program{Notify: true, TermSay: "EXTEND_TIMEOUT_USEC=20000000", TermAfter: little, TermCode: 1},
			func(s *supervise.Spec) { s.Stop.Timeout = patience / 2 }),
		l.spec("brief", Program{Exits: true, RunFor: little}))
	l.empty(unit("brief"))
	l.stop(unit("slow"), unit("commanded"), unit("cut"), unit("extended"))
	took := map[tenure.UnitID]time.Duration{}
	for _, e := range l.recorded(supervise.EventEnded) {
		took[e.Unit] = e.Took
		if given := map[string]time.Duration{"cut": little, "extended": patience / 2}[string(e.Unit.App)]; given != 0 && e.Given != given {
			l.t.Errorf("the protocol of %s gives it %s, and its end says %s", e.Unit, given, e.Given)
		}
		if e.Extended != (e.Unit == unit("extended")) {
			l.t.Errorf("the stop of %s was extended: %t", e.Unit, e.Extended)
		}
	}
	for _, name := range []string{"slow", "commanded", "extended"} {
		if got := took[unit(name)]; got < little || got > patience {
			l.t.Errorf("the stop of %s took %s, want at least %s", name, got, little)
		}
	}
	for _, name := range []string{"cut", "brief"} {
		if got := took[unit(name)]; got != 0 {
			l.t.Errorf("the stop of %s took %s, and nobody knows", name, got)
		}
	}
}

func handOverRecorded(l *law) {
	id := unit("web")
	l.start(l.spec("web", Program{Notify: true}))
	before := l.status(id).Main
	behalf := l.on(9)
	next := l.spec("web", Program{Notify: true}, func(s *supervise.Spec) { s.Revision = tenure.LocalRevision(2) })
	if err := l.overlapper().Succeed(behalf.ctx, next); err != nil {
		l.t.Fatal(err)
	}
	draining, err := l.overlapper().TakeOver(behalf.ctx, id, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	behalf.stop(draining)
	splits, mains := l.recorded(supervise.EventSplit), l.recorded(supervise.EventMain)
	if len(splits) != 1 || splits[0].Unit != draining || splits[0].Parent != id || splits[0].Change != 9 || !slices.Equal(splits[0].Processes, []tenure.Process{before}) {
		l.t.Errorf("recorded of what drains: %+v", splits)
	}
	if len(mains) != 1 || mains[0].Unit != id || mains[0].Parent.Name != tenure.Successor || mains[0].Change != 9 || mains[0].Revision != tenure.LocalRevision(2) {
		l.t.Errorf("recorded of the service: %+v", mains)
	}
	l.stop(id)
}
