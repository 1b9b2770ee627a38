package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"tenure/client"
	"tenure/test/rig"
)

// What endures on an old revision is shown with its date; when that has come, and the
// administrator wants it, a service starts again on the current revision, and workloads
// end, each by its stop protocol.
func TestEnduringHasADate(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	i.Tenure("install", "--dangerous", managerOfShells(t, i))
	livingMachines(t, i)
	i.Tenure("set", "system", "lifecycle.max-endure=7d")
	next := managerOfShells(t, i)
	if plan := i.Tenure("refresh", "--dry-run", next); !strings.Contains(plan, "by the administrator's limit of 7d, and is then warned of") {
		t.Errorf("the plan does not say until when machines may endure:\n%s", plan)
	}
	begun := time.Now()
	i.Tenure("refresh", "--dangerous", next)
	before := livingMachines(t, i)
	for id, unit := range i.Units() {
		stays := unit.Revision == "x1"
		until := unit.EnduresUntil.Sub(unit.StaleSince)
		if stays != unit.Stale || stays && (until != 7*24*time.Hour || unit.StaleSince.Before(begun) || unit.EndureAction != "warn") {
			t.Errorf("%s on %s: stale %t since %s, until %s, then %s", id, unit.Revision, unit.Stale, unit.StaleSince, unit.EnduresUntil, unit.EndureAction)
		}
	}
	if ps := i.Tenure("ps", "manager"); strings.Count(ps, "x1 (stale) until "+begun.Add(7*24*time.Hour).UTC().Format("2006-01-")) < machines {
		t.Errorf("ps does not say until when:\n%s", ps)
	}
	id := i.Main("manager.virtd")
	i.Tenure("set", "system", "lifecycle.endure-action=end", "lifecycle.max-endure=1s")
	await(t, filepath.Join(i.Common("manager"), "machines"), func() bool {
		left, err := filepath.Glob(filepath.Join(i.Common("manager"), "machines", "*"))
		return err == nil && len(left) == 0
	})
	changes, err := i.Client().Changes(t.Context(), "all", "manager")
	if err != nil || len(changes) == 0 {
		t.Fatal(err)
	}
	last := changes[len(changes)-1]
	if !strings.HasPrefix(last.Summary, "Stop manager.virtd/vm.") || !strings.HasSuffix(last.Summary, "and lifecycle.max-endure is 1s") {
		t.Errorf("the change that ends them: %s", last.Summary)
	}
	if status := endOf(t, i, last.ID); status != "Done" {
		t.Errorf("it is %s", status)
	}
	text, err := os.ReadFile(filepath.Join(i.Common("manager"), "log"))
	if err != nil || string(text) != strings.Repeat("shut down\n", machines) {
		t.Errorf("machines %v: %q, %v", before, text, err)
	}
	if i.Main("manager.virtd") != id {
		t.Error("the manager, which is not stale, was restarted")
	}
}

// An instance of a template whose date has come starts again on the current revision, with
// its arguments; what that has no more, a service or a template, is ended. A plan says so
// beforehand, and that the date of what is overdue has passed.
func TestOverdueInstances(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	template := func(name string) string {
		return name + `:
	daemon: notify
	command: PROBE trap env:SNAP_REVISION notify:READY:1 run
	lifecycle: {instances: true}
`
	}
	plain := func(name string) string {
		return name + `:
	daemon: notify
	refresh-mode: endure
	command: PROBE trap env:SNAP_REVISION notify:READY:1 run
`
	}
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", template("clock"), template("gone"), plain("dropped"), plain("turned"))))
	i.Tenure("start", "probe.clock@a")
	i.Tenure("start", "probe.gone@a")
	names := []string{"clock", "gone", "dropped", "turned"}
	for _, name := range names {
		trace.expect(name, "env SNAP_REVISION=x1")
	}
	next := probeSnap(t, i, probeYAML("2", template("clock"), template("turned")))
	i.Tenure("set", "system", "lifecycle.max-endure=7d", "lifecycle.endure-action=end")
	plan := i.Tenure("plan", "refresh", next)
	for unit, fate := range map[string]string{
		"clock@a": "restarted", "gone@a": "ended by its stop protocol", "dropped": "ended by its stop protocol", "turned": "ended by its stop protocol",
	} {
		if !regexp.MustCompile(`note: probe\.` + unit + `: it may endure until \S+, by the administrator's limit of 7d, and is then ` + fate + "\n").MatchString(plan) {
			t.Errorf("the plan does not say that %s is then %s:\n%s", unit, fate, plan)
		}
	}
	i.Tenure("refresh", "--dangerous", next)
	i.Tenure("start", "probe.turned@fresh")
	trace.expect("turned", "env SNAP_REVISION=x2")
	trace.silent(names...)
	i.Tenure("set", "system", "lifecycle.endure-action=warn", "lifecycle.max-endure=1ns")
	if plan = i.Tenure("plan", "refresh", next); !regexp.MustCompile(`probe\.clock@a: it is overdue since \S+, by .* and is warned of\n`).MatchString(plan) {
		t.Errorf("the plan does not say that a date has passed:\n%s", plan)
	}
	for id, unit := range i.Units() {
		if unit.Stale != (unit.EndureAction == "warn") || unit.Stale != (unit.Revision == "x1") {
			t.Errorf("%s on %s, stale %t: action %q", id, unit.Revision, unit.Stale, unit.EndureAction)
		}
	}
	i.Tenure("set", "system", "lifecycle.endure-action=end")
	for _, name := range names {
		trace.expect(name, "heard SIGTERM")
	}
	trace.expect("clock", "env SNAP_REVISION=x2")
	revisions := map[string]string{}
	for begun := time.Now(); len(revisions) != 2 && time.Since(begun) < rig.Patience; {
		clear(revisions)
		for id, unit := range i.Units() {
			revisions[id] = unit.Revision
		}
	}
	same(t, "units in the end", map[string]string{"probe.clock@a": "x2", "probe.turned@fresh": "x2"}, revisions)
	trace.silent(names...)
}

// A rule of the administrator sets the date of a machine, and has it ended then, by its stop
// protocol and on the rule's terms; ps, why, the plan, the change and the timeline name the
// rule. What the rule does not speak of goes on. Seconds stand for days.
func TestRulesEndWhatEndures(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	yaml := func(version string) string {
		return probeYAML(version, `
manager:
	daemon: notify
	command: PROBE child:vm trap notify:READY:1 run
	lifecycle:
	  workloads:
	    vm: {match: ' manager.vm '}
`, `
keeper:
	daemon: notify
	refresh-mode: endure
	command: PROBE trap env:SNAP_REVISION notify:READY:1 run
`)
	}
	i.Tenure("install", "--dangerous", probeSnap(t, i, yaml("1")))
	trace.expect("manager.vm", "up")
	trace.expect("keeper", "env SNAP_REVISION=x1")
	rule := func(span string) string {
		return "- {name: machines-converge, when: 'unit.name == \"vm\" && unit.stale', do: {endure: " + span + ", endure-action: end, grace: 90s}}"
	}
	setRules(t, i, rule("7d"))
	next := probeSnap(t, i, yaml("2"))
	says := regexp.MustCompile(`note: probe\.manager/vm\.\d+: it may endure until \S+, by rule machines-converge, which gives it 7d, and is then ended by its stop protocol\n`)
	if plan := i.Tenure("refresh", "--dry-run", next); !says.MatchString(plan) {
		t.Errorf("the plan does not say until when the machine may endure:\n%s", plan)
	}
	i.Tenure("refresh", "--dangerous", next)
	trace.expect("manager.vm", "up")
	trace.expect("manager", "heard SIGTERM")

	old := staleUnits(t, i)
	vm, keeper := old["vm"], old["keeper"]
	if span := vm.EnduresUntil.Sub(vm.StaleSince); span != 7*24*time.Hour || vm.EndureRule != "machines-converge" || vm.EndureAction != "end" ||
		vm.EndureActionRule != "machines-converge" || !keeper.EnduresUntil.IsZero() {
		t.Errorf("the dates: %+v, %+v", vm, keeper)
	}
	until := vm.EnduresUntil.UTC()
	if ps, want := i.Tenure("ps", "probe"), "x1 (stale) until "+until.Format("2006-01-02 15:04")+" UTC by rule machines-converge"; !strings.Contains(ps, want) {
		t.Errorf("ps does not say %q:\n%s", want, ps)
	}
	want := "unit " + vm.ID + ", until " + until.Format(time.RFC3339) + " by rule machines-converge, which gives it 7d\n"
	if why := i.Tenure("why", "probe@x1"); !strings.Contains(why, want) || !strings.Contains(why, "unit probe.keeper\n") {
		t.Errorf("why does not say %q:\n%s", want, why)
	}

	trace.silent("manager.vm", "keeper")
	span := time.Since(vm.StaleSince) + 2*time.Second
	setRules(t, i, rule(span.String()))
	trace.expect("manager.vm", "heard SIGTERM")
	if date := vm.StaleSince.Add(span); time.Now().Before(date) {
		t.Errorf("the machine ended before its date, %s", date)
	}
	units, changes := history(t, i)
	var ended string
	for _, e := range units[vm.ID].Events {
		if e.Kind == "signal" && e.Rule != nil && e.Rule.Name == "machines-converge" && e.Rule.Source == "administrator" && e.Reason == "stop" && e.Verdict == "stop" {
			ended = e.Change
		}
	}
	if ended == "" {
		t.Fatalf("the timeline does not say by which rule the machine ended: %+v", units[vm.ID].Events)
	}
	if status := endOf(t, i, ended); status != "Done" || !strings.Contains(changes[ended].Summary, "and rule machines-converge gives it ") {
		t.Errorf("the change is %s: %s", status, changes[ended].Summary)
	}
	if left := staleUnits(t, i); left["keeper"].ID == "" || left["vm"].ID != "" {
		t.Errorf("stale units in the end: %+v", left)
	}
	trace.silent("keeper", "manager")
}

// staleUnits are those on old revisions, by the name of the workload or the app.
func staleUnits(t *testing.T, i *rig.Instance) map[string]client.Unit {
	t.Helper()
	stale := map[string]client.Unit{}
	for id, unit := range i.Units() {
		if !unit.Stale {
			continue
		}
		name := strings.TrimPrefix(id, "probe.")
		if _, workload, is := strings.Cut(name, "/"); is {
			name, _, _ = strings.Cut(workload, ".")
		}
		stale[name] = unit
	}
	return stale
}
