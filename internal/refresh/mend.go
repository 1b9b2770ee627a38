package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
)

// mends is what a disk has refused and has to be done all the same, by its names: what a failed change has left
// behind, or could not put back. A daemon that does not live to do it leaves a mark, and the next one goes over all snaps; what
// of aliases could not be put back it does not know.
type mends struct {
	mu   sync.Mutex
	todo map[string]*mending
	news signal
}

type mending struct {
	do func(context.Context) error
	// said is why it could not be done the last time.
	said string
}

func newMends() mends { return mends{todo: map[string]*mending{}, news: make(signal, 1)} }

// mendMark is there as long as anything is to be mended.
func (m *Manager) mendMark() string { return filepath.Join(m.cfg.Paths.Run(), "unmended") }

// unmended reports whether anything is to be mended, perhaps since the last daemon.
func (m *Manager) unmended() bool { return !isMissing(m.mendMark()) }

// unmark takes the mark away if nothing is to be mended.
func (m *Manager) unmark() {
	m.mends.mu.Lock()
	defer m.mends.mu.Unlock()
	if len(m.mends.todo) == 0 {
		_ = removeExisting(m.mendMark()) // Then the next daemon looks in vain.
	}
}

// mend has f tried until it succeeds, in place of what has that name already.
func (m *Manager) mend(name string, f func(context.Context) error) {
	m.mends.mu.Lock()
	m.mends.todo[name] = &mending{do: f}
	_ = os.WriteFile(m.mendMark(), nil, 0o600) // It is in memory; and this daemon knows.
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
	m.mends.mu.Unlock()
	for name, one := range todo {
		err := one.do(ctx)
		switch {
		case err == nil:
			m.cfg.Logger.InfoContext(ctx, "done after all", slog.String("what", name))
			m.mended(name, one)
		case err.Error() != one.said && ctx.Err() == nil:
			one.said = err.Error()
			m.cfg.Logger.WarnContext(ctx, "tried again until it can be done", slog.String("what", name), slog.Any("error", err))
		}
	}
	m.mends.mu.Lock()
	defer m.mends.mu.Unlock()
	return len(m.mends.todo)
}

// mended forgets what is done, if nothing else has its name by now.
func (m *Manager) mended(name string, one *mending) {
	m.mends.mu.Lock()
	if m.mends.todo[name] == one {
		delete(m.mends.todo, name)
	}
	m.mends.mu.Unlock()
	m.unmark()
}

var errWorkedOn = errors.New("a change works on it")

// between runs f while no change works on snaps, and none can begin.
func (m *Manager) between(ctx context.Context, snaps []tenure.Instance, f func() error) error {
	waiting, cancel := context.WithTimeout(ctx, again)
	defer cancel()
	release, err := m.claims.take(waiting, snaps...)
	if err != nil {
		return errors.Join(errWorkedOn, err)
	}
	defer release()
	if slices.ContainsFunc(snaps, m.held) {
		return errWorkedOn
	}
	return f()
}

// held reports whether a change works on a snap.
func (m *Manager) held(snap tenure.Instance) bool {
	all := m.engine.List(change.Filter{Select: change.Unfinished, Snap: snap})
	return slices.ContainsFunc(all, func(c change.Change) bool { return c.Holds })
}

// mendLinks makes the links and commands of a snap those that its state says, after a switch, or a start of the daemon, that has
// stopped half-way.
func (m *Manager) mendLinks(tried linkParams) {
	// Each change has its own: the commands of each may be left.
	m.mend(fmt.Sprintf("the links of %s (%s to %s)", tried.Snap, tried.From, tried.To), func(ctx context.Context) error {
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
			return m.remake(ctx, state, p)
		})
	})
}

// mendCommands removes what is left of commands that nobody has any more.
func (m *Manager) mendCommands() {
	m.mend("the commands of nobody", func(context.Context) error {
		// A command that is there now is of a change that is seen here, or has ended and is in the states.
		entries, err := m.placedCommands()
		if err != nil {
			return err
		}
		links, err := m.linking()
		if err != nil {
			return err
		}
		states, err := m.snaps.All()
		if err != nil {
			return err
		}
		return m.sweepCommands(entries, states, links)
	})
}

// linking is what the changes that go on have done to links, or may have done.
func (m *Manager) linking() (links []relinked, err error) {
	for _, c := range m.engine.List(change.Filter{Select: change.Unfinished}) {
		for i := range c.Tasks {
			link, failed := relinkedBy(&c.Tasks[i])
			if err = errors.Join(err, failed); link != nil {
				links = append(links, *link)
			}
		}
	}
	return links, err
}

// removeStaged removes a file that a change may have taken.
func (m *Manager) removeStaged(path string) {
	m.sound.Delete(path)
	if removeExisting(path) != nil {
		m.mend("the removal of "+path, func(context.Context) error { return removeExisting(path) })
	}
}
