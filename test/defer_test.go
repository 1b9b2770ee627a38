package test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tenure/client"
	"tenure/test/rig"
)

// database is a snap with a service that asks to be waited for, and never to be
// killed, as a database does.
func database(t *testing.T, i *rig.Instance, version string) string {
	t.Helper()
	return probeSnap(t, i, probeYAML(version, `
db:
	daemon: notify
	command: PROBE trap env:SNAP_REVISION notify:READY:1 run
	restart-condition: always
	lifecycle: {refresh: defer, kill: never}
`))
}

// staging refreshes to the database in a file, which must wait, and gives the change.
func staging(t *testing.T, i *rig.Instance, file string) string {
	t.Helper()
	out := i.Tenure("refresh", "--dangerous", file)
	found := regexp.MustCompile(`^Change (\d+) waits for probe\.db \(\d+ probe\) to end`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("the refresh does not say that it waits:\n%s", out)
	}
	return found[1]
}

// endOf waits for a change to end, and gives its status.
func endOf(t *testing.T, i *rig.Instance, id string) string {
	t.Helper()
	var seen uint64
	for {
		change, err := i.Client().Follow(t.Context(), id, seen)
		if err != nil {
			t.Fatalf("follow change %s: %v", id, err)
		}
		if change.Ready {
			return change.Status
		}
		seen = change.Revision
	}
}

// revisions are the revisions of the snap called probe that are kept.
func revisions(t *testing.T, i *rig.Instance) map[string]client.Snap {
	t.Helper()
	list, err := i.Client().Snaps(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]client.Snap{}
	for _, snap := range list {
		found[snap.Revision] = snap
	}
	return found
}

// A service that asks for it is waited for: the revision is staged, nothing is told
// to the service, whatever becomes of the daemon. The newest staged revision is the
// one that a restart by hand starts.
func TestDeferUntilRestart(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", database(t, i, "1"))
	trace.expect("db", "env SNAP_REVISION=x1")
	before := i.Main("probe.db")
	first := staging(t, i, database(t, i, "2"))
	for _, shown := range []struct{ command, want string }{
		{"list --all", `(?m)^probe +2 +x2 .* staged$`},
		{"changes probe", `(?m)^` + first + ` +Wait .* waiting for probe\.db \(`},
		{"ps probe", fmt.Sprintf(`(?m)probe\.db +service +x1 \(x2 staged\)(.|\n)* %d \*`, before.PID)},
		{"why probe@x2", `(?m)^change ` + first + `$`},
		{"tasks " + first, `Waiting for probe\.db \(`},
	} {
		if out := i.Tenure(strings.Fields(shown.command)...); !regexp.MustCompile(shown.want).MatchString(out) {
			t.Errorf("tenure %s does not match %s:\n%s", shown.command, shown.want, out)
		}
	}
	if running, err := i.Client().Changes(t.Context(), "in-progress", "probe"); err != nil || len(running) > 0 {
		t.Errorf("in progress: %v, %v", running, err)
	}
	i.Kill()
	i.Start()
	if id := strings.TrimSpace(i.Tenure("refresh", "--no-wait", "--dangerous", database(t, i, "3"))); id == first {
		t.Errorf("change %s again", id)
	}
	if status := endOf(t, i, first); status != "Undone" {
		t.Errorf("the older change is %s", status)
	}
	if kept := revisions(t, i); len(kept) != 2 || kept["x3"].StagedBy == "" || !kept["x1"].Current {
		t.Errorf("kept: %+v", kept)
	}
	if now := i.Main("probe.db"); now != before {
		t.Errorf("main process %v, before %v", now, before)
	}
	trace.silent("db")
	i.Tenure("restart", "probe.db")
	trace.expect("db", "heard SIGTERM", "env SNAP_REVISION=x3")
	if kept := revisions(t, i); !kept["x3"].Current || kept["x3"].StagedBy != "" {
		t.Errorf("kept after the restart: %+v", kept)
	}
	i.Tenure("revert", "probe")
}

// A staged revision is what the machine starts.
func TestDeferUntilBoot(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	i.Tenure("install", "--dangerous", database(t, i, "1"))
	trace.expect("db", "env SNAP_REVISION=x1")
	id := staging(t, i, database(t, i, "2"))
	i.Stop()
	if r := i.Exec(filepath.Join(i.Bin, "tenured"), "shutdown", "--root", i.Root); r.Status != 0 {
		t.Fatalf("tenured shutdown: %+v", r)
	}
	trace.expect("db", "heard SIGTERM")
	i.Start()
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the change is %s", status)
	}
	trace.expect("db", "env SNAP_REVISION=x2")
	if unit := i.Units()["probe.db"]; unit.Revision != "x2" || unit.Stale || unit.Staged != "" {
		t.Errorf("after the boot: %+v", unit)
	}
	trace.silent("db")
}

// All other moments that a staged revision waits for.
func TestDeferUntilAnythingElse(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	file := database(t, i, "1")
	i.Tenure("install", "--dangerous", file)
	trace.expect("db", "env SNAP_REVISION=x1")

	id := staging(t, i, file)
	i.Tenure("abort", id)
	if status := endOf(t, i, id); status != "Undone" {
		t.Errorf("the aborted change is %s", status)
	}
	if kept := revisions(t, i); len(kept) != 1 || !kept["x1"].Current {
		t.Errorf("kept after the abort: %+v", kept)
	}
	trace.silent("db")

	staging(t, i, file)
	i.Tenure("refresh", "--now", "probe")
	trace.expect("db", "heard SIGTERM", "env SNAP_REVISION=x3")

	id = staging(t, i, file)
	if err := syscall.Kill(i.Main("probe.db").PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the change is %s after the end of the service", status)
	}
	if unit := i.Units()["probe.db"]; unit.Revision != "x4" {
		t.Errorf("after the end of the service: %+v", unit)
	}

	id = staging(t, i, file)
	i.Tenure("stop", "probe.db")
	i.Tenure("start", "probe.db")
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the change is %s after a stop", status)
	}
	if unit := i.Units()["probe.db"]; unit.Revision != "x5" {
		t.Errorf("after stop and start: %+v", unit)
	}

	id = staging(t, i, file)
	i.Tenure("set", "system", "lifecycle.max-deferral=1s")
	if status := endOf(t, i, id); status != "Done" {
		t.Errorf("the change is %s after the limit", status)
	}
	if unit := i.Units()["probe.db"]; unit.Revision != "x6" {
		t.Errorf("after the limit: %+v", unit)
	}
	i.Tenure("unset", "system", "lifecycle.max-deferral")

	id = staging(t, i, file)
	i.Tenure("remove", "probe")
	if status := endOf(t, i, id); status != "Undone" {
		t.Errorf("the change is %s after the removal", status)
	}
	if kept := revisions(t, i); len(kept) > 0 {
		t.Errorf("kept after the removal: %+v", kept)
	}
}

// What waits for a service goes on waiting when the daemon comes back, also if somebody has
// opened an app meanwhile, which would be in the way only of a change that goes on.
func TestAStagedRevisionWaitsOnWhileAnAppIsOpen(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	pack := func(version string) string {
		return probeSnap(t, i, probeYAML(version, `
db:
	daemon: notify
	command: PROBE trap env:SNAP_REVISION notify:READY:1 run
	lifecycle: {refresh: defer}
`, `
plain:
	command: PROBE say:v`+version+` run
`))
	}
	i.Tenure("install", "--dangerous", pack("1"))
	trace.expect("db", "env SNAP_REVISION=x1")
	id := staging(t, i, pack("2"))
	opened := personRuns(t, i, "plain", "1")
	i.Kill()
	i.Start()
	// The new daemon decides once more, and what waits is no longer staged for that moment.
	lost := time.After(rig.Patience)
	for kept := revisions(t, i); kept["x2"].StagedBy != id; kept = revisions(t, i) {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-lost:
			t.Fatalf("after the death of the daemon: %+v, change %s", kept["x2"], i.Tenure("tasks", id))
		}
	}
	personEnds(t, opened)
	i.Tenure("restart", "probe.db")
	trace.expect("db", "heard SIGTERM", "env SNAP_REVISION=x2")
}
