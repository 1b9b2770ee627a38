package refresh

import (
	"testing"

	"tenure"
	"tenure/internal/policy"
	"tenure/internal/supervise"
)

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
