package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tenure/test/rig"
)

// A first install whose service cannot start leaves nothing, though the service has
// left a child behind: no unit, mount, file or log; and data that was there before.
func TestFailedInstallLeavesNothing(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	result := i.Try("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
careless:
	daemon: notify
	command: PROBE child say:no.configuration wait:100ms exit:7
	stop-mode: sigterm
	restart-condition: never
`)))
	if result.Status == 0 || !strings.Contains(result.Stderr, "no.configuration") || !strings.Contains(result.Stderr, "exit status 7") {
		t.Errorf("install: status %d, it says %s", result.Status, result.Stderr)
	}
	trace.expect("careless.child", "up", "heard SIGTERM")
	if units := i.Units(); len(units) > 0 {
		t.Errorf("units %v are left", units)
	}
	for _, pattern := range []string{"snap/probe", "var/snap/probe/*", "var/lib/tenure/snaps/*", "var/lib/tenure/logs/*"} {
		found, err := filepath.Glob(i.Path(pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			if path != i.Common("probe") {
				t.Errorf("%s is left", path)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(i.Common("probe"), "trace")); err != nil {
		t.Errorf("data of before is gone: %v", err)
	}
	for _, point := range rig.Mounts(i.Root) {
		t.Errorf("mount %s is left", point)
	}
}

// A refresh whose service cannot start ends as it began: with the old revision, and
// with what it had left behind; what the new one has left behind ends.
func TestFailedRefreshEndsWhatItHasStarted(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	trace := listen(t, i)
	const good = `
careless:
	daemon: notify
	command: PROBE trap child:one report:up notify:READY:1 run
	stop-mode: sigterm
`
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", good)))
	trace.expect("careless", "up")
	trace.expect("careless.one", "up")
	i.Tenure("restart", "probe")
	trace.expect("careless", "heard SIGTERM", "up")
	trace.expect("careless.one", "up")
	old := leftover(t, i, "probe.careless")
	result := i.Try("refresh", "--dangerous", probeSnap(t, i, probeYAML("2", `
careless:
	daemon: notify
	command: PROBE child:two wait:100ms exit:7
	stop-mode: sigterm
	restart-condition: never
`)))
	if result.Status == 0 {
		t.Error("a refresh to what cannot start is no error")
	}
	trace.expect("careless", "heard SIGTERM", "up")
	trace.expect("careless.one", "up")
	trace.expect("careless.two", "up", "heard SIGTERM")
	trace.silent("careless.two", "careless.one")
	units := i.Units()
	for name, unit := range units {
		if unit.Revision != "x1" {
			t.Errorf("%s is on %s", name, unit.Revision)
		}
	}
	if _, alive := units[old]; !alive || len(units) != 3 {
		t.Errorf("units %v, want the service, %s and the leftover of the refresh", units, old)
	}
	if _, err := os.Stat(i.Path("snap/probe/x2")); err == nil {
		t.Error("x2 is left")
	}
}
