package test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tenure"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// backend is the process of a service beside its main one, held.
func backend(t *testing.T, i *rig.Instance, name string) *proc.Handle {
	t.Helper()
	for _, p := range i.Units()["probe."+name].Processes {
		if !p.Main {
			return hold(t, tenure.Process{PID: p.PID, Start: p.Start})
		}
	}
	t.Fatalf("probe.%s has no process but its main one", name)
	return nil
}

// crash kills the main process of a service, and waits until it has been started again
// and what it has left has been told to end.
func crash(t *testing.T, i *rig.Instance, trace *trace, name string) {
	t.Helper()
	if err := syscall.Kill(i.Main("probe."+name).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	trace.expect(name+".backend", "heard SIGTERM")
	trace.expect(name, "up")
}

// The rules hold where nobody has asked for an end: what a main process that crashes leaves
// behind, and what ignores its signal, is killed where and when they allow it. What must
// not be killed is a unit of its own, shown, and ended by the administrator's word.
func TestRulesHoldForCrashes(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	app := func(name, timeout string) string {
		return name + ":\n\tdaemon: notify\n\tstop-timeout: " + timeout + "\n\trestart-delay: 10ms\n" +
			"\tcommand: PROBE child:backend/ignore:SIGTERM/report:up/run trap report:up notify:READY:1 run\n"
	}
	setRules(t, i, `
- {name: databases-live, when: 'app.name == "db"', do: {kill: never}}
- {name: mail-is-quick, when: 'app.name == "mail"', do: {grace: 300ms}}
`)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", app("db", "300ms"), app("mail", "1h"))))
	for _, name := range []string{"db", "mail"} {
		trace.expect(name, "up")
		trace.expect(name+".backend", "up")
	}
	old, mail := backend(t, i, "db"), backend(t, i, "mail")

	crash(t, i, trace, "mail")
	if exit := ending(t, mail); exit.Signal != "SIGKILL" {
		t.Errorf("what the mail service has left: %s", exit)
	}
	crash(t, i, trace, "db")
	left := fmt.Sprintf("probe.db/leftover.%d", old.Process().PID)
	if ps := i.Tenure("ps", "probe"); !strings.Contains(ps, left) {
		t.Errorf("tenure ps does not show %s:\n%s", left, ps)
	}
	if ended, err := old.Ended(); err != nil || ended {
		t.Errorf("%s has ended: %v, %v", left, ended, err)
	}
	if log := i.Said(); !strings.Contains(log, "must not be killed: process "+fmt.Sprint(old.Process().PID)) {
		t.Errorf("the daemon does not say that it let %s live:\n%s", left, log)
	}
	i.Tenure("stop", "--kill", left)
	if exit := ending(t, old); exit.Signal != "SIGKILL" {
		t.Errorf("%s after tenure stop --kill: %s", left, exit)
	}

	units, _ := history(t, i)
	wantWords(t, "signals to db", signals(units["probe.db"]), []string{"SIGTERM, exit, default for what has ended"})
	wantWords(t, "signals to mail", slices.Compact(signals(units["probe.mail"])), []string{
		"SIGTERM, exit, default for what has ended", "SIGKILL, late, exit, default for what has ended",
	})
	if sent := signals(units[left]); len(sent) < 2 || !strings.HasPrefix(sent[0], "SIGTERM, request, stop") || !strings.HasSuffix(sent[1], "--kill") {
		t.Errorf("signals to %s: %q", left, sent)
	}
	i.Tenure("remove", "--kill", "probe")
}
