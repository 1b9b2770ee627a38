package bench

import (
	"testing"
	"time"

	"tenure/test/rig"
)

// The target of the gap is gapFactor times the floor and gapMargin.
const (
	gapFactor = 1.5
	gapMargin = 5 * time.Millisecond
	// lifeTarget is what hello itself may take to start, and to stop, for the gap
	// to say anything of the supervisor.
	lifeTarget = 5 * time.Millisecond
)

// benchRefresh is the gap of a refresh of hello: from the last answer of the old
// process to the first of the new, against the same by hand, in turns.
func benchRefresh(b *testing.B, t *table, n int) {
	i := rig.New(b, rig.Config{Disk: true})
	files := []string{snap(b, 1), snap(b, 2)}
	i.Tenure("install", "--dangerous", files[0])
	served := poll(b, i.Path("var/snap/hello/common/hello.sock"))
	served.next(b, rig.Patience)

	hand := newByHand(b, b.TempDir(), files[0])
	hand.start(b)
	floor := poll(b, hand.socket)
	floor.next(b, rig.Patience)

	var floors, gaps, starts, stops, commands series
	for k := range n {
		ending, began := hand.restart(b)
		h := floor.next(b, rig.Patience)
		floors.add(h.gap())
		stops.add(ending)
		starts.add(h.first.Sub(began))

		commands.add(timed(i, "refresh", "--dangerous", files[(k+1)%len(files)]))
		gaps.add(served.next(b, rig.Patience).gap())
	}
	t.row("hello alone: SIGTERM to its end", stops)
	t.row("hello alone: exec to its first answer", starts)
	t.row("floor of the gap, by hand", floors)
	t.row("gap of a refresh", gaps)
	t.row("refresh hello, whole command", commands)
	target := time.Duration(gapFactor*float64(floors.median())) + gapMargin
	t.holdTime("hello stops, median", stops.median(), lifeTarget)
	t.holdTime("hello starts, median", starts.median(), lifeTarget)
	t.holdTime("gap of a refresh, median, against 1.5 x floor + 5 ms", gaps.median(), target)
	t.holdTime("gap of a refresh, median, against 1.1 x floor + 2 ms (to come)", gaps.median(), time.Duration(1.1*float64(floors.median()))+2*time.Millisecond)
}
