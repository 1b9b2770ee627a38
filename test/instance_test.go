package test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"tenure"
	"tenure/client"
	"tenure/test/rig"
)

func templateYAML(version string) string {
	return fmt.Sprintf(`
name: named
version: '%s'
base: debian12
apps:
  manager:
    command: bin/obey manager
    daemon: simple
  vm:
    command: bin/idle as a vm
    daemon: simple
    lifecycle: {instances: true}
  worker:
    command: bin/idle as a worker
    daemon: simple
    restart-condition: always
    lifecycle: {instances: true, refresh: restart}
`, version)
}

// errWritten ends the reading of a log.
var errWritten = errors.New("it has been written")

// wrote waits until a unit has written something a number of times.
func wrote(t *testing.T, i *rig.Instance, unit, want string, times int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	var lines []string
	err := i.Client().Logs(ctx, []string{unit}, -1, true, func(line client.Log) error {
		lines = append(lines, line.Message)
		if strings.Contains(line.Message, want) {
			times--
		}
		if times == 0 {
			return errWritten
		}
		return nil
	})
	if !errors.Is(err, errWritten) {
		t.Fatalf("%s has not written %q often enough: %v, %q", unit, want, err, lines)
	}
}

// died kills the main process of a unit, and waits until it has another.
func died(t *testing.T, i *rig.Instance, unit string) {
	t.Helper()
	before := i.Main(unit)
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := rig.Gone(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	if again := i.Main(unit); again == before {
		t.Fatalf("%s is not started again", unit)
	}
}

// Each instance of a template is a service of its own: with its arguments, on the
// revision that it was started from, and for as long as it is asked to be there.
func TestInstancesOfATemplate(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s := newServant(t, i, "named", "manager")
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), obedientSnap(t, i, templateYAML("1")))
	units := func() (names map[string]string) {
		names = map[string]string{}
		for name, unit := range i.Units() {
			names[name] = unit.Revision
		}
		return names
	}
	same(t, "units of the fresh snap", map[string]string{"named.manager": "x1"}, units())
	if out := i.Tenure("services", "named"); !strings.Contains(out, "template") {
		t.Errorf("services: %s", out)
	}
	i.Tenure("start", "named.vm@web1", "--", "-m", "two words")
	i.Tenure("start", "--enable", "named.worker@a", "--", "--fast")
	s.do("snapctl start named.vm@inner -- 'from inside'")
	same(t, "units", map[string]string{"named.manager": "x1", "named.vm@web1": "x1", "named.worker@a": "x1", "named.vm@inner": "x1"}, units())
	for unit, want := range map[string]string{"named.vm@web1": "as a vm -m two words", "named.worker@a": "as a worker --fast", "named.vm@inner": "as a vm from inside"} {
		wrote(t, i, unit, want, 1)
	}
	web := i.Main("named.vm@web1")
	i.Tenure("start", "named.vm@web1")
	same(t, "vm@web1 after it was started once more", web, i.Main("named.vm@web1"))
	s.do("snapctl stop named.vm@inner")
	died(t, i, "named.worker@a")
	i.Kill()
	i.Start()
	same(t, "vm@web1 after the death of the daemon", web, i.Main("named.vm@web1"))

	next := obedientSnap(t, i, templateYAML("2"))
	plan := onePlan(hall{Instance: i, t: t}, "plan", "refresh", "--dangerous", next)
	same(t, "verdicts", map[string]tenure.Verdict{
		"named.manager": tenure.Restart, "named.vm@web1": tenure.Endure, "named.worker@a": tenure.Restart,
	}, verdicts(plan))
	i.Tenure("refresh", "--dangerous", next)
	same(t, "vm@web1 after the refresh", web, i.Main("named.vm@web1"))
	died(t, i, "named.vm@web1")
	wrote(t, i, "named.vm@web1", "as a vm -m two words", 2)
	same(t, "units after the refresh", map[string]string{"named.manager": "x2", "named.vm@web1": "x1", "named.worker@a": "x2"}, units())
	i.Tenure("restart", "named.vm@web1")
	wrote(t, i, "named.vm@web1", "as a vm -m two words", 3)
	same(t, "units after the restart", map[string]string{"named.manager": "x2", "named.vm@web1": "x2", "named.worker@a": "x2"}, units())
	i.Tenure("stop", "named.vm")
	i.Tenure("start", "named.vm@web1")
	wrote(t, i, "named.vm@web1", "as a vm -m two words", 4)

	reboot(t, i)
	same(t, "units after a start of the machine", map[string]string{"named.manager": "x2", "named.worker@a": "x2"}, units())
	wrote(t, i, "named.worker@a", "x2/bin/idle as a worker --fast", 1)
	i.Tenure("disable", "named")
	same(t, "units of the disabled snap", map[string]string{}, units())
	i.Tenure("enable", "named")
	same(t, "units of the enabled snap", map[string]string{"named.manager": "x2", "named.worker@a": "x2"}, units())
	i.Tenure("stop", "--disable", "named.worker@a")
	i.Tenure("start", "named")
	same(t, "units without worker@a", map[string]string{"named.manager": "x2"}, units())
	i.Tenure("start", "named.worker@b")
	i.Tenure("remove", "named")
	same(t, "units of the removed snap", map[string]string{}, units())
}

func TestInstancesThatCannotBe(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s := newServant(t, i, "named", "manager")
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"), obedientSnap(t, i, templateYAML("1")))
	i.Tenure("start", "named.vm@web1", "--", "one")
	for _, test := range []struct {
		why  string
		args []string
	}{
		{"named.vm is a template; name an instance of it: named.vm@NAME", []string{"start", "named.vm"}},
		{"is no template", []string{"start", "named.manager@x"}},
		{"no service", []string{"start", "named.other@x"}},
		{"invalid name", []string{"start", "named.vm@../x"}},
		{"invalid name", []string{"start", "named.vm@"}},
		{"it runs with other arguments; stop it first", []string{"start", "named.vm@web1", "--", "two"}},
		{"arguments are for the start of a single instance", []string{"start", "named.manager", "--", "x"}},
		{"arguments are for the start of a single instance", []string{"start", "named.vm@a", "named.vm@b", "--", "x"}},
		{"more than", []string{"start", "named.vm@a", "--", strings.Repeat("x", 100000)}},
		{"there is no such instance", []string{"stop", "named.vm@unknown"}},
		{"there is no such instance", []string{"restart", "named.vm@unknown"}},
		{"before the --", []string{"start", "--", "x"}},
	} {
		if result := i.Try(test.args...); result.Status == 0 || !strings.Contains(result.Stderr, test.why) {
			t.Errorf("tenure %.80v: %+v, want an error with %q", test.args, result, test.why)
		}
	}
	s.refused("snapctl start other.vm@x", "may not start other.vm@x")
	i.Tenure("stop", "named.vm")
	if _, runs := i.Units()["named.vm@web1"]; runs {
		t.Error("vm@web1 runs after its template was stopped")
	}
	i.Tenure("stop", "named.vm")
	if i.Main("named.manager").PID == 0 {
		t.Error("the manager was stopped with a template that has no instance")
	}
}
