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
	// commandTarget is what the install or the refresh of a small snap may take as a whole.
	commandTarget = 60 * time.Millisecond
)

// benchRefresh is the gap of a refresh of hello: from the last answer of the old
// process to the first of the new, against the same by hand, in turns.
func benchRefresh(b *testing.B, t *table, n int) {
	files := []string{snap(b, 1), snap(b, 2)}
	i := newHello(b, files[0])
	served := poll(b, i.Path("var/snap/hello/common/hello.sock"), oneEvery)

	hand := newByHand(b, b.TempDir(), files[0])
	hand.start(b)
	floor := poll(b, hand.socket, oneEvery)

	var floors, gaps, starts, stops, commands series
	refresh := func(k int) time.Duration { return timed(i, "refresh", "--dangerous", files[(k+1)%len(files)]) }
	for k := range n {
		floor.begin(b)
		ending, began := hand.restart(b)
		h := floor.next(b)
		floors.add(h.gap())
		stops.add(ending)
		starts.add(h.first.Sub(began))

		served.begin(b)
		refresh(k)
		gaps.add(served.next(b).gap())
	}
	for k := n; k < 2*n; k++ {
		commands.add(refresh(k)) // With nobody who asks.
	}
	t.row("hello alone: SIGTERM to its end", stops)
	t.row("hello alone: exec to its first answer", starts)
	t.row("floor of the gap, by hand", floors)
	t.row("gap of a refresh", gaps)
	t.row("refresh hello, whole command", commands)
	t.aimTime("refresh of a small local snap, median", commands.median(), commandTarget)
	t.holdTime("hello stops, median", stops.median(), lifeTarget)
	t.holdTime("hello starts, median", starts.median(), lifeTarget)
	t.holdTime("gap of a refresh, median, against 1.5 x floor + 5 ms", gaps.median(), gapTarget(floors))
	t.aimTime("gap of a refresh, median, against 1.1 x floor + 2 ms", gaps.median(), time.Duration(1.1*float64(floors.median()))+2*time.Millisecond)
}

// newHello is an instance with hello in it.
func newHello(b *testing.B, file string) *rig.Instance {
	b.Helper()
	i := newInstance(b)
	i.Tenure("install", "--dangerous", file)
	return i
}

// gapTarget is what a gap may be, given the floors of the same run.
func gapTarget(floors series) time.Duration {
	return time.Duration(gapFactor*float64(floors.median())) + gapMargin
}
