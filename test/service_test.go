package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"tenure/test/rig"
	"tenure/test/sysbus"
)

// inOrder fails the test unless all of want are among got in that order.
func inOrder(t *testing.T, got []string, want ...string) {
	t.Helper()
	for _, line := range want {
		at := slices.Index(got, line)
		if at < 0 {
			t.Fatalf("%q does not follow in its place", line)
		}
		got = got[at+1:]
	}
}

// Every type of service is ready when its type says, and not before: a service
// that starts after another finds that it has done all that comes before it is
// ready. Stopping goes the other way round.
func TestServiceTypesAndTheirOrder(t *testing.T) {
	t.Parallel()
	address := sysbus.New(t)
	i := rig.New(t, rig.Config{Env: []string{"DBUS_SYSTEM_BUS_ADDRESS=" + address}})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
forking:
	daemon: forking
	command: PROBE wait:50ms report:forks fork trap report:up run
	after: [oneshot]
`, `
oneshot:
	daemon: oneshot
	command: PROBE wait:50ms report:done
`, `
notify:
	daemon: notify
	command: PROBE trap notify:STATUS:busy wait:50ms report:ready notify:READY:1 run
	after: [forking]
`, `
dbus:
	daemon: dbus
	bus-name: org.example.Probe
	command: PROBE trap wait:50ms own:org.example.Probe run
	environment: {DBUS_SYSTEM_BUS_ADDRESS: '`+address+`'}
	after: [notify]
`, `
simple:
	daemon: simple
	command: PROBE trap report:up run
	after: [dbus]
	before: [last]
`, `
last:
	daemon: notify
	command: PROBE trap report:up notify:READY:1 run
`)))
	trace.expect("forking", "forks", "up")
	trace.expect("simple", "up")
	inOrder(t, trace.reports(),
		"oneshot done", "forking forks", "notify ready", "dbus asks for org.example.Probe", "last up")
	inOrder(t, trace.reports(), "dbus asks for org.example.Probe", "simple up")
	if s := service(t, i, "notify"); s.Text != "busy" {
		t.Errorf("notify says %q of itself, want busy", s.Text)
	}
	if main := i.Main("probe.forking"); !strings.Contains(i.Tenure("ps"), fmt.Sprint(main.PID)) {
		t.Errorf("tenure ps does not show %d", main.PID)
	}
	i.Tenure("stop", "probe")
	trace.expect("forking", "heard SIGTERM")
	inOrder(t, trace.reports(),
		"last heard SIGTERM", "simple heard SIGTERM", "dbus heard SIGTERM", "notify heard SIGTERM", "forking heard SIGTERM")
	i.Tenure("start", "probe.dbus")
	trace.expect("dbus", "asks for org.example.Probe", "heard SIGTERM", "asks for org.example.Probe")
}

// Each stop mode sends its own signal, to the main process or to all. What the
// main process alone leaves behind is a leftover, and a stop of it ends it.
func TestStopModes(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	modes := []string{"", "sigterm", "sigterm-all", "sighup", "sighup-all", "sigusr1", "sigusr1-all", "sigusr2", "sigusr2-all", "sigint", "sigint-all"}
	var services []string
	for _, mode := range modes {
		block := "\n" + appFor(mode) + ":\n\tdaemon: notify\n\tcommand: PROBE trap child report:up notify:READY:1 run\n"
		if mode != "" {
			block += "\tstop-mode: " + mode + "\n"
		}
		services = append(services, block)
	}
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", services...)))
	for _, mode := range modes {
		trace.expect(appFor(mode), "up")
		trace.expect(appFor(mode)+".child", "up")
	}
	i.Tenure("stop", "probe")
	for _, mode := range modes {
		name := appFor(mode)
		signal := strings.ToUpper(strings.TrimSuffix(mode, "-all"))
		if signal == "" {
			signal = "SIGTERM"
		}
		trace.expect(name, "heard "+signal)
		if mode == "" || strings.HasSuffix(mode, "-all") {
			trace.expect(name+".child", "heard "+signal)
			continue
		}
		trace.silent(name + ".child")
		left := leftover(t, i, "probe."+name)
		i.Tenure("stop", left)
		trace.expect(name+".child", "heard "+signal)
	}
	for name := range i.Units() {
		t.Errorf("%s still lives", name)
	}
}

// appFor is the name of the service with a stop mode.
func appFor(mode string) string {
	if mode == "" {
		return "unset"
	}
	return mode
}

// leftover is the one unit that a service has left behind.
func leftover(t *testing.T, i *rig.Instance, service string) string {
	t.Helper()
	var found []string
	for name := range i.Units() {
		if strings.HasPrefix(name, service+"/leftover.") {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has left %q, want one leftover", service, found)
	}
	return found[0]
}
