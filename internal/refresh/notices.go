package refresh

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/notice"
)

// Notices are what clients can wait for.
func (m *Manager) Notices() *notice.Book { return m.notices }

// Announce writes down what clients can wait for, until ctx ends: which changes have
// another status, what is not as it should be, and which snaps are not refreshed because
// their apps run.
func (m *Manager) Announce(ctx context.Context) error {
	a := &announcer{m: m, statuses: map[change.ID]change.Status{}, inhibited: map[change.ID][]tenure.Instance{}}
	rev := m.engine.Revision()
	for _, c := range m.engine.List(change.Filter{}) {
		if c.Status.Ready() {
			m.notices.Recall(updateOf(&c), c.Ready)
		} else {
			a.changed(ctx, &c)
		}
	}
	var watching sync.WaitGroup
	watching.Go(func() { a.troubles(ctx) })
	for c := range m.engine.Subscribe(ctx, rev) {
		a.changed(ctx, &c)
	}
	watching.Wait()
	return nil
}

// announcer is what Announce knows.
type announcer struct {
	m *Manager
	// statuses are those that were announced, of changes that have not ended.
	statuses map[change.ID]change.Status
	// inhibited are the snaps that each change has wait for apps.
	inhibited map[change.ID][]tenure.Instance
}

func updateOf(c *change.Change) notice.Occasion {
	return notice.Occasion{Type: notice.ChangeUpdate, Key: c.ID.String(), Data: map[string]string{"kind": c.Kind}}
}

func (a *announcer) changed(ctx context.Context, c *change.Change) {
	if a.statuses[c.ID] != c.Status {
		a.statuses[c.ID] = c.Status
		a.m.notices.Record(updateOf(c))
	}
	if c.Status.Ready() {
		delete(a.statuses, c.ID)
	}
	// It may wait again, for others, and what was between be seen by nobody.
	snaps, _, err := a.m.inhibitedBy(c)
	if err != nil {
		a.m.cfg.Logger.ErrorContext(ctx, "cannot see which refreshes wait for apps", slog.Any("error", err))
		return
	}
	if slices.Equal(snaps, a.inhibited[c.ID]) {
		return
	}
	if a.inhibited[c.ID] = snaps; len(snaps) == 0 {
		delete(a.inhibited, c.ID)
	}
	a.m.notices.Record(notice.Occasion{Type: notice.RefreshInhibit, Key: "-"})
}

// inhibitedBy are the snaps that a change does not refresh as long as apps of them run, and how it waits.
func (m *Manager) inhibitedBy(c *change.Change) ([]tenure.Instance, wait, error) {
	if _, waits := deferral(*c); !waits {
		return nil, wait{}, nil
	}
	w, _, err := m.waits.Get(c.ID.String())
	if err != nil {
		return nil, wait{}, err
	}
	snaps := map[tenure.Instance]bool{}
	for _, a := range w.Units {
		if a.Unit.Kind == tenure.AppRun && slices.Contains(c.Snaps, a.Unit.Snap) {
			snaps[a.Unit.Snap] = true
		}
	}
	return slices.Sorted(maps.Keys(snaps)), w, nil
}

// Inhibited are the snaps that are not refreshed as long as apps of them run, and until when
// they are waited for; zero is without a limit.
func (m *Manager) Inhibited() (map[tenure.Instance]time.Time, error) {
	until := map[tenure.Instance]time.Time{}
	for _, c := range m.engine.List(change.Filter{Select: change.WaitingOnly}) {
		snaps, w, err := m.inhibitedBy(&c)
		if err != nil {
			return nil, err
		}
		for _, snap := range snaps {
			until[snap] = w.until(c.Spawned, m.limits().MaxDeferral)
		}
	}
	return until, nil
}

// troubles announces warnings when something that they are about has changed.
func (a *announcer) troubles(ctx context.Context) {
	announced := a.warn(ctx, nil)
	for {
		select {
		case <-a.m.troubled:
			announced = a.warn(ctx, announced)
		case <-ctx.Done():
			return
		}
	}
}

// warn announces what has not been, and gives all that has: since when each warning
// holds. What was so before anybody could hear of it, with nothing announced, is recalled.
func (a *announcer) warn(ctx context.Context, announced map[string]time.Time) map[string]time.Time {
	found, err := a.m.Warnings(ctx)
	if err != nil {
		if ctx.Err() == nil {
			a.m.cfg.Logger.ErrorContext(ctx, "cannot see what is to be warned of", slog.Any("error", err))
		}
		return announced
	}
	now := make(map[string]time.Time, len(found))
	for i := range found {
		w := &found[i]
		now[w.Message] = w.Added
		switch since, known := announced[w.Message]; {
		case announced == nil:
			a.m.notices.Recall(warningOf(w), w.Added)
		case !known || since.Before(w.Added):
			a.m.notices.Record(warningOf(w))
		}
	}
	return now
}

func warningOf(w *Warning) notice.Occasion {
	return notice.Occasion{Type: notice.Warning, Key: w.Message}
}
