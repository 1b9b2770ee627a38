package test

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tenure"
	"tenure/test/rig"
)

// stubborn is a snap with a service that must not be killed and that ignores its
// stop signal; SIGINT ends it.
func stubborn(t *testing.T, i *rig.Instance) string {
	t.Helper()
	return probeSnap(t, i, probeYAML("1", `
db:
	daemon: notify
	command: PROBE trap ignore:SIGTERM env:SNAP_REVISION notify:READY:1 run
	stop-timeout: 300ms
	lifecycle: {kill: never}
`))
}

// blocked carries out a command that has to wait for the service to end, which it
// was told, and gives the change.
func blocked(t *testing.T, i *rig.Instance, trace *trace, args ...string) string {
	t.Helper()
	main := i.Main("probe.db")
	r := i.Try(args...)
	found := regexp.MustCompile(`^error: change (\d+) is not done: it waits for probe\.db \(process (\d+), probe\), told to stop`).FindStringSubmatch(r.Stderr)
	if r.Status == 0 || found == nil || found[2] != fmt.Sprint(main.PID) {
		t.Fatalf("tenure %s does not say that it waits for %d: %+v", strings.Join(args, " "), main.PID, r)
	}
	trace.expect("db", "heard SIGTERM")
	if now := i.Main("probe.db"); now != main {
		t.Fatalf("the main process is %v after tenure %s, before %v", now, strings.Join(args, " "), main)
	}
	running, err := i.Client().Changes(t.Context(), "in-progress", "probe")
	if err != nil || len(running) != 1 || running[0].ID != found[1] || running[0].Status != "Wait" || !running[0].Holds {
		t.Errorf("in progress is %+v, %v, and not change %s, which waits inside its switch", running, err, found[1])
	}
	return found[1]
}

func interrupt(t *testing.T, process tenure.Process) {
	t.Helper()
	if err := syscall.Kill(process.PID, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}

// A service that must not be killed never is: whatever was to become of it waits
// until it has ended, and then goes on, or goes back if that was asked for.
func TestNeverKilled(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	file := stubborn(t, i)
	i.Tenure("install", "--dangerous", file)
	trace.expect("db", "env SNAP_REVISION=x1")

	id := blocked(t, i, trace, "stop", "probe.db")
	interrupt(t, i.Main("probe.db"))
	trace.expect("db", "heard SIGINT")
	if status := endOf(t, i, id); status != "Done" || service(t, i, "db").Active {
		t.Errorf("the stop is %s, the service %+v", status, service(t, i, "db"))
	}
	i.Tenure("start", "probe.db")
	trace.expect("db", "env SNAP_REVISION=x1")

	// Turned round, it leaves the service to itself, and starts it when it has ended.
	id = blocked(t, i, trace, "refresh", "--dangerous", file)
	i.Tenure("abort", id)
	if status := endOf(t, i, id); status != "Undone" {
		t.Errorf("the aborted refresh is %s", status)
	}
	interrupt(t, i.Main("probe.db"))
	trace.expect("db", "heard SIGINT", "env SNAP_REVISION=x1")

	// It waits on when the daemon is killed.
	id = blocked(t, i, trace, "refresh", "--dangerous", file)
	i.Kill()
	i.Start()
	trace.silent("db")
	interrupt(t, i.Main("probe.db"))
	trace.expect("db", "heard SIGINT")
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the refresh is %s", status)
	}
	trace.expect("db", "env SNAP_REVISION=x2")

	// The administrator may have it killed after all.
	id = blocked(t, i, trace, "restart", "probe")
	i.Tenure("stop", "--kill", "probe.db")
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the restart is %s", status)
	}
	trace.expect("db", "heard SIGTERM", "env SNAP_REVISION=x2")
	if log := i.Tenure("tasks", id); !strings.Contains(log, "probe.db did not end in its time and was killed") {
		t.Errorf("the change does not say that it killed:\n%s", log)
	}

	id = blocked(t, i, trace, "remove", "probe")
	interrupt(t, i.Main("probe.db"))
	trace.expect("db", "heard SIGINT")
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the removal is %s", status)
	}
	trace.silent("db")
}

// Who has ended by order what a refresh waited for has succeeded, although the refresh
// is observed now; the SIGKILL, which the package forbids, is by that order.
func TestKillByOrder(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{Observe: true})
	trace := listen(t, i)
	file := probeSnap(t, i, probeYAML("1", `
db:
	daemon: notify
	command: PROBE trap ignore:SIGTERM env:SNAP_REVISION notify:READY:1 run
	stop-timeout: 300ms
	lifecycle: {kill: never, observe: 1h}
`))
	i.Tenure("install", "--dangerous", file)
	trace.expect("db", "env SNAP_REVISION=x1")
	id := blocked(t, i, trace, "refresh", "--dangerous", file)
	said := i.Tenure("stop", "--kill", "probe.db")
	if want := "Change " + id + " waits for probe.db to run well"; !strings.Contains(said, want) {
		t.Errorf("tenure stop --kill says %q, want %q", said, want)
	}
	trace.expect("db", "heard SIGTERM", "env SNAP_REVISION=x2")

	timeline, err := i.Client().Timeline(t.Context(), "probe", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var rules []string
	for k := range timeline.Units {
		for _, e := range timeline.Units[k].Events {
			if e.Kind == "signal" && e.Rule != nil {
				rules = append(rules, e.Signal+" by "+e.Rule.Source+": "+e.Rule.Name)
			}
		}
	}
	wantWords(t, "signals", rules, []string{
		"SIGTERM by default: default for services on refresh", "SIGTERM by default: default for services on refresh", "SIGKILL by administrator: --kill",
	})
	i.Tenure("remove", "--kill", "probe")
}

// A new revision that does not get ready, must not be killed and does not end keeps
// the undo waiting: nothing is ever sent SIGKILL, and the old revision follows it.
func TestNeverKilledByUndo(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
db:
	daemon: notify
	command: PROBE trap env:SNAP_REVISION notify:READY:1 run
`)))
	trace.expect("db", "env SNAP_REVISION=x1")
	r := i.Try("refresh", "--dangerous", probeSnap(t, i, probeYAML("2", `
db:
	daemon: notify
	command: PROBE trap ignore:SIGTERM env:SNAP_REVISION run
	start-timeout: 300ms
	stop-timeout: 300ms
	lifecycle: {kill: never}
`)))
	found := regexp.MustCompile(`^error: change (\d+) is not done: it waits for probe\.db \(process (\d+), `).FindStringSubmatch(r.Stderr)
	if r.Status == 0 || found == nil || found[2] != fmt.Sprint(i.Main("probe.db").PID) {
		t.Fatalf("the refresh that fails: %+v", r)
	}
	trace.expect("db", "heard SIGTERM", "env SNAP_REVISION=x2", "heard SIGTERM")
	interrupt(t, i.Main("probe.db"))
	if status := endOf(t, i, found[1]); status != "Error" {
		t.Errorf("the refresh is %s", status)
	}
	for got := ""; got != "env SNAP_REVISION=x1"; {
		if got = trace.next("db"); got != "heard SIGTERM" && got != "heard SIGINT" && got != "env SNAP_REVISION=x1" {
			t.Fatalf("db reports %q", got)
		}
	}
	if unit := i.Units()["probe.db"]; unit.Revision != "x1" {
		t.Errorf("after the undo: %+v", unit)
	}
}
