package test

import (
	"testing"
	"time"

	"tenure/test/rig"
)

// A hold of one snap, and one of all, runs out; then what was held comes by itself, and not
// before. Seconds stand for days.
func TestHoldsRunOut(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s, trace := newShelf(t, i), listen(t, i)
	service := func(version string) string {
		return probeSnap(t, i, probeYAML(version, "\nweb:\n\tdaemon: notify\n\tcommand: PROBE trap env:SNAP_REVISION notify:READY:1 run\n"))
	}
	open, _ := windows(time.Now())
	i.Tenure("set", "system", "refresh.timer="+open, "refresh.hold=forever")
	s.release(service("1"), "probe_7", long(time.Hour))
	i.Tenure("install", "probe")
	trace.expect("web", "env SNAP_REVISION=7")
	var seen []string
	for _, step := range []struct {
		hold    []string
		file    string
		version string
	}{
		{[]string{"refresh", "--hold=3s", "probe"}, "probe_8", "8"},
		{[]string{"refresh", "--hold=3s"}, "probe_9", "9"},
	} {
		begun := time.Now()
		i.Tenure(step.hold...)
		s.release(service(step.version), step.file, long(time.Minute))
		if step.file == "probe_8" {
			i.Tenure("unset", "system", "refresh.hold")
		}
		i.Tenure("set", "system", "refresh.retain=3") // Any change is a reason to look.
		change := byItself(t, i, "auto-refresh", "probe", seen...)
		if held := change.Spawned.Sub(begun); held < 3*time.Second {
			t.Errorf("%v: revision %s came after %s", step.hold, step.version, held)
		}
		if status := endOf(t, i, change.ID); status != "Done" {
			t.Fatalf("%v: the change is %s", step.hold, status)
		}
		trace.expect("web", "heard SIGTERM", "env SNAP_REVISION="+step.version)
		seen = append(seen, change.ID)
	}
}
