package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tenure/test/rig"
)

// setRules replaces the administrator's rules, as a careful administrator does.
func setRules(t *testing.T, i *rig.Instance, text string) {
	t.Helper()
	path := i.Path("etc/tenure/policy.yaml")
	fresh := path + ".new"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // As on any machine.
		t.Fatal(err)
	}
	if err := os.WriteFile(fresh, []byte(text), 0o644); err != nil { //nolint:gosec // As on any machine.
		t.Fatal(err)
	}
	if err := os.Rename(fresh, path); err != nil {
		t.Fatal(err)
	}
}

// workshop is a snap with a service that keeps nothing from being restarted, and one
// with a child.
func workshop(t *testing.T, i *rig.Instance, version string) string {
	t.Helper()
	return probeSnap(t, i, probeYAML(version, `
saw:
	daemon: notify
	command: PROBE trap env:SNAP_REVISION notify:READY:1 run
`, `
lathe:
	daemon: notify
	command: PROBE child:tool trap env:SNAP_REVISION notify:READY:1 run
`))
}

// A rule makes of the restart of a service what its condition says, by the age and the
// command line of its processes; the plan and what is done name it.
func TestRulesDecide(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	file := workshop(t, i, "1")
	i.Tenure("install", "--dangerous", file)
	trace.expect("saw", "env SNAP_REVISION=x1")
	trace.expect("lathe", "env SNAP_REVISION=x1")
	saw, lathe := i.Main("probe.saw"), i.Main("probe.lathe")

	// One endures by its command line, one by its age, and both are not asked.
	setRules(t, i, `
- name: saws-run-on
  when: process.command.matches("probe saw ") && process.age < days(300)
  do: {verdict: endure}
- name: lathes-run-on
  when: unit.processes.exists(p, p.command.contains("lathe.tool"))
  do: {verdict: endure}
`)
	i.Tenure("refresh", "--dangerous", file)
	if now := i.Main("probe.saw"); now != saw {
		t.Errorf("the saw was to endure; its process was %v and is %v", saw, now)
	}
	if unit := i.Units()["probe.lathe"]; !unit.Stale || unit.Revision != "x1" {
		t.Errorf("the lathe was to endure: %+v", unit)
	}
	if plan := i.Tenure("plan", "refresh", file); !strings.Contains(plan, "administrator: saws-run-on") || !strings.Contains(plan, "administrator: lathes-run-on") {
		t.Errorf("the plan does not name the rules:\n%s", plan)
	}

	// A change waits by a rule. When other rules come, it goes on.
	setRules(t, i, `
- {name: not-now, when: 'app.name == "saw" && process.age < days(300)', do: {verdict: defer}}
- {name: lathes, when: 'app.name == "lathe"', do: {verdict: endure}}
`)
	out := i.Tenure("refresh", "--dangerous", file)
	found := regexp.MustCompile(`^Change (\d+) waits for probe\.saw \(\d+ probe\) to end`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("the refresh does not wait:\n%s", out)
	}
	trace.silent("saw")
	setRules(t, i, `- {name: lathes, when: 'app.name == "lathe"', do: {verdict: endure}}`)
	if status := endOf(t, i, found[1]); status != "Done" {
		t.Errorf("the change that waited is %s", status)
	}
	trace.expect("saw", "heard SIGTERM", "env SNAP_REVISION=x3")
	if now := i.Main("probe.lathe"); now != lathe {
		t.Errorf("the lathe was to endure; its process was %v and is %v", lathe, now)
	}

	// One that waits by a rule on processes goes on when they are gone, though nobody tells.
	setRules(t, i, `- {name: while-it-has-a-tool, when: 'app.name == "lathe" && size(unit.processes) > 1', do: {verdict: defer}}`)
	out = i.Tenure("refresh", "--dangerous", file)
	if found = regexp.MustCompile(`^Change (\d+) waits for probe\.lathe `).FindStringSubmatch(out); found == nil {
		t.Fatalf("the refresh does not wait for the lathe:\n%s", out)
	}
	for _, process := range i.Units()["probe.lathe"].Processes {
		if !process.Main {
			if tool, err := os.FindProcess(process.PID); err != nil || tool.Kill() != nil {
				t.Fatalf("end the tool: %v", err)
			}
		}
	}
	if status := endOf(t, i, found[1]); status != "Done" {
		t.Errorf("the change that waited for a tool is %s", status)
	}
	trace.expect("lathe", "heard SIGTERM", "env SNAP_REVISION=x4")

	// A limit of a rule ends a wait.
	setRules(t, i, `- {name: briefly, when: 'app.name == "saw"', do: {verdict: defer, deferral: 1s}}`)
	id := strings.TrimSpace(i.Tenure("refresh", "--no-wait", "--dangerous", file))
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the change that waited for a second is %s", status)
	}
	if unit := i.Units()["probe.saw"]; unit.Revision != "x5" {
		t.Errorf("after the limit: %+v", unit)
	}

	// A rule refuses, unless the administrator insists.
	setRules(t, i, `- {name: freeze, when: 'app.name == "saw"', do: {refuse: the year ends}}`)
	if r := i.Try("refresh", "--dangerous", file); r.Status == 0 || !strings.Contains(r.Stderr, "the year ends") || !strings.Contains(r.Stderr, "--force") {
		t.Errorf("a refresh that a rule refuses: %+v", r)
	}
	i.Tenure("refresh", "--force", "--dangerous", file)
	if unit := i.Units()["probe.saw"]; unit.Revision != "x6" {
		t.Errorf("after --force: %+v", unit)
	}
}

// What a rule says of grace and kill is what a stop does, on the way there and back; what
// is retained is what it says.
func TestRulesOnStops(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	file := probeSnap(t, i, probeYAML("1", `
db:
	daemon: notify
	command: PROBE trap ignore:SIGTERM env:SNAP_REVISION notify:READY:1 run
	stop-timeout: 10m
`))
	i.Tenure("install", "--dangerous", file)
	trace.expect("db", "env SNAP_REVISION=x1")

	// Never killed by a rule, on every path, as if the package had said so.
	setRules(t, i, `
- {name: gentle, when: 'snap.name == "probe"', do: {grace: 300ms, kill: never}}
- {name: history, when: 'snap.name == "probe"', do: {retain: 4}}
`)
	id := blocked(t, i, trace, "refresh", "--dangerous", file)
	i.Kill()
	i.Start()
	trace.silent("db")
	interrupt(t, i.Main("probe.db"))
	trace.expect("db", "heard SIGINT")
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the refresh is %s", status)
	}
	trace.expect("db", "env SNAP_REVISION=x2")
	id = blocked(t, i, trace, "stop", "probe")
	i.Tenure("stop", "--kill", "probe.db")
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the stop is %s", status)
	}
	i.Tenure("start", "probe")
	trace.expect("db", "heard SIGTERM", "env SNAP_REVISION=x2")

	// A short grace, cut by nobody, and killed then.
	setRules(t, i, `
- {name: brief, when: 'process.command.contains("probe db ")', do: {grace: 200ms}}
- {name: history, when: true, do: {retain: 4}}
`)
	for n := 3; n <= 5; n++ {
		i.Tenure("refresh", "--dangerous", file)
		trace.expect("db", "heard SIGTERM", fmt.Sprintf("env SNAP_REVISION=x%d", n))
		if log := i.Tenure("tasks", "--last=refresh"); !strings.Contains(log, "probe.db did not end in its time and was killed") {
			t.Errorf("the refresh does not say that it killed:\n%s", log)
		}
	}
	if kept := revisions(t, i); len(kept) != 4 || !kept["x5"].Current {
		t.Errorf("kept by a rule: %+v", kept)
	}
	setRules(t, i, `- {name: brief, when: true, do: {grace: 200ms}}`)
	i.Tenure("refresh", "--dangerous", file)
	if kept := revisions(t, i); len(kept) != 2 {
		t.Errorf("kept without a rule: %+v", kept)
	}

	// A package that forbids it is overruled.
	setRules(t, i, `- {name: must, when: 'snap.name == "probe"', do: {grace: 200ms, kill: after-timeout}}`)
	i.Tenure("refresh", "--dangerous", stubborn(t, i))
	trace.expect("db", "heard SIGTERM", "env SNAP_REVISION=x6", "heard SIGTERM", "env SNAP_REVISION=x7")
	if plan := i.Tenure("plan", "stop", "probe"); !strings.Contains(plan, "SIGKILL may follow, by rule must") {
		t.Errorf("the plan does not name the rule:\n%s", plan)
	}
	i.Tenure("stop", "probe")
	if log := i.Tenure("tasks", "--last=service-control"); !strings.Contains(log, "probe.db did not end in its time and was killed") {
		t.Errorf("the stop does not say that it killed:\n%s", log)
	}
}
