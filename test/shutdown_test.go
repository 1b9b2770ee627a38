package test

import (
	"path/filepath"
	"testing"

	"tenure/test/rig"
)

// TestShutdownEndsAll ends a whole instance in one command, as its user would: with
// the daemon still there.
func TestShutdownEndsAll(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	tenured := filepath.Join(i.Bin, "tenured")
	for range 2 { // And where there is nothing any more it has nothing to say.
		if got := i.Exec(tenured, "shutdown", "--root", i.Root); got.Status != 0 {
			t.Errorf("exit status %d, %s", got.Status, got.Stderr)
		}
		<-i.Ended()
		if left := rig.Leftovers(i.Root); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}
