package refresh

import (
	"testing"
	"time"

	"tenure"
	"tenure/internal/journal"
	"tenure/internal/policy"
	"tenure/internal/supervise"
)

// An event with however many processes is kept, with as many as are told of, and the
// number of the others.
func TestAnEventWithManyProcessesIsKept(t *testing.T) {
	t.Parallel()
	history, err := journal.OpenHistory(journal.HistoryConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer history.Close() //nolint:errcheck // It is thrown away.
	m := New(Config{History: history})
	var all []tenure.Process
	for n := range 40_000 {
		all = append(all, tenure.Process{PID: 4_000_000 + n, Start: 1 << 50})
	}
	m.Record(supervise.Event{
		Time: time.Unix(1, 0), Kind: supervise.EventSplit, Unit: tenure.ServiceUnit("virt", "virtd"), Revision: tenure.LocalRevision(1), Processes: all,
	})
	found, err := m.happened("virt")
	if err != nil || len(found) != 1 {
		t.Fatalf("%d happenings, %v", len(found), err)
	}
	if got := found[0]; len(got.Process) != maxProcesses || got.Process[0] != all[0] || got.Others != len(all)-maxProcesses {
		t.Errorf("%d processes and %d others", len(got.Process), got.Others)
	}
}

// SIGKILL is by the rules of the administrator that say whether and when it comes; what tells
// a unit to end is by its verdict's.
func TestRuleFor(t *testing.T) {
	t.Parallel()
	grace, kill := &policy.Protocol{GraceRule: "hurry"}, &policy.Protocol{GraceRule: "hurry", KillRule: "harsh"}
	late := supervise.Event{Kind: supervise.EventSignal, Signal: "SIGKILL", Late: true}
	for name, test := range map[string]struct {
		stop  *policy.Protocol
		event supervise.Event
		want  string
	}{
		"nobody's":       {&policy.Protocol{}, late, "apps.db.lifecycle.refresh"},
		"no protocol":    {nil, late, "apps.db.lifecycle.refresh"},
		"by the grace":   {grace, late, "hurry"},
		"by the kill":    {kill, late, "harsh"},
		"told to end":    {kill, supervise.Event{Kind: supervise.EventSignal, Signal: "SIGTERM"}, "apps.db.lifecycle.refresh"},
		"of its command": {kill, supervise.Event{Kind: supervise.EventSignal, Signal: "SIGKILL", Late: true, Helper: "stop"}, "apps.db.lifecycle.refresh"},
	} {
		item := policy.Item{Verdict: tenure.Restart, Rule: policy.Rule{Source: policy.Package, Name: "apps.db.lifecycle.refresh"}, Stop: test.stop}
		got := ruleFor(test.event, &item)
		if got.Name != test.want || (got.Source == policy.Administrator) == (got.Name == item.Rule.Name) {
			t.Errorf("%s: %+v, want %s", name, got, test.want)
		}
	}
}
