package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tenure"
	"tenure/internal/policy"
	"tenure/internal/rules"
)

// simpleRule is a rule that is drawn, with what it means.
type simpleRule struct {
	name, text string
	// about is that it speaks of units, always that it is about every reason.
	about, always bool
	matches       func(u policy.Unit) bool
	does          map[string]string
}

func drawSimpleRule(t *rapid.T, n int) simpleRule {
	r := simpleRule{name: fmt.Sprintf("r%d", n), about: true, does: map[string]string{}}
	var when string
	switch rapid.IntRange(0, 4).Draw(t, "when") {
	case 0:
		when, r.about, r.matches = "true", false, func(policy.Unit) bool { return true }
	case 1:
		kind := rapid.SampledFrom([]tenure.UnitKind{tenure.Service, tenure.Workload, tenure.AppRun}).Draw(t, "kind")
		when, r.matches = fmt.Sprintf("unit.kind == '%s'", kind), func(u policy.Unit) bool { return u.ID.Kind == kind }
	case 2:
		when = `unit.processes.exists(p, p.command.matches("^vm"))`
		r.matches = func(u policy.Unit) bool {
			return slices.ContainsFunc(u.Processes, func(p policy.Process) bool { return strings.HasPrefix(p.CommandLine, "vm") })
		}
	case 3:
		// Only a unit with a process that stands for it has an age to speak of.
		when = "unit.processes.all(p, p.age < duration('30m'))"
		r.matches = func(u policy.Unit) bool {
			return !slices.ContainsFunc(u.Processes, func(p policy.Process) bool { return scriptNow().Sub(p.Started) >= 30*time.Minute })
		}
	case 4:
		when, r.always = "change.reason != 'stop' && unit.name != 'job'", true
		r.matches = func(u policy.Unit) bool { return u.ID.Name != "job" }
	}
	var do []string
	draw := func(aspect string, values ...string) {
		if rapid.Bool().Draw(t, aspect) {
			r.does[aspect] = rapid.SampledFrom(values).Draw(t, aspect+" value")
			do = append(do, aspect+": "+r.does[aspect])
		}
	}
	draw("verdict", "restart", "reload", "handover", "endure", "defer", "stop", "refuse")
	draw("grace", "5s", "2m")
	draw("kill", "never", "after-timeout")
	if rapid.IntRange(0, 7).Draw(t, "refuses") == 0 {
		draw("refuse", "because")
	}
	if len(do) == 0 {
		do = []string{"hold: something"}
	}
	r.text = fmt.Sprintf("- {name: %s, when: %q, do: {%s}}\n", r.name, when, strings.Join(do, ", "))
	return r
}

// said is what the first rule that matches and speaks of an aspect says, for a reason.
func said(all []simpleRule, aspect string, reason tenure.Reason, u policy.Unit) (value, rule string) {
	switches := reason == tenure.ReasonRefresh || reason == tenure.ReasonRevert
	for _, r := range all {
		// A refusal by a rule that does not speak of units is of the change as a whole.
		if aspect == "refuse" && (!r.about || !switches && !r.always) {
			continue
		}
		if aspect == "verdict" && !switches && !r.always || r.always && reason == tenure.ReasonStop {
			continue
		}
		renews := slices.Contains([]string{"restart", "reload", "handover"}, r.does[aspect])
		if aspect == "verdict" && (u.ID.Kind == tenure.HookRun || renews && u.ID.Kind != tenure.Service) {
			continue
		}
		if r.does[aspect] != "" && r.matches(u) {
			return r.does[aspect], r.name
		}
	}
	return "", ""
}

// TestRulesProtect holds plans on random trees of processes, declarations and rules to
// what must be true whatever is in them: nothing that a rule protects ends, nothing
// that a rule ends stays, nothing is killed that must not be, and no process is
// without a verdict that names its rule.
func TestRulesProtect(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		for i := range f.Units {
			for j := range f.Units[i].Processes {
				f.Units[i].Processes[j].Started = scriptNow().Add(-time.Duration(rapid.IntRange(1, 59).Draw(t, "minutes")) * time.Minute)
			}
		}
		var all []simpleRule
		var text strings.Builder
		for n := range rapid.IntRange(1, 4).Draw(t, "rules") {
			all = append(all, drawSimpleRule(t, n))
			text.WriteString(all[n].text)
		}
		set, err := rules.Parse("policy.yaml", []byte(text.String()))
		if err != nil {
			t.Fatalf("%v\n%s", err, text.String())
		}
		var update *rules.Update
		if !f.Change.To.IsZero() {
			update = &rules.Update{From: f.Change.From, To: f.Change.To}
		}
		about := rules.About(&f, rules.Snap{Name: "s", Revision: f.Change.From}, rules.Node{}, update)
		result := set.Evaluate(about)
		if len(result.Failures) > 0 {
			t.Fatalf("%v\n%s", result.Failures, text.String())
		}
		result.AddTo(&f)
		plan := policy.Decide(f)
		complain := func(item policy.Item, format string, args ...any) {
			t.Fatalf("%s %s\n%s%s", item.Unit, fmt.Sprintf(format, args...), text.String(), plan)
		}
		count := map[tenure.Process]int{}
		for _, item := range plan.Items {
			if item.Verdict == "" || item.Rule.Name == "" || item.Rule.Text == "" {
				complain(item, "has no verdict, or one without a rule")
			}
			for _, p := range item.Processes {
				count[p]++
			}
			if item.Unit.Snap == "s" {
				checkRuled(f, item, all, about, complain)
			}
		}
		for _, u := range f.Units {
			checkCount(t, f, u, count)
		}
		vetoed := slices.ContainsFunc(all, func(r simpleRule) bool { return r.does["refuse"] != "" && !r.about })
		if vetoed && update != nil && plan.Refusal == nil {
			t.Fatalf("a rule refuses, and the plan does not:\n%s%s", text.String(), plan)
		}
	})
}

func checkRuled(f policy.Facts, item policy.Item, all []simpleRule, about *rules.Facts, complain func(policy.Item, string, ...any)) {
	at := slices.IndexFunc(about.Units, func(u rules.Unit) bool { return u.ID == item.Unit })
	if at < 0 {
		complain(item, "is not known to the rules")
	}
	u, reason := about.Units[at].Unit, f.Change.Reason
	if item.Stop != nil {
		checkRuledStop(f, item, all, u, complain)
	}
	verdict, rule := said(all, "verdict", reason, u)
	if _, refusing := said(all, "refuse", reason, u); refusing != "" {
		verdict, rule = "refuse", refusing
	}
	if verdict == "" || reason == tenure.ReasonShutdown || len(item.Processes) == 0 || item.Rule.Source == policy.Default && item.Rule.Name == "stop-estimate" {
		return
	}
	if item.Rule.Source != policy.Administrator || item.Rule.Name != rule {
		complain(item, "is to be decided by %s, which says %s", rule, verdict)
	}
	ended := item.Verdict == tenure.Stop || item.Verdict == tenure.Restart
	switch verdict := tenure.Verdict(strings.Replace(verdict, "handover", string(tenure.HandOver), 1)); verdict {
	case tenure.Endure, tenure.Refuse, tenure.Defer:
		if ended {
			complain(item, "ends, and %s protects it (%s)", rule, verdict)
		}
	case tenure.Stop, tenure.Restart:
		if !ended && item.Verdict != tenure.Refuse {
			complain(item, "stays, and %s ends it (%s)", rule, verdict)
		}
	case tenure.Reload, tenure.HandOver:
		if want := renewed(f, verdict); item.Verdict != want {
			complain(item, "is to %s, for %s says %s", want, rule, verdict)
		}
	}
}

// renewed is what becomes of a service that a rule lets reload or hand over: where nothing is
// started again it ends, and an engine that cannot do that restarts it.
func renewed(f policy.Facts, verdict tenure.Verdict) tenure.Verdict {
	switch {
	case f.Change.To.IsZero() && f.Change.Reason != tenure.ReasonRestart:
		return tenure.Stop
	case f.Supported != nil && !slices.Contains(f.Supported, verdict):
		return tenure.Restart
	}
	return verdict
}

func checkRuledStop(f policy.Facts, item policy.Item, all []simpleRule, u policy.Unit, complain func(policy.Item, string, ...any)) {
	if kill, rule := said(all, "kill", f.Change.Reason, u); kill != "" {
		want := policy.Kill(kill)
		if f.Change.Kill {
			want = policy.KillAfterTimeout
		}
		if item.Stop.Kill != want || item.Stop.KillRule != rule {
			complain(item, "has kill %q by %q, want %q by %q", item.Stop.Kill, item.Stop.KillRule, want, rule)
		}
	}
	if grace, rule := said(all, "grace", f.Change.Reason, u); grace != "" {
		want, err := time.ParseDuration(grace)
		if limit := f.Limits.MaxStopTimeout; limit > 0 {
			want = min(want, limit)
		}
		if err != nil || item.Stop.Timeout != want || item.Stop.GraceRule != rule {
			complain(item, "has %s by %q, want %s by %q", item.Stop.Timeout, item.Stop.GraceRule, want, rule)
		}
	}
}
