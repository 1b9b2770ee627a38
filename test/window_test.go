package test

import (
	"strings"
	"testing"
	"time"

	"tenure/test/rig"
)

// opensAt sets a window that begins at a full minute of the clock that everybody has, and
// gives that moment: some time is left until then.
func opensAt(i *rig.Instance) (opens time.Time, timer string) {
	const left = 10 * time.Second
	for time.Until(opens) < left {
		opens = time.Now().Add(left).Truncate(time.Minute).Add(time.Minute)
		timer = opens.Format("15:04") + "-" + opens.Add(4*time.Hour).Format("15:04")
		i.Tenure("set", "system", "refresh.timer="+timer)
	}
	return opens, timer
}

// A window opens by the clock, and with nothing else that happens: what was released while
// it was closed, and is old enough since, comes then, and not before.
func TestWindowOpensByTheClock(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	s, trace := newShelf(t, i), listen(t, i)
	service := func(version string) string {
		return probeSnap(t, i, probeYAML(version, "\nweb:\n\tdaemon: notify\n\tcommand: PROBE trap env:SNAP_REVISION notify:READY:1 run\n"))
	}
	_, closed := windows(time.Now())
	i.Tenure("set", "system", "refresh.timer="+closed, "refresh.minimum-age=3s")
	s.release(service("1"), "probe_7", long(time.Hour))
	i.Tenure("install", "probe")
	trace.expect("web", "env SNAP_REVISION=7")
	next := service("2")

	opens, timer := opensAt(i)
	// The daemon has looked, and there was nothing.
	s.release(next, "probe_8", time.Now())
	if u := update(t, i, "probe"); u.Revision != "8" || !u.Due.Equal(opens) || !strings.Contains(u.Why, timer) {
		t.Errorf("the update before the window opens at %s: %+v", opens, u)
	}
	pause(t, time.Until(opens))
	change := byItself(t, i, "auto-refresh", "probe")
	t.Logf("the refresh begins %s after the window opens", change.Spawned.Sub(opens))
	if change.Spawned.Before(opens) {
		t.Errorf("the window opens at %s, and the refresh began at %s", opens, change.Spawned)
	}
	if status := endOf(t, i, change.ID); status != "Done" {
		t.Errorf("the change is %s", status)
	}
	trace.expect("web", "heard SIGTERM", "env SNAP_REVISION=8")
	trace.silent("web")
	if now := current(t, i, "probe"); now.Revision != "8" {
		t.Errorf("now: %+v", now)
	}
	if all, err := i.Client().Changes(t.Context(), "all", "probe"); err != nil || len(all) != 2 {
		t.Errorf("there was the installation and one refresh: %+v, %v", all, err)
	}
}
