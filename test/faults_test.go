package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tenure/client"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// classic makes of the YAML of a probe that of one which may do what root may.
func classic(yaml string) string {
	return strings.Replace(yaml, "confinement: strict", "confinement: classic", 1)
}

// A main process that moves itself out of its control group is the main process: for the next
// daemon, for a stop, which ends it and what it has forked out there, and for a removal.
func TestAMainProcessLeavesItsGroup(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	name := filepath.Base(i.Root) + "-outside"
	outside := group(t, name)
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeGroup(t, name) })
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", "--classic", probeSnap(t, i, classic(probeYAML("1", `
gone:
	daemon: notify
	stop-timeout: 1s
	restart-condition: never
	command: PROBE trap join:`+outside+` child report:up notify:READY:1 run
`, `
deaf:
	daemon: notify
	stop-timeout: 200ms
	restart-condition: never
	command: PROBE ignore:SIGTERM join:`+outside+` report:up notify:READY:1 run
`))))
	trace.expect("gone", "up")
	trace.expect("gone.child", "up")
	trace.expect("deaf", "up")
	before := i.Main("probe.gone")
	i.Kill()
	i.Start()
	if after := i.Main("probe.gone"); after != before {
		t.Errorf("the main process was %v and is %v", before, after)
	}
	if seen := i.Units()["probe.gone"].Processes; len(seen) != 2 || seen[0].PID != before.PID {
		t.Errorf("of %v and its child %+v are shown", before, seen)
	}
	i.Tenure("stop", "probe")
	trace.expect("gone", "heard SIGTERM")
	trace.expect("gone.child", "heard SIGTERM")
	trace.expect("deaf", "heard SIGTERM")
	if left, err := proc.GroupAt(outside).Processes(); err != nil || len(left) > 0 {
		t.Errorf("after the stop there are %v, %v", left, err)
	}
	i.Tenure("start", "probe.deaf")
	trace.expect("deaf", "up")
	i.Tenure("remove", "probe")
	if left, err := proc.GroupAt(outside).Processes(); err != nil || len(left) > 0 {
		t.Errorf("after the removal there are %v, %v", left, err)
	}
}

// What a hook leaves in the background, by a double fork and a session of its own, does not hold
// its change up, and ends with it.
func TestWhatAHookLeavesBehindEnds(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	forks := map[string]string{}
	for _, name := range []string{"install", "pre-refresh", "post-refresh", "remove"} {
		forks[name] = `(setsid sh -c 'trap "" HUP; sleep infinity & wait' </dev/null >/dev/null 2>&1 &) &`
	}
	i.Tenure("install", "--dangerous", hooked(t, i, forks))
	i.Tenure("refresh", "--dangerous", hooked(t, i, forks))
	for _, g := range i.Groups() {
		if len(g.PIDs) > 0 && !strings.HasPrefix(filepath.Base(g.Path), "served.") && !i.Systemd() {
			t.Errorf("%s has processes %v", g.Path, g.PIDs)
		}
	}
	for name := range i.Units() {
		if name != "hooked.served" {
			t.Errorf("%s lives", name)
		}
	}
	i.Tenure("remove", "--purge", "hooked")
	await(t, i.Path("snap"), func() bool {
		_, err := os.Stat(i.Path("snap/hooked"))
		return os.IsNotExist(err)
	})
}

// A service forks for as long as there is room, deaf to SIGTERM: the daemon answers, others run on,
// and a stop ends all of it.
func TestAForkBombIsStopped(t *testing.T) {
	t.Parallel()
	const most = "60"
	pids := boundBy(t, "pids")
	pids.set("pids.max", most)
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", "--classic", probeSnap(t, i, classic(probeYAML("1", `
bomb:
	daemon: simple
	install-mode: disable
	stop-timeout: 200ms
	command: PROBE join:`+pids.dir+` bomb
`, `
other:
	daemon: notify
	command: PROBE trap report:up notify:READY:1 run
`))))
	trace.expect("other", "up")
	other := i.Main("probe.other")
	for round := range 2 {
		i.Tenure("start", "probe.bomb")
		trace.expect("bomb", "lit")
		i.Await("probe.bomb", "is many", func(u client.Unit) bool { return len(u.Processes) > 4 })
		if round == 1 {
			i.Kill()
			i.Start()
		}
		i.Tenure("ps")
		i.Tenure("stop", "probe.bomb")
		if unit, lives := i.Units()["probe.bomb"]; lives {
			t.Errorf("after its stop there is %+v", unit)
		}
	}
	if after := i.Main("probe.other"); after != other {
		t.Errorf("the other service was %v and is %v", other, after)
	}
	i.Tenure("start", "probe.bomb")
	trace.expect("bomb", "lit", "lit")
	i.Tenure("remove", "probe")
}

// A service writes as fast as it can: others' logs have each of their lines, and neither memory nor
// disk of the daemon and the holder grow with what it writes. It is stopped as any other.
func TestAFloodOfOutput(t *testing.T) {
	t.Parallel()
	const lines, memory, disk = 300, 64 << 20, 10 << 20
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
flood:
	daemon: notify
	command: PROBE trap flood notify:READY:1 run
`, fmt.Sprintf(`
talker:
	daemon: notify
	command: PROBE trap report:up notify:READY:1 run lines:1-%d run
`, lines))))
	trace.expect("talker", "up")
	f := follow(t, i, "-n", "all", "probe.talker")
	signalTo(t, i.Main("probe.talker"), "SIGUSR1")
	for n := 1; n <= lines; n++ {
		if got, want := f.next(), fmt.Sprintf("line %d of a service that has something to say", n); got != want {
			t.Fatalf("followed %q, want %q", got, want)
		}
	}
	for what, pid := range map[string]int{"daemon": i.PID(), "holder": i.Holder()} {
		if info, err := proc.Read(pid); err != nil || info.Memory > memory {
			t.Errorf("the %s has %d bytes of memory, %v", what, info.Memory, err)
		}
	}
	i.Tenure("stop", "probe.flood")
	trace.expect("flood", "heard SIGTERM")
	if size := sizeOf(t, i.Path("var/lib/tenure/logs")); size > 2*disk {
		t.Errorf("the logs have %d bytes", size)
	}
}

// inMemory is YAML of a service, in a control group that bounds its memory.
func inMemory(group, steps string) string {
	return `
served:
	daemon: notify
	restart-condition: on-failure
	restart-delay: 10ms
	command: PROBE trap join:` + group + ` ` + steps + `
`
}

// The kernel kills for want of memory: a new revision that it kills while it starts is undone,
// what it kills while it is told to end has ended, and what runs is started again by its
// condition. The timeline does not take it for a kill of Tenure's, and the error says what to do.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	memory := boundBy(t, "memory")
	memory.set("memory.limit_in_bytes", "64M")
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	install := func(verb, version, steps string) rig.Result {
		return i.Try(verb, "--dangerous", "--classic", probeSnap(t, i, classic(probeYAML(version, inMemory(memory.dir, steps)))))
	}
	if result := install("install", "1", "report:up notify:READY:1 run eat"); result.Status != 0 {
		t.Fatalf("%+v", result)
	}
	trace.expect("served", "up")
	result := install("refresh", "2", "report:new eat")
	if result.Status == 0 || !strings.Contains(result.Stderr, "SIGKILL") || !strings.Contains(result.Stderr, "out of memory") {
		t.Errorf("a new revision that takes all memory: %+v", result)
	}
	// The old one has eaten, too, when it was told to end. The new one may have been started
	// once more by its condition, before the change has ended it.
	trace.expect("served", "heard SIGTERM", "eats", "new", "eats")
	next := trace.next("served")
	for ; next == "new" || next == "eats"; next = trace.next("served") {
	}
	if next != "up" {
		t.Fatalf("the old revision reports %q", next)
	}
	main := i.Main("probe.served")
	signalTo(t, main, "SIGUSR1")
	trace.expect("served", "heard SIGUSR1", "eats", "up")
	if unit := i.Units()["probe.served"]; unit.Revision != "x1" {
		t.Errorf("the service is %+v", unit)
	}
	t.Log(i.Tenure("timeline", "probe"))
	if result := install("refresh", "3", "report:up notify:READY:1 run"); result.Status != 0 {
		t.Errorf("%+v", result)
	}
	trace.expect("served", "heard SIGTERM", "eats", "up")
}
