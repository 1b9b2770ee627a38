package bench

import (
	"fmt"
	"testing"
	"time"
)

// A command that refreshes commandSnaps snaps may take commandAll: 50 ms for each.
const (
	commandSnaps = 100
	commandAll   = 5 * time.Second
)

// benchCommand refreshes many snaps of one service each in one command.
func benchCommand(b *testing.B, t *table, n int) {
	snaps := commandSnaps
	if n < fullRefreshes {
		snaps = 10
	}
	took := refreshAll(b, snaps)
	t.row(fmt.Sprintf("refresh of %d snaps in one command", snaps), series{took})
	t.aimTime(fmt.Sprintf("refresh of %d snaps in one command", snaps), took, commandAll*time.Duration(snaps)/commandSnaps)
}

// refreshAll is how long one command takes for so many snaps.
func refreshAll(b *testing.B, snaps int) time.Duration {
	b.Helper()
	i := newInstance(b)
	files := packMany(b, i, b.TempDir(), snaps, 1)
	i.Tenure(append([]string{"install", "--dangerous"}, files...)...)
	return timed(i, append([]string{"refresh", "--dangerous"}, files...)...)
}
