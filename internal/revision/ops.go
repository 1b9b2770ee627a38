package revision

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"tenure"
)

// Errors that callers tell apart. The error itself says which revisions there are.
var (
	ErrInstalled    = errors.New("snap is already installed")
	ErrNotInstalled = errors.New("snap is not installed")
	ErrNoRevision   = errors.New("no such revision")
	ErrNoPrevious   = errors.New("no revision to revert to")
	ErrCurrent      = errors.New("revision is the current one")
	ErrPinned       = errors.New("revision is in use")
	ErrDisabled     = errors.New("snap is disabled")
)

// NextLocal is the revision that the next local file gets.
func (s State) NextLocal() tenure.Revision { return tenure.LocalRevision(s.LastLocal + 1) }

// Stage notes that rev is on disk and waits to become current: by Install or
// Refresh, or to be dropped by Forget. Staging what is on disk already changes
// nothing.
func Stage(s State, rev tenure.Revision) (State, Delta, error) {
	if rev.IsZero() {
		return s, Delta{}, fmt.Errorf("stage: %w: none given", ErrNoRevision)
	}
	delta := Delta{From: s.Current, To: s.Current}
	if s.Has(rev) {
		return s, delta, nil
	}
	next := s.clone()
	next.Aside = append(next.Aside, rev)
	noteLocal(&next, rev)
	delta.Added = []tenure.Revision{rev}
	return next, delta, nil
}

// Install makes rev the first current revision, enabled. It may be staged, or
// have outlived an earlier removal.
func Install(s State, rev tenure.Revision) (State, Delta, error) {
	switch {
	case rev.IsZero():
		return s, Delta{}, fmt.Errorf("install: %w: none given", ErrNoRevision)
	case s.Installed():
		return s, Delta{}, fmt.Errorf("install revision %s: %w at revision %s", rev, ErrInstalled, s.Current)
	}
	next := s.clone()
	delta := Delta{To: rev, Activated: true, Added: attach(&next, rev)}
	next.Sequence = []tenure.Revision{rev}
	next.Current, next.Active = rev, true
	return next, delta, nil
}

// Refresh makes to the current revision and the last of the history. What a
// revert had gone back from leaves the history, and may be refreshed to again
// from now on. A disabled snap stays disabled.
func Refresh(s State, to tenure.Revision) (State, Delta, error) {
	switch {
	case to.IsZero():
		return s, Delta{}, fmt.Errorf("refresh: %w: none given", ErrNoRevision)
	case !s.Installed():
		return s, Delta{}, fmt.Errorf("refresh to %s: %w", to, ErrNotInstalled)
	case to == s.Current:
		return s, Delta{}, fmt.Errorf("refresh to %s: %w", to, ErrCurrent)
	}
	next := s.clone()
	delta := Delta{From: s.Current, To: to}
	after := slices.Index(next.Sequence, s.Current) + 1
	next.Aside = append(next.Aside, next.Sequence[after:]...)
	next.Sequence = next.Sequence[:after]
	delta.Added = attach(&next, to)
	next.Sequence = append(next.Sequence, to)
	next.Current, next.Skipped = to, nil
	return next, delta, nil
}

// Revert makes to the current revision again; a zero to is the one before the
// current one in the history. The history stays as it is, so that a further revert
// goes further back, and what was reverted from is skipped by automatic
// refreshes. Going to a revision that is set aside puts it before the
// current one.
func Revert(s State, to tenure.Revision) (State, Delta, error) {
	if !s.Installed() {
		return s, Delta{}, fmt.Errorf("revert: %w", ErrNotInstalled)
	}
	at := slices.Index(s.Sequence, s.Current)
	switch {
	case to.IsZero() && at == 0:
		return s, Delta{}, fmt.Errorf("revert: %w: %s", ErrNoPrevious, s.others())
	case to.IsZero():
		to = s.Sequence[at-1]
	case to == s.Current:
		return s, Delta{}, fmt.Errorf("revert to %s: %w: %s", to, ErrCurrent, s.others())
	case !s.Has(to):
		return s, Delta{}, fmt.Errorf("revert to %s: %w: %s", to, ErrNoRevision, s.others())
	}
	next := s.clone()
	if !slices.Contains(next.Sequence, to) {
		attach(&next, to)
		next.Sequence = slices.Insert(next.Sequence, at, to)
	}
	next.Current = to
	skipAfterCurrent(&next)
	return next, Delta{From: s.Current, To: to}, nil
}

// Enable lets the snap's services and apps run.
func Enable(s State) (State, Delta, error) {
	if !s.Installed() {
		return s, Delta{}, fmt.Errorf("enable: %w", ErrNotInstalled)
	}
	next := s.clone()
	next.Active = true
	return next, Delta{From: s.Current, To: s.Current, Activated: !s.Active}, nil
}

// Disable keeps the snap installed and lets nothing of it run.
func Disable(s State) (State, Delta, error) {
	if !s.Installed() {
		return s, Delta{}, fmt.Errorf("disable: %w", ErrNotInstalled)
	}
	next := s.clone()
	next.Active = false
	return next, Delta{From: s.Current, To: s.Current, Deactivated: s.Active}, nil
}

// RemoveRevision drops one revision at the wish of the administrator, whether it
// would be retained or not. It refuses the current one of a snap that is enabled, and
// one that anything but retention pins. Removing the only revision of a disabled snap
// is Remove.
func RemoveRevision(s State, rev tenure.Revision, pins map[tenure.Revision][]Pin) (State, Delta, error) {
	switch {
	case !s.Has(rev):
		return s, Delta{}, fmt.Errorf("remove revision %s: %w: %s", rev, ErrNoRevision, s.others())
	case rev == s.Current && s.Active:
		return s, Delta{}, fmt.Errorf("remove revision %s: %w: remove the snap, or revert or refresh it first", rev, ErrCurrent)
	case rev == s.Current && len(s.Kept()) > 1:
		return s, Delta{}, fmt.Errorf("remove revision %s: %w of a disabled snap that has others: remove the snap", rev, ErrCurrent)
	}
	var users []string
	for _, pin := range pins[rev] {
		if pin.Kind != PinRetained && pin.Kind != PinCurrent {
			users = append(users, pin.String())
		}
	}
	if len(users) > 0 {
		return s, Delta{}, fmt.Errorf("remove revision %s: %w: %s", rev, ErrPinned, strings.Join(users, ", "))
	}
	return forget(s, rev)
}

// Forget notes that a revision has been collected, or that a staged one was given
// up. The current one cannot be forgotten.
func Forget(s State, rev tenure.Revision) (State, Delta, error) {
	switch {
	case !s.Has(rev):
		return s, Delta{}, fmt.Errorf("forget revision %s: %w: %s", rev, ErrNoRevision, s.others())
	case rev == s.Current:
		return s, Delta{}, fmt.Errorf("forget revision %s: %w", rev, ErrCurrent)
	}
	return forget(s, rev)
}

func forget(s State, rev tenure.Revision) (State, Delta, error) {
	next := s.clone()
	detach(&next, rev)
	delta := Delta{From: s.Current, To: s.Current, Dropped: []tenure.Revision{rev}}
	if rev == s.Current {
		next.Current, next.Skipped, next.Active = tenure.Revision{}, nil, false
		delta.To = tenure.Revision{}
	}
	return next, delta, nil
}

// Remove ends the installation. Every revision is set aside: those that nothing
// pins are unreachable at once, the others when their last unit has ended. When
// Kept is empty the caller may forget the state, and with it the numbers of
// local revisions.
func Remove(s State) (State, Delta, error) {
	if !s.Installed() {
		return s, Delta{}, fmt.Errorf("remove: %w", ErrNotInstalled)
	}
	next := State{Aside: s.Kept(), LastLocal: s.LastLocal}
	return next, Delta{From: s.Current, Deactivated: s.Active}, nil
}

// Restore undoes what has led from before to now: it gives before, without what has
// been collected since, with what has come since set aside, and with the
// numbers of local revisions that were given since still given. The current
// revision of before must still be there; it cannot have been collected while
// a change that may be undone pins it.
func Restore(before, now State) (State, error) {
	if before.Installed() && !now.Has(before.Current) {
		return now, fmt.Errorf("restore revision %s: %w: %s", before.Current, ErrNoRevision, now.others())
	}
	gone := func(rev tenure.Revision) bool { return !now.Has(rev) }
	next := before.clone()
	next.Sequence = slices.DeleteFunc(next.Sequence, gone)
	next.Aside = slices.DeleteFunc(next.Aside, gone)
	for _, rev := range now.Kept() {
		if !next.Has(rev) {
			next.Aside = append(next.Aside, rev)
		}
	}
	next.LastLocal = max(before.LastLocal, now.LastLocal)
	return next, nil
}

func (s State) clone() State {
	s.Sequence = slices.Clone(s.Sequence)
	s.Aside = slices.Clone(s.Aside)
	s.Skipped = slices.Clone(s.Skipped)
	return s
}

// attach takes rev from wherever it is, so that it can be put into the history, and
// gives it back if it was not on disk before.
func attach(s *State, rev tenure.Revision) []tenure.Revision {
	noteLocal(s, rev)
	if s.Has(rev) {
		detach(s, rev)
		return nil
	}
	return []tenure.Revision{rev}
}

func detach(s *State, rev tenure.Revision) {
	is := func(other tenure.Revision) bool { return other == rev }
	s.Sequence = slices.DeleteFunc(s.Sequence, is)
	s.Aside = slices.DeleteFunc(s.Aside, is)
}

func noteLocal(s *State, rev tenure.Revision) {
	if rev.Local() {
		s.LastLocal = max(s.LastLocal, rev.Number())
	}
}

// skipAfterCurrent marks what comes after the current revision in the history, beside
// what was marked before and is no longer in it.
func skipAfterCurrent(s *State) {
	skipped := slices.DeleteFunc(s.Skipped, func(rev tenure.Revision) bool {
		return rev == s.Current || slices.Contains(s.Sequence, rev)
	})
	after := s.Sequence[slices.Index(s.Sequence, s.Current)+1:]
	s.Skipped = append(skipped, after...)
}

// others says which revisions there are, for errors.
func (s State) others() string {
	var names []string
	for _, rev := range s.Kept() {
		name := rev.String()
		if rev == s.Current {
			name += " (current)"
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return "there are none"
	}
	return "there are " + strings.Join(names, ", ")
}
