package test

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/test/rig"
)

// A service that has handed over is observed as well: when the next generation fails, the
// refresh is undone although the old one has gone, beside services that notice nothing.
func TestObservedHandOverIsUndone(t *testing.T) {
	t.Parallel()
	c := confirm(t, rig.Config{})
	c.Tenure("set", "system", "refresh.observe=1h")
	c.changes++
	const handsOver = "\tlifecycle: {refresh: handover}\n\trestart-condition: never\n"
	c.refresh(c.snap("2", steadyService, handsOver))
	before := c.Main("probe.one")
	id := c.refresh(c.snap("3", steadyService, handsOver))
	c.observed(id)
	if err := rig.Gone(t.Context(), before); err != nil {
		t.Errorf("the old generation has not gone: %v", err)
	}
	c.on("x3")
	if err := unix.Kill(c.Main("probe.one").PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if watched := c.Try("watch", id); watched.Status == 0 || !strings.Contains(watched.Stderr, "probe.one ended: killed by SIGKILL, while it was observed for 1h") {
		t.Errorf("watch: status %d, it says %s", watched.Status, watched.Stderr)
	}
	c.on("x2")
	if _, err := os.Lstat(c.Path("snap/probe/x3")); err == nil {
		t.Error("x3 is left")
	}
}
