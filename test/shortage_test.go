package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure/client"
	"tenure/test/rig"
)

// bound is a control group of version 1 for a daemon and all that it starts.
type bound struct {
	t   *testing.T
	dir string
}

// boundBy makes a group of a controller, whose hierarchy is mounted for that.
func boundBy(t *testing.T, controller string) *bound {
	t.Helper()
	top := t.TempDir()
	if err := unix.Mount("cgroup", top, "cgroup", 0, controller); err != nil {
		t.Fatalf("control groups of version 1 with %s: %v", controller, err)
	}
	b := &bound{t: t, dir: filepath.Join(top, "tenure-test-"+filepath.Base(filepath.Dir(top)))}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(b.dir); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(top, 0); err != nil {
			t.Error(err)
		}
	})
	return b
}

// wrap is what puts a program, and what it starts, into the group.
func (b *bound) wrap() []string {
	return []string{"/bin/sh", "-c", `echo $$ >"$0"/cgroup.procs && exec "$@"`, b.dir}
}

func (b *bound) set(name, value string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(value), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// It runs on after the first SIGTERM, and ends at the second.
//
//nolint:dupword // Two steps.
const stopsInTwo = `
served:
	daemon: notify
	restart-condition: never
	command: PROBE trap report:up notify:READY:1 run run
`

// A machine that is out of processes in the gap of a refresh: the refresh is undone, and what ran
// before runs again as soon as there is room for it, whatever its restart-condition. Neither
// the daemon nor the holder ends for it, and the error says what to do.
func TestOutOfProcesses(t *testing.T) {
	t.Parallel()
	pids := boundBy(t, "pids")
	i := rig.New(t, rig.Config{Wrap: pids.wrap()})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", stopsInTwo)))
	trace.expect("served", "up")
	daemon, holder, before := i.PID(), i.Holder(), i.Main("probe.served")
	second := probeSnap(t, i, probeYAML("2", stopsInTwo))
	refused := func() {
		t.Helper()
		result := i.Try("install", "--dangerous", "--name", "probe_other", second)
		if result.Status == 0 || !strings.Contains(result.Stderr, "out of processes") || !strings.Contains(result.Stderr, "kernel.pid_max") {
			t.Errorf("an installation: %+v", result)
		}
	}
	if i.Systemd() {
		// The daemon has systemd fork for it, but for the child that reads snap files.
		pids.set("pids.max", "1")
		refused()
		pids.set("pids.max", "max")
		i.Tenure("refresh", "--no-wait", "--dangerous", second)
		trace.expect("served", "heard SIGTERM")
		signalTo(t, before, "SIGUSR1")
		trace.expect("served", "heard SIGUSR1", "up")
		endAtOnce(t, i, trace)
		return
	}

	id := strings.TrimSpace(i.Tenure("refresh", "--no-wait", "--dangerous", second))
	trace.expect("served", "heard SIGTERM")
	pids.set("pids.max", "1")
	signalTo(t, before, "SIGUSR1")
	trace.expect("served", "heard SIGUSR1")
	awaitLog(t, i, id, "it is tried again until there is room")
	// Nothing can be begun now, and nothing is left of it.
	refused()
	pids.set("pids.max", "max")
	result := i.Try("watch", id)
	if result.Status == 0 || !strings.Contains(result.Stderr, "out of processes") || !strings.Contains(result.Stderr, "kernel.pid_max") {
		t.Errorf("the refresh: %+v", result)
	}
	trace.expect("served", "up")
	if unit := i.Units()["probe.served"]; unit.Revision != "x1" || unit.State != "running" {
		t.Errorf("the service is %+v", unit)
	}
	// Restarted with a shortage, it is down no longer than that.
	before = i.Main("probe.served")
	restart := make(chan rig.Result, 1)
	go func() { restart <- i.Try("restart", "probe") }()
	trace.expect("served", "heard SIGTERM")
	pids.set("pids.max", "1")
	signalTo(t, before, "SIGUSR1")
	trace.expect("served", "heard SIGUSR1")
	i.Await("probe.served", "has failed", func(u client.Unit) bool { return u.State != "running" && u.State != "stopping" })
	pids.set("pids.max", "max")
	<-restart // It has failed, unless there was room before the daemon looked.
	trace.expect("served", "up")
	if after := i.Main("probe.served"); after == before {
		t.Errorf("the service was not restarted")
	}
	if i.PID() != daemon || i.Holder() != holder {
		t.Error("the daemon or the holder has ended meanwhile")
	}
	select {
	case <-i.Ended():
		t.Errorf("the daemon has ended: %s", i.Said())
	default:
	}
	endAtOnce(t, i, trace)
}

// awaitLog waits until a task of a change has said something.
func awaitLog(t *testing.T, i *rig.Instance, id, words string) {
	t.Helper()
	patience := time.After(rig.Patience)
	for {
		said := i.Tenure("tasks", id)
		if strings.Contains(said, words) {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-i.Ended():
			t.Fatalf("the daemon has ended: %s", i.Said())
		case <-patience:
			t.Fatalf("the change never says %q:\n%s", words, said)
		}
	}
}

// A daemon that may open no file more in the gap of a refresh, with callers at its door: it can neither see
// that the service has ended nor start it, goes on when it may again, and answers who has waited.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", stopsInTwo)))
	trace.expect("served", "up")
	before, holder := i.Main("probe.served"), i.Holder()
	id := strings.TrimSpace(i.Tenure("refresh", "--no-wait", "--dangerous", probeSnap(t, i, probeYAML("2", stopsInTwo))))
	trace.expect("served", "heard SIGTERM")
	var limit unix.Rlimit
	if err := unix.Prlimit(i.PID(), unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(i.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: limit.Max}, nil); err != nil {
		t.Fatal(err)
	}
	const missing = "too many open files"
	said := strings.Count(i.Said(), missing)
	signalTo(t, before, "SIGUSR1")
	trace.expect("served", "heard SIGUSR1")
	watched := make(chan rig.Result, 1)
	go func() { watched <- i.Try("watch", id) }()
	awaitSaid(t, i, missing, said)
	if err := unix.Prlimit(i.PID(), unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	result := <-watched
	trace.expect("served", "up")
	// Where it came as far as to start the service, that has failed, and is undone.
	want := "x2"
	if result.Status != 0 {
		want = "x1"
	}
	if unit := i.Units()["probe.served"]; unit.Revision != want || unit.State != "running" {
		t.Errorf("the service is %+v, want %s: %+v", unit, want, result)
	}
	if i.Holder() != holder {
		t.Error("the holder has ended meanwhile")
	}
	endAtOnce(t, i, trace)
}

// endAtOnce has the service of stopsInTwo end when it is told to for the first time.
func endAtOnce(t *testing.T, i *rig.Instance, trace *trace) {
	t.Helper()
	signalTo(t, i.Main("probe.served"), "SIGUSR1")
	trace.expect("served", "heard SIGUSR1")
}

// awaitSaid waits until the daemon has said something more often than before.
func awaitSaid(t *testing.T, i *rig.Instance, words string, before int) {
	t.Helper()
	patience := time.After(rig.Patience)
	for strings.Count(i.Said(), words) <= before {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-i.Ended():
			t.Fatalf("the daemon has ended: %s", i.Said())
		case <-patience:
			t.Fatalf("the daemon never says %q: %s", words, i.Said())
		}
	}
}

// Without an inotify watch that is left, all works that worked, also what waits for the end of
// the last process of a group. Without an instance the daemon does not start, says what to do, and
// touches nothing that runs.
func TestOutOfInotify(t *testing.T) {
	t.Parallel()
	refusing := func(what string) []string { return []string{buildProbe(t), "refusing", "forbid:" + what, "become"} }
	i := rig.New(t, rig.Config{Wrap: refusing("inotify_add_watch/ENOSPC")})
	trace := listen(t, i)
	const parent = `
parent:
	daemon: notify
	stop-timeout: 200ms
	command: PROBE trap child:deaf/ignore:SIGTERM/report:up/run child:late/trap/report:up/run/wait:50ms report:up notify:READY:1 run
`
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", parent)))
	for _, name := range []string{"parent", "parent.deaf", "parent.late"} {
		trace.expect(name, "up")
	}
	i.Tenure("refresh", "--dangerous", probeSnap(t, i, probeYAML("2", parent)))
	for _, name := range []string{"parent", "parent.deaf", "parent.late"} {
		trace.expect(name, "heard SIGTERM", "up")
	}
	main := i.Main("probe.parent")
	i.Stop()
	command := append(refusing("inotify_init1/EMFILE"), filepath.Join(i.Bin, "tenured"), "--root", i.Root)
	if result := i.Exec(command[0], command[1:]...); result.Status != 1 || !strings.Contains(result.Stderr, "raise fs.inotify.max_user_instances") {
		t.Errorf("a daemon without inotify: %+v", result)
	}
	i.Start()
	if after := i.Main("probe.parent"); after != main {
		t.Errorf("the main process was %v and is %v", main, after)
	}
	i.Tenure("remove", "probe")
	if left := i.Groups(); len(left) > 0 {
		t.Errorf("after the removal there are groups %v", left)
	}
}
