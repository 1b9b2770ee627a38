package refresh

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
)

// mends is what a disk has refused and has to be done all the same, by its names: what a failed change has left
// behind, or could not put back.
type mends struct {
	mu   sync.Mutex
	todo map[string]func(context.Context) error
	news signal
}

func newMends() mends {
	return mends{todo: map[string]func(context.Context) error{}, news: make(signal, 1)}
}

// mend has f tried until it succeeds, in place of what has that name already.
func (m *Manager) mend(name string, f func(context.Context) error) {
	m.mends.mu.Lock()
	m.mends.todo[name] = f
	m.mends.mu.Unlock()
	m.mends.news.raise()
}

// Mend tries again what could not be done, until ctx ends. As long as there is nothing it waits.
func (m *Manager) Mend(ctx context.Context) error {
	for {
		select {
		case <-m.mends.news:
		case <-ctx.Done():
			return nil
		}
		for m.tryMends(ctx) > 0 {
			select {
			case <-time.After(again):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// tryMends returns how much is left.
func (m *Manager) tryMends(ctx context.Context) int {
	m.mends.mu.Lock()
	todo := maps.Clone(m.mends.todo)
	clear(m.mends.todo)
	m.mends.mu.Unlock()
	left := 0
	for name, f := range todo {
		if err := f(ctx); err == nil {
			m.cfg.Logger.InfoContext(ctx, "done after all", slog.String("what", name))
			continue
		}
		left++
		m.mends.mu.Lock()
		if _, newer := m.mends.todo[name]; !newer {
			m.mends.todo[name] = f
		}
		m.mends.mu.Unlock()
	}
	return left
}

var errWorkedOn = errors.New("a change works on it")

// between runs f while no change works on snaps, and none can begin.
func (m *Manager) between(ctx context.Context, snaps []tenure.Instance, f func() error) error {
	release, err := m.claims.take(ctx, snaps...)
	if err != nil {
		return err
	}
	defer release()
	for _, snap := range snaps {
		for _, c := range m.engine.List(change.Filter{Select: change.All, Snap: snap}) {
			if c.Holds {
				return errWorkedOn
			}
		}
	}
	return f()
}

// mendLinks makes the links and commands of a snap those that its state says, after a switch that has stopped half-way.
func (m *Manager) mendLinks(tried linkParams) {
	m.mend("the links of "+string(tried.Snap), func(ctx context.Context) error {
		return m.between(ctx, []tenure.Instance{tried.Snap}, func() error {
			state, err := m.snaps.Get(tried.Snap)
			if err != nil {
				return err
			}
			if state == nil {
				state = &snapState{Instance: tried.Snap}
			}
			p := linksOf(state)
			p.FromApps = append(append(p.FromApps, tried.FromApps...), tried.ToApps...)
			return m.link(p)
		})
	})
}

// removeStaged removes a file that a change may have taken.
func (m *Manager) removeStaged(path string) {
	if removeExisting(path) != nil {
		m.mend("the removal of "+path, func(context.Context) error { return removeExisting(path) })
	}
}
