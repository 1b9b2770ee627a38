package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	webclient "tenure/examples/clients/web"
	"tenure/internal/trial"
	"tenure/test/rig"
)

// try runs tenure refresh-test with a load that says where the trial is, and checks that
// nothing of it is left.
func try(t *testing.T, i *rig.Instance, args ...string) (rig.Result, trial.Report) {
	t.Helper()
	where := filepath.Join(t.TempDir(), "root")
	load := "echo $TENURE_ROOT >" + where + "; while :; do echo ok 1.5; sleep 0.05; done"
	result := i.Try(append([]string{"refresh-test", "--json", "--load", load}, args...)...)
	root, err := os.ReadFile(where)
	if err != nil {
		t.Fatalf("the load has not run: %v; %s", err, result.Stderr)
	}
	for _, left := range rig.Leftovers(strings.TrimSpace(string(root))) {
		t.Errorf("left by the trial: %s", left)
	}
	if _, err := os.Lstat(strings.TrimSpace(string(root))); err == nil {
		t.Errorf("%s is left", root)
	}
	var report trial.Report
	if err := json.Unmarshal([]byte(result.Stdout), &report); err != nil {
		t.Fatalf("%v: %s%s", err, result.Stdout, result.Stderr)
	}
	return result, report
}

// phases are those of a report, in words, with what became of the units.
func phases(r trial.Report) []string {
	var all []string
	for _, phase := range r.Phases {
		words := []string{phase.Name}
		for _, u := range phase.Units {
			survived := "replaced"
			if u.Survived {
				survived = "survived"
			}
			words = append(words, u.Unit+" "+u.Verdict+" "+survived)
		}
		all = append(all, strings.Join(words, ", "))
	}
	return all
}

func TestRefreshTest(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	version := func(version, one string) string {
		return probeSnap(t, i, probeYAML(version, "one:\n\tdaemon: notify\n\tcommand: "+one+"\n",
			"two:\n\tdaemon: notify\n\tcommand: PROBE notify:READY:1 run\n\trefresh-mode: endure\n"))
	}
	before, after := version("1", "PROBE notify:READY:1 run"), version("2", "PROBE wait:50ms notify:READY:1 run")

	result, report := try(t, i, before, after)
	if result.Status != 0 || len(report.Differences)+len(report.Leftovers) > 0 {
		t.Errorf("status %d, differences %q, leftovers %q", result.Status, report.Differences, report.Leftovers)
	}
	wantWords(t, "phases", phases(report), []string{
		"install", "refresh, probe.one restart replaced, probe.two endure survived", "revert, probe.one restart replaced, probe.two endure survived",
		"failed-refresh, probe.one restart replaced, probe.two endure survived", "remove",
	})
	if gap := report.Phases[1].Units[0].Gap; gap < 50 {
		t.Errorf("the gap of a service that takes 50 ms to be ready is %v ms", gap)
	}
	if gap := report.Phases[1].Units[1].Gap; gap != 0 {
		t.Errorf("the gap of a service that endures is %v ms", gap)
	}
	if l := report.Load; l == nil || l.Requests == 0 || l.Failed != 0 || l.Median != 1.5 {
		t.Errorf("the load has met %+v", l)
	}

	// What does not start is told, and what is no answer.
	result, report = try(t, i, before, version("3", "PROBE exit:7"))
	says := func(text string) bool {
		return slices.ContainsFunc(report.Differences, func(d string) bool { return strings.Contains(d, text) })
	}
	if result.Status != 1 || !says("the refresh has ended as Error") || !strings.Contains(result.Stderr, "does not do what it declares") {
		t.Errorf("status %d, differences %q: %s", result.Status, report.Differences, result.Stderr)
	}
	if result := i.Try("refresh-test", before); result.Status != 64 {
		t.Errorf("one file: %+v", result)
	}
}

// A workload that is to endure, and is killed by the stop command of its service, is told;
// it is so young that it is part of its service when the refresh begins, and so is the one of the
// revert, which lives on.
func TestRefreshTestTellsOfADeath(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	version := func(version, stop string) string {
		return probeSnap(t, i, probeYAML(version, `
one:
	daemon: notify
	command: PROBE trap child:vm notify:READY:1 run
	stop-command: PROBE `+stop+`
	lifecycle: {workloads: {vm: {match: ' one\.vm ', refresh: endure}}}
`))
	}
	result, report := try(t, i, version("1", "bereave"), version("2", "report:spares"))
	killed, spared := report.Phases[1], report.Phases[2]
	if u := vm(t, killed); u.Verdict != "endure" || u.Before == nil || u.Before.Revision != "x1" || u.After != nil || u.Survived {
		t.Errorf("killed by the refresh: %+v", u)
	}
	if u := vm(t, spared); u.Verdict != "endure" || u.Before == nil || !cmp.Equal(u.Before, u.After) || !u.Survived {
		t.Errorf("spared by the revert: %+v", u)
	}
	want := vm(t, killed).Unit + ", in the refresh: its verdict is endure (apps.one.lifecycle.workloads.vm.refresh), and it has not lived on"
	if result.Status != 1 || len(report.Differences) == 0 || report.Differences[0] != want {
		t.Errorf("status %d, differences %q, want first %q", result.Status, report.Differences, want)
	}
}

// vm is the one workload of a phase.
func vm(t *testing.T, phase trial.Phase) trial.Unit {
	t.Helper()
	at := slices.IndexFunc(phase.Units, func(u trial.Unit) bool { return strings.HasPrefix(u.Unit, "probe.one/vm.") })
	if at < 0 {
		t.Fatalf("there is no workload in the %s: %+v", phase.Name, phase.Units)
	}
	return phase.Units[at]
}

// A hand-over promises that no request fails, and the built-in client counts them.
func TestRefreshTestAsks(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	w := newWebScene(t, i)
	result, report := try(t, i, "--http", "unix:"+webclient.Socket, w.version("1"), w.version("2"))
	if result.Status != 0 || len(report.Differences) > 0 {
		t.Errorf("status %d, differences %q: %s", result.Status, report.Differences, result.Stderr)
	}
	for _, phase := range report.Phases[1:4] {
		if phase.Units[0].Verdict != "handover" && phase.Units[0].Verdict != "hand over" || phase.Units[0].Gap != 0 || phase.Requests.Requests == 0 || phase.Requests.Failed > 0 {
			t.Errorf("%s: %+v, %+v", phase.Name, phase.Units, phase.Requests)
		}
	}
}
