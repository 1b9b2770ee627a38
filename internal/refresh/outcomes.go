package refresh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/journal"
	"tenure/internal/policy"
	"tenure/internal/revision"
)

// failures are those of all snaps, by their names.
type failures struct {
	db   *journal.DB
	docs *journal.Collection[revision.Failures]
	// changed is raised when they are others.
	changed signal
}

func newFailures(db *journal.DB, changed signal) failures {
	return failures{db, journal.NewCollection[revision.Failures](db, "refresh-failures"), changed}
}

// of are the failures of one snap.
func (f *failures) of(snap tenure.Instance) (revision.Failures, error) {
	known, _, err := f.docs.Get(string(snap))
	if err != nil {
		return nil, fmt.Errorf("see which revisions of %s have failed: %w", snap, err)
	}
	return known, nil
}

func (f *failures) update(snap tenure.Instance, next func(revision.Failures) revision.Failures) error {
	err := f.db.Update(func(tx *journal.Tx) error {
		docs := f.docs.In(tx)
		known, _, err := docs.Get(string(snap))
		if err != nil {
			return err
		}
		after := next(known)
		if len(after) == 0 {
			return docs.Delete(string(snap))
		}
		return docs.Put(string(snap), after)
	})
	if err != nil {
		return fmt.Errorf("remember which revisions of %s have failed: %w", snap, err)
	}
	f.changed.raise()
	return nil
}

// note remembers an attempt that has failed.
func (f *failures) note(snap tenure.Instance, failed revision.Failure) error {
	return f.update(snap, func(known revision.Failures) revision.Failures { return known.Note(failed) })
}

// outcomes is how far what changes have come to is remembered.
type outcomes struct {
	mu sync.Mutex
	// seen is the engine's revision up to which it is.
	seen uint64
}

// recordOutcomes remembers what refreshes come to, until ctx ends, and wakes a look.
func (m *Manager) recordOutcomes(ctx context.Context) {
	for c := range m.engine.Subscribe(ctx, 0) {
		if c.Status.Ready() {
			m.catchUp(ctx)
			m.look()
		}
	}
}

// catchUp remembers what refreshes have come to that have ended by now, so that nobody
// decides on less: those from before the daemon was started on, in the order of their ends.
func (m *Manager) catchUp(ctx context.Context) {
	m.outcomes.mu.Lock()
	defer m.outcomes.mu.Unlock()
	now := m.engine.Revision()
	ended := slices.DeleteFunc(m.engine.List(change.Filter{Select: change.ReadyOnly}), func(c change.Change) bool { return c.Rev <= m.outcomes.seen })
	slices.SortFunc(ended, func(a, b change.Change) int { return cmp.Or(a.Ready.Compare(b.Ready), cmp.Compare(a.ID, b.ID)) })
	for i := range ended {
		m.recordOutcome(ctx, &ended[i])
	}
	m.outcomes.seen = now
}

// recordOutcome remembers what one change has come to. It may be done more than once.
func (m *Manager) recordOutcome(ctx context.Context, c *change.Change) {
	if c.Kind != kindRefresh && c.Kind != kindAutoRefresh {
		return
	}
	for _, j := range jobsOf(c) {
		digest := j.After.Kept[j.to()].Digest
		if j.Reason != tenure.ReasonRefresh || digest == "" {
			continue
		}
		var err error
		failed := revision.Failure{Digest: digest, Revision: j.to(), Change: uint64(c.ID), At: c.Ready, Why: whyFailed(c)}
		failed.Fault = atFault(c, j.snap())
		switch {
		case c.Status == change.Done:
			err = m.failures.update(j.snap(), func(known revision.Failures) revision.Failures { return known.Forget(digest) })
		case failed.Fault || c.Kind == kindAutoRefresh:
			err = m.failures.note(j.snap(), failed)
		}
		if err == nil && c.Status == change.Done {
			err = m.refreshedSince(j.snap(), c)
		}
		if err != nil {
			m.cfg.Logger.ErrorContext(ctx, "cannot remember what a refresh has come to", slog.Any("change", c.ID), slog.Any("error", err))
		}
	}
}

// jobsOf are all jobs of a change, each once: its decisions have them.
func jobsOf(c *change.Change) (jobs []job) {
	seen := map[tenure.Instance]bool{}
	for i := range c.Tasks {
		var params decideParams
		if t := &c.Tasks[i]; t.Kind != taskDecide || json.Unmarshal(t.Params, &params) != nil {
			continue
		}
		for _, j := range params.Jobs {
			if j.After != nil && !seen[j.snap()] {
				seen[j.snap()] = true
				jobs = append(jobs, j)
			}
		}
	}
	return jobs
}

// atFault reports whether a change failed for what the new revision of a snap did: it
// did not start, or not run well, or its own hooks failed.
func atFault(c *change.Change, snap tenure.Instance) bool {
	return slices.ContainsFunc(c.Tasks, func(t change.Task) bool {
		if t.Status != change.Error {
			return false
		}
		// What all of these params say of whom they are about.
		var about struct {
			Change   policy.Change `json:"change"`
			Hook     hook.Name     `json:"hook"`
			Services []observed    `json:"services"`
		}
		if err := json.Unmarshal(t.Params, &about); err != nil {
			return false
		}
		switch t.Kind {
		case taskStart, taskFollow, taskSucceed:
			return about.Change.Snap == snap
		case taskHook, taskHookInGap:
			return about.Change.Snap == snap && slices.Contains([]hook.Name{hook.PostRefresh, hook.Configure, hook.CheckHealth}, about.Hook)
		case taskObserve:
			// Its error names the service.
			return slices.ContainsFunc(about.Services, func(o observed) bool {
				return o.Unit.Snap == snap && strings.HasPrefix(t.Err, o.Unit.String())
			})
		}
		return false
	})
}

// whyFailed is one line.
func whyFailed(c *change.Change) string {
	if c.Err == "" {
		return "it was aborted"
	}
	return oneLine(c.Err)
}

// oneLine is the first line of a text, not too long for a table.
func oneLine(text string) string {
	const most = 160
	line, _, _ := strings.Cut(text, "\n")
	if runes := []rune(line); len(runes) > most {
		line = string(runes[:most]) + "…"
	}
	return line
}

// forgetUpdates forgets what is known of the updates of a snap that is gone.
func (m *Manager) forgetUpdates(snap tenure.Instance) error {
	return errors.Join(m.holds.docs.Delete(string(snap)), m.failures.docs.Delete(string(snap)))
}

// refreshedSince forgets what has held a snap, if that was before it was refreshed.
func (m *Manager) refreshedSince(snap tenure.Instance, c *change.Change) error {
	on, found, err := m.holds.docs.Get(string(snap))
	if err != nil || !found {
		return err
	}
	for _, held := range on.Gates {
		if held.First.After(c.Spawned) {
			return nil
		}
	}
	return m.refreshed(snap)
}
