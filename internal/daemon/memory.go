package daemon

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"tenure/internal/change"
	"tenure/internal/proc"
)

// quiet is how long after the last change the memory that it took is given back
// to the system. Giving it back costs a collection, some milliseconds.
const quiet = 2 * time.Second

// giveBack gives memory back to the system after changes and requests, which need several
// times what the daemon needs at rest. fit is called whenever what is in use may have become another, and
// drop before memory is given back.
func giveBack(ctx context.Context, engine *change.Engine, asked <-chan struct{}, fit, drop func()) {
	// The start of the daemon is like a change: everything was read.
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	moved := make(chan struct{}, 1)
	go func() {
		for range engine.Subscribe(ctx, engine.Revision()) {
			select {
			case moved <- struct{}{}:
			default:
			}
		}
	}()
	for {
		select {
		case <-moved:
			fit()
			timer.Reset(quiet)
		case <-asked:
			timer.Reset(quiet)
		case <-timer.C:
			drop()
			slim()
			fit()
		case <-ctx.Done():
			return
		}
	}
}

// slim gives back to the system what is not needed at rest. A collection halves stacks of which
// most is not in use: those of who waits for a service have become large when it was adopted.
func slim() {
	for range stackHalvings {
		runtime.GC()
	}
	debug.FreeOSMemory()
	forget()
}

// stackHalvings make a stack of 16 KiB one of 2 KiB, with the collection that gives back.
const stackHalvings = 2

const (
	// sparedAt is how much the heap grows in a gap, in percent of what is in use,
	// before it is collected: a gap needs less than what it gives beyond the usual.
	sparedAt = 100
	// sparedFor is how long a gap is spared. One that is longer waits for a service
	// that takes its time, and that a collection does not make wait longer.
	sparedFor = time.Second
	// startedAt is how much the heap grows in the start, in percent: a daemon that adopts a thousand
	// services needs 13 MiB in the end.
	startedAt = 400
	// room is what the heap may always have before it is collected, in bytes. A change makes some MiB of garbage; where little
	// else is there it would be collected several times, each time with some milliseconds of a processor.
	room = 24 << 20
)

// sparing keeps collections of the heap out of gaps. On a machine that is busy one
// takes longer than everything else that is done there: its threads spin while they
// wait for each other.
//
// It keeps most of them out of the start, too: nearly all that is read there stays.
type sparing struct {
	mu sync.Mutex
	// least is by how many percent the heap grows where all room is taken, usual by how many it does where
	// nothing is spared, and now what was said last.
	least, usual, now int
	starting          bool
	// timer runs while a gap is spared.
	timer *time.Timer
}

// start is told when the start begins, and when it is over.
func (s *sparing) start(begins bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting = begins
	s.set()
}

// set says when the heap is collected, if that is another time than before: to say so stops everything for a moment, and waits for
// a collection that is under way.
func (s *sparing) set() {
	if s.least == 0 {
		s.least = max(1, debug.SetGCPercent(startedAt))
		s.usual, s.now = max(s.least, s.usual), startedAt
	}
	at := s.usual
	switch {
	case s.starting:
		at = startedAt
	case s.timer != nil:
		at = max(sparedAt, s.usual) // A gap that left less room would begin with a collection.
	}
	if at != s.now {
		debug.SetGCPercent(at)
		s.now = at
	}
}

// fit has the heap grow by what there is room for: by less, the more of it is in use.
func (s *sparing) fit() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	s.fitTo(live[0].Value.Uint64())
}

// fitTo is fit where so many bytes are in use.
func (s *sparing) fitTo(live uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usual = max(s.least, growth(live))
	s.set()
}

// growth is by how many percent a heap of so many bytes grows until it is as large as room, in steps, so that it is seldom another.
func growth(live uint64) int {
	const step, most = 50, 300 // The runtime takes 4 MiB for what is in use where it is less.
	if live == 0 || live >= room {
		return 0
	}
	return int(min((room-live)*100/live/step*step, most)) //nolint:gosec // It is no more than most.
}

// gap is told when the first gap begins, and when the last one ends.
func (s *sparing) gap(begins bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !begins {
		s.end()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(sparedFor, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.timer == timer {
			s.end()
		}
	})
	s.timer = timer
	s.set()
}

func (s *sparing) end() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
		s.set()
	}
}

// forget lets go of the program's own pages: most of them are only for the start, when all
// that is linked makes itself ready, and what is needed comes back from the page cache in a
// fraction of a millisecond.
func forget() {
	_ = proc.ForgetProgram() // It only saves memory.
}
