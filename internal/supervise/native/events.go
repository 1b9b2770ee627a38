package native

import (
	"context"
	"iter"
	"sync"

	"tenure/internal/supervise"
)

// backlog is how many events a consumer may be behind.
const backlog = 4096

// bus hands events to all who listen. Sending never waits.
type bus struct {
	mu          sync.Mutex
	subscribers map[*subscriber]struct{}
}

// subscriber is one consumer's queue.
type subscriber struct {
	queue []supervise.Event
	lost  bool
	// wake has an element when the queue may have one.
	wake chan struct{}
}

func newBus() *bus { return &bus{subscribers: make(map[*subscriber]struct{})} }

func (b *bus) send(event supervise.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subscribers {
		if len(s.queue) >= backlog {
			s.lost = true
			continue
		}
		s.queue = append(s.queue, event)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// take empties a queue.
func (b *bus) take(s *subscriber) []supervise.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := s.queue
	s.queue = nil
	if s.lost {
		s.lost = false
		last := events[len(events)-1]
		events = append(events, supervise.Event{Kind: supervise.EventLost, Time: last.Time})
	}
	return events
}

// subscribe listens from the moment of the call until ctx ends.
func (b *bus) subscribe(ctx context.Context) iter.Seq[supervise.Event] {
	s := &subscriber{wake: make(chan struct{}, 1)}
	b.mu.Lock()
	b.subscribers[s] = struct{}{}
	b.mu.Unlock()
	drop := func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subscribers, s)
	}
	stop := context.AfterFunc(ctx, drop)
	return func(yield func(supervise.Event) bool) {
		defer drop()
		defer stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.wake:
			}
			for _, event := range b.take(s) {
				if ctx.Err() != nil || !yield(event) {
					return
				}
			}
		}
	}
}
