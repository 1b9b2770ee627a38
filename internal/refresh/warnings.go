package refresh

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"tenure/internal/journal"
)

// Warning is something that is not as it should be, for as long as that lasts: nobody
// has to take it back.
type Warning struct {
	Message string
	// Added is since when, and Shown when an administrator has last said that it is known;
	// zero if nobody has.
	Added, Shown time.Time
}

// RepeatWarning is how long after that a warning that still holds comes again.
const RepeatWarning = 28 * 24 * time.Hour

// Pending reports whether an administrator is still to see w.
func (w *Warning) Pending(now time.Time) bool {
	return w.Shown.Before(w.Added) || w.Shown.Add(RepeatWarning).Before(now)
}

// warnings are when somebody has said that they are known, by their messages.
type warnings struct {
	docs *journal.Collection[time.Time]

	mu sync.Mutex
	// known are those that were found at a time.
	known []Warning
	at    time.Time
}

// Warnings are all that hold now, the oldest first.
func (m *Manager) Warnings(ctx context.Context) ([]Warning, error) {
	found, err := m.troubles(ctx)
	if err != nil {
		return nil, err
	}
	for i := range found {
		w := &found[i]
		if w.Shown, _, err = m.warnings.docs.Get(w.Message); err != nil {
			return nil, fmt.Errorf("see which warnings are known: %w", err)
		}
	}
	slices.SortStableFunc(found, func(a, b Warning) int {
		return cmp.Or(a.Added.Compare(b.Added), cmp.Compare(a.Message, b.Message))
	})
	m.warnings.mu.Lock()
	defer m.warnings.mu.Unlock()
	m.warnings.known, m.warnings.at = slices.Clone(found), m.cfg.Now()
	return found, nil
}

// fresh is for how long News need not look again.
const fresh = 10 * time.Second

// News is how many warnings an administrator is still to see, and since when the last of
// them is, as it was a moment ago: it is asked with every request.
func (m *Manager) News(ctx context.Context) (count int, last time.Time) {
	now := m.cfg.Now()
	m.warnings.mu.Lock()
	found, at := m.warnings.known, m.warnings.at
	m.warnings.mu.Unlock()
	if now.Sub(at) > fresh {
		var err error
		if found, err = m.Warnings(ctx); err != nil {
			return 0, time.Time{}
		}
	}
	for i := range found {
		if found[i].Pending(now) {
			count, last = count+1, later(last, found[i].Added)
		}
	}
	return count, last
}

// Okay remembers that the warnings up to a time are known, and how many that are. What is
// remembered of those that hold no longer is forgotten.
func (m *Manager) Okay(ctx context.Context, until time.Time) (int, error) {
	all, err := m.Warnings(ctx)
	if err != nil {
		return 0, err
	}
	before, err := m.warnings.docs.Keys()
	if err != nil {
		return 0, fmt.Errorf("acknowledge warnings: %w", err)
	}
	over := slices.DeleteFunc(before, func(message string) bool {
		return slices.ContainsFunc(all, func(w Warning) bool { return w.Message == message })
	})
	now := m.cfg.Now()
	recovery, err := m.cfg.Journal.LastRecovery()
	if err != nil {
		return 0, fmt.Errorf("acknowledge warnings: %w", err)
	}
	known := slices.DeleteFunc(all, func(w Warning) bool { return !w.Pending(now) || w.Added.After(until) })
	err = m.cfg.Journal.Update(func(tx *journal.Tx) error {
		docs := m.warnings.docs.In(tx)
		for _, message := range over {
			if err := docs.Delete(message); err != nil {
				return err
			}
		}
		for i := range known {
			if err := docs.Put(known[i].Message, until); err != nil {
				return err
			}
		}
		// It is over, and was only not to be missed.
		if recovery != nil && slices.ContainsFunc(known, func(w Warning) bool { return w.Message == recoveryText(recovery) }) {
			return tx.PutRecovery(nil)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("acknowledge warnings: %w", err)
	}
	_, err = m.Warnings(ctx)
	return len(known), err
}

// troubles are what is not as it should be.
func (m *Manager) troubles(ctx context.Context) ([]Warning, error) {
	var found []Warning
	if status := m.RulesStatus(); len(status.Broken) > 0 {
		broken := Warning{Message: status.Warning()}
		if info, err := os.Stat(status.Path); err == nil {
			broken.Added = info.ModTime()
		}
		found = append(found, broken)
	}
	stored, err := m.storageTroubles()
	if err != nil {
		return nil, err
	}
	found = append(found, stored...)
	units, err := m.Units(ctx)
	if err != nil {
		return nil, err
	}
	now := m.cfg.Now()
	for i := range units {
		if u := &units[i]; !u.EnduresUntil.IsZero() && !u.EnduresUntil.After(now) {
			found = append(found, Warning{Added: u.EnduresUntil, Message: fmt.Sprintf(
				"%s runs on revision %s, which is not the current one, for longer than it may (%s); see tenure ps", u.Unit, u.Revision, u.Endurance.Because())})
		}
	}
	failed, err := m.failures.docs.All()
	if err != nil {
		return nil, fmt.Errorf("see which refreshes have failed: %w", err)
	}
	for snap, all := range failed {
		for i := range all {
			f := &all[i]
			text := fmt.Sprintf("the refresh of %q to revision %s was refused: %s", snap, f.Revision, f.Why)
			if f.Change != 0 {
				text = fmt.Sprintf("the refresh of %q to revision %s has failed: %s; see tenure tasks %d", snap, f.Revision, f.Why, f.Change)
			}
			found = append(found, Warning{Added: f.At, Message: text})
		}
	}
	return found, nil
}
