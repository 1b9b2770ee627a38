package test

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tenure"
	"tenure/client"
	"tenure/test/rig"
)

// confirming is a probe of three services on x1, of which the first is refreshed to what
// a test wants, the second endures, and the third is started again.
type confirming struct {
	*rig.Instance

	t       *testing.T
	trace   *trace
	endures tenure.Process
	changes int
}

const (
	steadyService = "PROBE report:up notify:READY:1 run"
	oneMark       = "as x1 has left it\n"
)

func confirm(t *testing.T, cfg rig.Config) *confirming {
	t.Helper()
	cfg.Observe = true
	c := &confirming{Instance: rig.New(t, cfg), t: t}
	c.trace = listen(t, c.Instance)
	c.Tenure("install", "--dangerous", c.snap("1", steadyService, ""))
	c.trace.expect("one", "up")
	c.trace.expect("two", "up")
	c.trace.expect("three", "up")
	write(t, c.Path("var/snap/probe/x1/mark"), oneMark)
	c.endures = c.Main("probe.two")
	c.changes = 1
	return c
}

// snap is a version of the probe, whose first service is one.
func (c *confirming) snap(version, one, more string) string {
	c.t.Helper()
	return probeSnap(c.t, c.Instance, probeYAML(version,
		"one:\n\tdaemon: notify\n\tcommand: "+one+"\n\tstop-timeout: 5s\n"+more,
		"two:\n\tdaemon: notify\n\tcommand: "+steadyService+"\n\trefresh-mode: endure\n",
		"three:\n\tdaemon: notify\n\tcommand: "+steadyService+"\n"))
}

// refresh refreshes to file, which is not to fail before it is observed.
func (c *confirming) refresh(file string) string {
	c.t.Helper()
	c.changes++
	out := c.Tenure("refresh", "--dangerous", file)
	if !strings.Contains(out, "refreshed") || !strings.Contains(out, "probe.one") {
		c.t.Errorf("refresh says %q", out)
	}
	return strconv.Itoa(c.changes)
}

// observed is a change that observes services now.
func (c *confirming) observed(id string) client.Change {
	c.t.Helper()
	change, err := c.Client().Change(c.t.Context(), id)
	if err != nil {
		c.t.Fatal(err)
	}
	if change.Ready || !change.Observed() {
		c.t.Errorf("change %s is %s and waits for %q", id, change.Status, change.Waiting)
	}
	// Who is stopped now is not refreshed.
	running, err := c.Client().Changes(c.t.Context(), "in-progress", "probe")
	if err != nil || slices.ContainsFunc(running, func(other client.Change) bool { return other.ID == id }) {
		c.t.Errorf("in progress are %+v, %v", running, err)
	}
	return change
}

// on fails the test unless the services that were refreshed run from a revision, and the
// other one as if nothing had been.
func (c *confirming) on(revision string) {
	c.t.Helper()
	units := c.Units()
	for name, want := range map[string]string{"probe.one": revision, "probe.two": "x1", "probe.three": revision} {
		if unit := units[name]; unit.Revision != want || unit.State != "running" {
			c.t.Errorf("%s is on %s and %s, want %s", name, unit.Revision, unit.State, want)
		}
	}
	if now := c.Main("probe.two"); now != c.endures {
		c.t.Errorf("what endures is process %v, want %v", now, c.endures)
	}
	if target, err := os.Readlink(c.Path("snap/probe/current")); err != nil || target != revision {
		c.t.Errorf("current is %s, %v; want %s", target, err, revision)
	}
}

// A service that fails after it was ready, by whatever, brings its refresh back: to the
// revision and the data that were there, beside a service that has noticed nothing.
func TestObservedFailureIsUndone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ one, more, want string }{
		"dies":               {"PROBE report:up say:no.luck notify:READY:1 until:observed exit:7", "", "exit status 7"},
		"dies every time":    {"PROBE report:up say:no.luck notify:READY:1 until:observed exit:7", "\trestart-condition: always\n\trestart-delay: 10ms\n", "exit status 7"},
		"ends":               {"PROBE report:up notify:READY:1 until:observed exit:0", "", "exit status 0"},
		"loses its watchdog": {"PROBE report:up notify:READY:1 until:observed run", "\twatchdog-timeout: 1s\n", "exit status 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := confirm(t, rig.Config{})
			id := c.refresh(c.snap("2", test.one, test.more))
			write(t, c.Common("probe")+"/observed", "")
			watched := c.Try("watch", id)
			if watched.Status == 0 || !strings.Contains(watched.Stderr, "probe.one ended") || !strings.Contains(watched.Stderr, test.want) {
				t.Errorf("watch: status %d, it says %s; want %q", watched.Status, watched.Stderr, test.want)
			}
			if strings.Contains(test.one, "say:") && !strings.Contains(watched.Stderr, "no.luck") {
				t.Errorf("watch does not say what the service said: %s", watched.Stderr)
			}
			c.on("x1")
			if mark, err := os.ReadFile(c.Path("var/snap/probe/x1/mark")); err != nil || string(mark) != oneMark {
				t.Errorf("the data of x1 is %q, %v", mark, err)
			}
			for _, path := range []string{"snap/probe/x2", "var/snap/probe/x2", "var/lib/tenure/snaps/probe_x2.snap"} {
				if _, err := os.Lstat(c.Path(path)); err == nil {
					t.Errorf("%s is left", path)
				}
			}
		})
	}
}

// Nothing is collected before a refresh has proved itself, whatever pins it; the window
// is the administrator's where he has set one.
func TestObservedRefreshCollectsAfterwards(t *testing.T) {
	t.Parallel()
	c := confirm(t, rig.Config{})
	c.Tenure("stop", "probe.two")
	c.changes++
	c.refresh(c.snap("2", steadyService, ""))
	c.Tenure("set", "system", "refresh.observe=1s")
	c.changes++
	began := time.Now()
	id := c.refresh(c.snap("3", steadyService, ""))
	if time.Since(began) < time.Second {
		c.observed(id)
		if _, err := os.Stat(c.Path("snap/probe/x1/bin/probe")); err != nil {
			t.Errorf("x1 has gone before x3 has proved itself: %v", err)
		}
	}
	c.Tenure("watch", id)
	if took := time.Since(began); took < time.Second {
		t.Errorf("x3 was observed for %s", took)
	}
	if _, err := os.Stat(c.Path("snap/probe/x1")); err == nil {
		t.Error("x1 is left")
	}
}

// The next request ends an observation, and one that is refused does not.
func TestNextRequestEndsObservation(t *testing.T) {
	t.Parallel()
	c := confirm(t, rig.Config{})
	second := c.refresh(c.snap("2", steadyService, ""))
	if result := c.Try("revert", "--revision=x9", "probe"); result.Status == 0 {
		t.Error("a revert to what there is not is no error")
	}
	c.observed(second)
	third := c.refresh(c.snap("3", steadyService, ""))
	change, err := c.Client().Change(t.Context(), second)
	if err != nil || change.Status != "Done" {
		t.Errorf("change %s is %s, %v", second, change.Status, err)
	}
	c.observed(third)
	c.on("x3")
	c.Tenure("remove", "probe")
	if _, err := os.Lstat(c.Path("snap/probe")); err == nil {
		t.Error("snap/probe is left")
	}
}

// A daemon that dies while it observes goes on with it, also with what has failed
// meanwhile.
func TestObservationOutlivesDaemon(t *testing.T) {
	t.Parallel()
	c := confirm(t, rig.Config{})
	id := c.refresh(c.snap("2", "PROBE report:up trap notify:READY:1 run", "\trestart-condition: never\n"))
	c.trace.expect("one", "up")
	c.observed(id)
	main := c.Main("probe.one")
	c.Kill()
	process, err := os.FindProcess(main.PID)
	if err == nil {
		err = process.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	if err := rig.Gone(ctx, main); err != nil {
		t.Fatal(err)
	}
	c.Start()
	if watched := c.Try("watch", id); watched.Status == 0 || !strings.Contains(watched.Stderr, "probe.one ended") {
		t.Errorf("watch: status %d, it says %s", watched.Status, watched.Stderr)
	}
	c.on("x1")
}

// An end of the machine while a service is observed, or in the middle of a refresh, is
// no failure: what was interrupted goes on at the next start, and not before.
func TestShutdownLeavesChangesAlone(t *testing.T) {
	t.Parallel()
	c := confirm(t, rig.Config{FailPoints: true})
	id := c.refresh(c.snap("2", steadyService, ""))
	c.shutdown()
	c.Start()
	c.endures = c.Main("probe.two")
	c.observed(id)
	if unit := c.Units()["probe.one"]; unit.Revision != "x2" || unit.State != "running" {
		t.Errorf("after the start of the machine: %+v", unit)
	}
	file := c.snap("3", steadyService, "")
	c.Arm(0)
	c.refresh(file)
	passed := c.Disarm()
	c.Tenure("revert", "probe")
	c.changes++
	at := 0
	for n, boundary := range passed {
		if boundary.TaskKind == "start-snap-services" && boundary.Phase == "before-do" {
			at = n + 1
		}
	}
	c.Arm(at)
	if result := c.Try("refresh", "--no-wait", "--dangerous", file); result.Status != 0 {
		t.Errorf("refresh: %s", result.Stderr)
	}
	c.changes++
	<-c.Ended()
	c.Disarm()
	c.shutdown()
	c.Start()
	awaitTurn(t, c.Instance, strconv.Itoa(c.changes), func(change client.Change) bool { return change.Observed() })
	if unit := c.Units()["probe.one"]; unit.Revision != "x4" || unit.State != "running" {
		t.Errorf("after the start of the machine: %+v", unit)
	}
}

// shutdown ends the machine, so to speak: nothing runs and nothing is mounted.
func (c *confirming) shutdown() {
	c.t.Helper()
	c.Kill()
	if result := c.Exec(c.Bin+"/tenured", "shutdown", "--root", c.Root); result.Status != 0 {
		c.t.Fatalf("shutdown: %s", result.Stderr)
	}
	for _, left := range rig.Leftovers(c.Root) {
		c.t.Errorf("left by shutdown: %s", left)
	}
}
