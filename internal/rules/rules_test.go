package rules_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tenure"
	"tenure/internal/policy"
	"tenure/internal/rules"
)

func parse(tb testing.TB, text string) *rules.Set {
	tb.Helper()
	set, err := rules.Parse("policy.yaml", []byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

func TestCheck(t *testing.T) {
	t.Parallel()
	datadriven.RunTest(t, "testdata/check.txt", func(t *testing.T, d *datadriven.TestData) string {
		t.Helper()
		set, err := rules.Parse("policy.yaml", []byte(d.Input))
		if invalid, ok := errors.AsType[*rules.InvalidError](err); ok {
			var b strings.Builder
			for _, problem := range invalid.Problems {
				b.WriteString(problem.Error() + "\n")
			}
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(fmt.Sprintf("%d rules: %s", len(set.Names()), strings.Join(set.Names(), " "))) + "\n"
	})
}

// TestStep holds to what people mean by a major version.
func TestStep(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ from, to, want string }{
		{"1.2.3", "2.0.0", "major"},
		{"1.2.3", "1.3", "minor"},
		{"1.2.3", "1.2.10", "patch"},
		{"1.2.3.4", "1.2.3.5", "patch"},
		{"v1.9", "v1.10-rc1", "minor"},
		{"9", "10", "major"},
		{"1.2.3", "1.2.3", "same"},
		{"1.2", "1.2.0", "patch"},
		{"2.0", "1.9", "older"},
		{"jammy", "noble", "other"},
		{"", "1.0", "other"},
	} {
		if got := rules.Step(test.from, test.to); got != test.want {
			t.Errorf("%q to %q is %s, want %s", test.from, test.to, got, test.want)
		}
	}
}

func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func process(pid int, age time.Duration, command string) policy.Process {
	return policy.Process{Process: tenure.Process{PID: pid, Start: uint64(pid)}, PPID: 1, CommandLine: command, Started: now().Add(-age), Memory: 5 << 20}
}

func service(app tenure.App, processes ...policy.Process) rules.Unit {
	u := rules.Unit{Unit: policy.Unit{ID: tenure.ServiceUnit("s", app), Revision: tenure.SourceRevision(2), Active: true, Since: now().Add(-time.Hour), Processes: processes}, IsService: true}
	if len(processes) > 0 {
		u.Main = processes[0].Process
	}
	return u
}

func facts(reason tenure.Reason, units ...rules.Unit) *rules.Facts {
	f := &rules.Facts{
		Now: now(), Node: rules.Node{Name: "n", Arch: "amd64", CPUs: 2, Memory: 1 << 30},
		Snap:   rules.Snap{Name: "s", Revision: tenure.SourceRevision(2), Version: "1.4", Type: "app", Base: "debian12", Confinement: "strict"},
		Change: rules.Change{Reason: reason}, Units: units,
	}
	if reason == tenure.ReasonRefresh || reason == tenure.ReasonRevert {
		f.Update = &rules.Update{From: tenure.SourceRevision(2), To: tenure.SourceRevision(3), FromVersion: "1.4", ToVersion: "2.0"}
	}
	return f
}

// holds reports whether a condition is true of the one unit of f, and why it could not
// be evaluated.
func holds(tb testing.TB, f *rules.Facts, condition string) (yes bool, failed string) {
	tb.Helper()
	set := parse(tb, fmt.Sprintf("- {name: r, when: %q, do: {kill: never}}", condition))
	result := set.Evaluate(f)
	for _, failure := range result.Failures {
		failed = failure.Text
	}
	return result.Units[f.Units[0].ID].Kill != nil, failed
}

// TestEveryFact reads each fact once, so that none is named in the documents that is
// not there.
func TestEveryFact(t *testing.T) {
	t.Parallel()
	f := facts(tenure.ReasonRefresh, service("a", process(10, 90*time.Minute, "/bin/a --x"), process(11, time.Minute, "worker")))
	f.Update.Released, f.Update.Urgency = now().Add(-48*time.Hour), "high"
	for _, condition := range []string{
		`snap.name == "s" && snap.revision == "2" && snap.version == "1.4" && snap.type == "app" && snap.base == "debian12" && snap.confinement == "strict"`,
		`app.name == "a" && app.service`,
		`unit.id == "s.a" && unit.kind == "service" && unit.name == "" && unit.label == "" && unit.instance == "" && unit.revision == "2" && !unit.stale`,
		`unit.age == duration("1h") && unit.memory == 10 * 1024 * 1024 && size(unit.processes) == 2`,
		`unit.processes.exists(p, p.command == "worker" && p.age == duration("1m") && !p.main)`,
		`process.pid == 10 && process.age > duration("89m") && process.command.matches("^/bin/a ") && process.memory > 0 && process.main`,
		`update.from == "2" && update.to == "3" && update.from_version == "1.4" && update.to_version == "2.0" && update.step == "major" && !update.base_change`,
		`update.age == days(2) && update.released < now && update.urgency == "high" && has(update.urgency)`,
		`change.reason == "refresh" && !change.automatic`,
		`now.getDayOfWeek() == 0 && now.getHours("Europe/Berlin") == 13`,
		`node.name == "n" && node.arch == "amd64" && node.cpus == 2 && node.memory > 0`,
	} {
		if yes, failed := holds(t, f, condition); !yes {
			t.Errorf("not true: %s %s", condition, failed)
		}
	}
}

// TestFactsThatAreNotKnown: who reads one is told of it, unless there is no update at
// all, and who asks first is not.
func TestFactsThatAreNotKnown(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason    tenure.Reason
		condition string
		yes       bool
		failed    string
	}{
		{tenure.ReasonRefresh, `update.age > days(1) && process.pid == 10`, false, "update.age is not known here"},
		{tenure.ReasonRefresh, `update.urgency == "high" || process.pid == 10`, true, ""},
		{tenure.ReasonRefresh, `!has(update.released) && process.pid == 10`, true, ""},
		{tenure.ReasonRemove, `update.age > days(1) && process.pid == 10`, false, ""},
		{tenure.ReasonRemove, `!has(update.to) && process.pid == 10`, true, ""},
		{tenure.ReasonRefresh, `1 / (process.pid - 10) == 1`, false, "division by zero"},
		{tenure.ReasonRefresh, `days(process.pid * 1000000) > days(1)`, false, "days takes a number up to 36500"},
		{tenure.ReasonRefresh, `now.getHours(process.command) == 1`, false, "time: invalid location name"},
	} {
		yes, failed := holds(t, facts(test.reason, service("a", process(10, time.Hour, "/bin/a"))), test.condition)
		if yes != test.yes || !strings.Contains(failed, test.failed) || (failed == "") != (test.failed == "") {
			t.Errorf("%s on %s: %v %q, want %v %q", test.condition, test.reason, yes, failed, test.yes, test.failed)
		}
	}
	if yes, failed := holds(t, facts(tenure.ReasonRefresh, service("idle")), `process.age > days(1) && unit.kind == "service"`); yes || failed != "process.age is not known here" {
		t.Errorf("a unit without a process: %v %q", yes, failed)
	}
}

// TestCostIsBounded: a condition that takes too long does not match, and many that do
// take no longer than a few.
func TestCostIsBounded(t *testing.T) {
	t.Parallel()
	var processes []policy.Process
	for pid := 1; pid <= 400; pid++ {
		processes = append(processes, process(pid, time.Hour, strings.Repeat("x", 100)))
	}
	var text strings.Builder
	for n := range 200 {
		fmt.Fprintf(&text, "- {name: r%d, when: 'unit.processes.all(p, unit.processes.all(q, p.pid + q.pid > 0))', do: {kill: never}}\n", n)
	}
	set := parse(t, text.String())
	result := set.Evaluate(facts(tenure.ReasonRefresh, service("a", processes...), service("b", processes...)))
	reasons := map[string]int{}
	for _, failure := range result.Failures {
		reasons[failure.Text]++
	}
	few, rest := reasons["it takes too many steps"], reasons["the rules together take too many steps"]
	if few < 1 || few > 20 || few+rest != 400 || result.Units[tenure.ServiceUnit("s", "a")].Kill != nil {
		t.Errorf("failures: %v", reasons)
	}
}

// TestWhatARuleIsAbout: what a rule for updates says is not said of a removal, unless the
// rule speaks of changes itself; how units end is said of everything.
func TestWhatARuleIsAbout(t *testing.T) {
	t.Parallel()
	set := parse(t, `
- {name: plain, when: true, do: {verdict: endure, deferral: 1h, refuse: "not now", grace: 1m, kill: never, hold: "for ever"}}
- {name: always, when: 'change.reason != "shutdown"', do: {verdict: stop}}
`)
	id := tenure.ServiceUnit("s", "a")
	for _, reason := range tenure.Reasons() {
		result := set.Evaluate(facts(reason, service("a", process(10, time.Hour, "a"))))
		switches := reason == tenure.ReasonRefresh || reason == tenure.ReasonRevert
		unit, snap := result.Units[id], result.Snap
		if (unit.Deferral != nil) != switches || (snap.Refuse != nil) != switches || unit.Grace == nil || unit.Kill == nil || snap.Hold == nil {
			t.Errorf("%s: %+v %+v", reason, unit, snap)
		}
		want := "always"
		switch {
		case switches:
			want = "plain"
		case reason == tenure.ReasonShutdown:
			want = ""
		}
		got := ""
		if unit.Verdict != nil {
			got = unit.Verdict.Rule
		}
		if got != want {
			t.Errorf("%s: the verdict is of rule %q, want %q", reason, got, want)
		}
	}
}

// TestWhoIsRenewed: a rule that restarts a snap restarts its services, and does nothing to
// what came out of them; a hook is nobody's to judge.
func TestWhoIsRenewed(t *testing.T) {
	t.Parallel()
	manager := service("virtd", process(10, time.Hour, "virtd"))
	machine, run, hook := manager, manager, manager
	machine.ID = manager.ID.Workload("vm", 20)
	run.ID = tenure.UnitID{Snap: "s", Kind: tenure.AppRun, App: "virtd", Serial: 30}
	hook.ID = tenure.UnitID{Snap: "s", Kind: tenure.HookRun, App: "configure", Serial: 40}
	for verdict, want := range map[string][]tenure.UnitID{
		"restart": {manager.ID}, "reload": {manager.ID}, "handover": {manager.ID},
		"endure": {manager.ID, machine.ID, run.ID}, "stop": {manager.ID, machine.ID, run.ID}, "defer": {manager.ID, machine.ID, run.ID},
	} {
		result := parse(t, "- {name: r, when: true, do: {verdict: "+verdict+"}}").Evaluate(facts(tenure.ReasonRefresh, manager, machine, run, hook))
		var got []tenure.UnitID
		for _, unit := range []tenure.UnitID{manager.ID, machine.ID, run.ID, hook.ID} {
			if result.Units[unit].Verdict != nil {
				got = append(got, unit)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s is given to (-want +got):\n%s", verdict, diff)
		}
	}
}

// TestDates: how long a unit may endure is no part of what rules say of a change; hooks and
// hand-overs end by themselves, and nothing is taken away from a person.
func TestDates(t *testing.T) {
	t.Parallel()
	set := parse(t, `
- {name: vms, when: 'unit.kind == "workload" && unit.stale', do: {verdict: endure, endure: 1w, endure-action: end}}
- {name: rest, when: true, do: {endure: 2w, endure-action: end, kill: never}}
`)
	manager := service("virtd", process(10, time.Hour, "virtd"))
	machine, draining, run, hook := manager, manager, manager, manager
	machine.ID, machine.Stale = manager.ID.Workload("vm", 20), true
	draining.ID = manager.ID.Workload(tenure.Draining, 25)
	run.ID = tenure.UnitID{Snap: "s", Kind: tenure.AppRun, App: "virtd", Serial: 30}
	hook.ID = tenure.UnitID{Snap: "s", Kind: tenure.HookRun, App: "configure", Serial: 40}
	f := facts(tenure.ReasonRefresh, manager, machine, draining, run, hook)
	for id, outcome := range set.Evaluate(f).Units {
		if outcome.Endure != nil || outcome.Overdue != nil || outcome.Kill == nil {
			t.Errorf("for the change %s is given %v", id, given(outcome))
		}
	}
	want := map[tenure.UnitID]map[string]string{
		manager.ID: {"endure": "336h by rest", "endure-action": "end by rest"},
		machine.ID: {"endure": "168h by vms", "endure-action": "end by vms"},
		run.ID:     {"endure": "336h by rest"},
	}
	got := map[tenure.UnitID]map[string]string{}
	for id, outcome := range set.Endurance(f).Units {
		if all := given(outcome); len(all) > 0 {
			got[id] = all
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("dates (-want +got):\n%s", diff)
	}
}

// TestDatesVary tells rules that must be asked again from those whose word holds until
// something happens that is heard of.
func TestDatesVary(t *testing.T) {
	t.Parallel()
	for condition, varies := range map[string]bool{
		`true`: false, `unit.name == "vm" && unit.stale`: false, `snap.version != "1"`: false,
		`unit.age > days(1)`: true, `now.getHours() > 8`: true, `process.main`: true, `unit.memory > 5`: true,
		`unit.processes.exists(p, p.command == "x")`: true,
	} {
		set := parse(t, fmt.Sprintf("- {name: r, when: %q, do: {endure: 1d}}", condition))
		if !set.Dates() || set.DatesVary() != varies {
			t.Errorf("%s: varies %t", condition, set.DatesVary())
		}
		if set = parse(t, fmt.Sprintf("- {name: r, when: %q, do: {kill: never}}", condition)); set.Dates() || set.DatesVary() {
			t.Errorf("%s: without a date", condition)
		}
	}
}

// drawn is a rule that is drawn, and a second implementation of what it means.
type drawn struct {
	text    string
	about   bool
	matches func(u rules.Unit) bool
	does    map[string]string
}

func drawRule(t *rapid.T, n int) drawn {
	r := drawn{does: map[string]string{}}
	var when string
	switch rapid.IntRange(0, 3).Draw(t, "when") {
	case 0:
		when, r.matches = "true", func(rules.Unit) bool { return true }
	case 1:
		when, r.matches = `snap.name == "other"`, func(rules.Unit) bool { return false }
	case 2:
		app := rapid.SampledFrom([]tenure.App{"a", "b"}).Draw(t, "app")
		when, r.about = fmt.Sprintf("app.name == %q", app), true
		r.matches = func(u rules.Unit) bool { return u.ID.App == app }
	case 3:
		limit := rapid.IntRange(0, 3).Draw(t, "hours")
		when, r.about = fmt.Sprintf("process.age > duration('%dh')", limit), true
		r.matches = func(u rules.Unit) bool {
			return len(u.Processes) > 0 && now().Sub(u.Processes[0].Started) > time.Duration(limit)*time.Hour
		}
	}
	var do []string
	for _, aspect := range []string{"verdict", "grace", "kill", "endure", "endure-action", "retain", "hold"} {
		if rapid.Bool().Draw(t, aspect) {
			r.does[aspect] = map[string][]string{
				"verdict": {"restart", "endure", "defer", "stop", "refuse"}, "grace": {"1s", "1h"}, "kill": {"never", "after-timeout"},
				"retain": {"2", "3"}, "hold": {"x", "y"}, "endure": {"1s", "1h"}, "endure-action": {"warn", "end"},
			}[aspect][rapid.IntRange(0, 1).Draw(t, "value")]
			do = append(do, aspect+": "+r.does[aspect])
		}
	}
	if len(do) == 0 {
		do, r.does = []string{"retain: 4"}, map[string]string{"retain": "4"}
	}
	r.text = fmt.Sprintf("- {name: r%d, when: %q, do: {%s}}\n", n, when, strings.Join(do, ", "))
	return r
}

// TestTheFirstMatchWins holds Evaluate, and Explain, against the sentence itself: of
// the rules that match, the first that speaks of an aspect gives it.
func TestTheFirstMatchWins(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var all []drawn
		var text strings.Builder
		for n := range rapid.IntRange(1, 5).Draw(t, "rules") {
			all = append(all, drawRule(t, n))
			text.WriteString(all[n].text)
		}
		set, err := rules.Parse("policy.yaml", []byte(text.String()))
		if err != nil {
			t.Fatal(err)
		}
		var units []rules.Unit
		for _, app := range []tenure.App{"a", "b", "c"} {
			age := time.Duration(rapid.IntRange(0, 4).Draw(t, "age"))*time.Hour + time.Minute
			units = append(units, service(app, process(len(units)+1, age, "x")))
		}
		f := facts(tenure.ReasonRefresh, units...)
		result, dates := set.Evaluate(f), set.Endurance(f)
		explained := set.Explain(f)
		for i, u := range units {
			want := simpleFirst(all, []string{"verdict", "grace", "kill", "endure", "endure-action"}, func(r drawn) bool { return r.matches(u) })
			got := given(result.Units[u.ID])
			maps.Copy(got, given(dates.Units[u.ID]))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s of\n%s(-simple +got):\n%s", u.ID, text.String(), diff)
			}
			if diff := cmp.Diff(want, said(explained[i+1])); diff != "" {
				t.Fatalf("explanation of %s of\n%s(-simple +got):\n%s", u.ID, text.String(), diff)
			}
		}
		want := simpleFirst(all, []string{"retain", "hold"}, func(r drawn) bool {
			return r.matches(units[0]) || r.about && (r.matches(units[1]) || r.matches(units[2]))
		})
		if diff := cmp.Diff(want, given(result.Snap)); diff != "" {
			t.Fatalf("the snap, of\n%s(-simple +got):\n%s", text.String(), diff)
		}
	})
}

func simpleFirst(all []drawn, aspects []string, matches func(drawn) bool) map[string]string {
	first := map[string]string{}
	for _, aspect := range aspects {
		for n, r := range all {
			if r.does[aspect] != "" && matches(r) {
				first[aspect] = fmt.Sprintf("%s by r%d", r.does[aspect], n)
				break
			}
		}
	}
	return first
}

func given(o rules.Outcome) map[string]string {
	all := map[string]string{}
	if g := o.Verdict; g != nil {
		all["verdict"] = fmt.Sprintf("%s by %s", g.Value, g.Rule)
	}
	if g := o.Grace; g != nil {
		all["grace"] = strings.TrimSuffix(g.Value.String(), "0m0s") + " by " + g.Rule
	}
	if g := o.Kill; g != nil {
		all["kill"] = fmt.Sprintf("%s by %s", g.Value, g.Rule)
	}
	if g := o.Endure; g != nil {
		all["endure"] = strings.TrimSuffix(g.Value.String(), "0m0s") + " by " + g.Rule
	}
	if g := o.Overdue; g != nil {
		all["endure-action"] = fmt.Sprintf("%s by %s", g.Value, g.Rule)
	}
	if g := o.Retain; g != nil {
		all["retain"] = fmt.Sprintf("%d by %s", g.Value, g.Rule)
	}
	if g := o.Hold; g != nil {
		all["hold"] = fmt.Sprintf("%s by %s", g.Value, g.Rule)
	}
	return all
}

func said(e rules.Explanation) map[string]string {
	all := map[string]string{}
	for _, r := range e.Rules {
		for aspect, value := range r.Gives {
			all[aspect] = fmt.Sprintf("%s by %s", value, r.Rule)
		}
	}
	return all
}

// TestExplain reads like an answer.
func TestExplain(t *testing.T) {
	t.Parallel()
	set := parse(t, `
- name: young
  when: unit.kind == "service" && process.age < duration("10m") && process.command.startsWith("/bin/a")
  do: {verdict: defer, grace: 5m}
- name: rest
  when: unit.kind == "service"
  do: {verdict: endure, grace: 1m}
- name: urgent
  when: update.urgency == "high"
  do: {minimum-age: 1h}
`)
	f := facts(tenure.ReasonRefresh, service("a", process(10, time.Minute, "/bin/a")), service("b", process(11, time.Hour, "/bin/b")))
	want := []rules.Explanation{
		{Rules: []rules.RuleSaid{{Rule: "urgent", Why: "update.urgency is not known here"}}},
		{Unit: "s.a", Rules: []rules.RuleSaid{
			{Rule: "young", Matched: true, Gives: map[string]string{"verdict": "defer", "grace": "5m"}},
			{Rule: "rest", Matched: true, Taken: map[string]string{"verdict": "young", "grace": "young"}},
		}},
		{Unit: "s.b", Rules: []rules.RuleSaid{
			{Rule: "young", Why: `not true: process.age < duration("10m") (process.age is 1h0m0s)`},
			{Rule: "rest", Matched: true, Gives: map[string]string{"verdict": "endure", "grace": "1m"}},
		}},
	}
	empty := cmp.FilterValues(func(a, b map[string]string) bool { return len(a)+len(b) == 0 }, cmp.Ignore())
	if diff := cmp.Diff(want, set.Explain(f), empty); diff != "" {
		t.Errorf("explanation (-want +got):\n%s", diff)
	}
}

// FuzzParse: whatever is in a file, reading and using it ends soon and does not panic;
// what is wrong is told with the file's name and in one line.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"", "[]", "a: b", "- {name: a, when: true, do: {kill: never}}",
		"- name: a\n  when: |\n    unit.age > days(3) &&\n    process.command.matches('^x')\n  do: {verdict: defer, grace: 5m}\n",
		"- {name: a, when: 'unit.processes.exists(p, p.memory > 5)', do: {hold: x, window: 'sun,02:00-05:00', retain: 3}}",
		"- {name: a, when: '[1,2].map(x, x * 2).size() > update.from.size()', do: {refuse: no, minimum-age: 1w}}",
		"- {name: a, when: 'unit.stale', do: {endure: 3d, endure-action: end}}", "- {name: a, when: 'snap{}.name == \"\"', do: {deferral: 0s}}", "- &a [*a]", "\t", "- {name: a, when: '((((', do: {kill: 1}}",
		"- {name: a, when: 'now - now > duration(\"1s\") || has(update.urgency) ? true : 1/0 == 1', do: {kill: after-timeout}}",
	} {
		f.Add([]byte(text))
	}
	about := facts(tenure.ReasonRefresh, service("a", process(10, time.Minute, "/bin/a")), service("idle"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := rules.Parse("policy.yaml", data)
		if err != nil {
			if invalid, ok := errors.AsType[*rules.InvalidError](err); !ok || len(invalid.Problems) == 0 {
				t.Fatalf("not told by its problems: %v", err)
			}
			if strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "policy.yaml") {
				t.Fatalf("an error of several lines, or without the file: %q", err)
			}
			return
		}
		set.Evaluate(about)
		set.Endurance(about)
		set.Explain(about)
	})
}
