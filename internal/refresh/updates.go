package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/revision"
	"tenure/internal/rules"
	"tenure/internal/schedule"
	"tenure/internal/snapfile"
)

// Candidate is a revision that a snap could go to, and when it does so by itself.
type Candidate struct {
	Origin Origin
	Due    schedule.Due
	// Staged is the change that waits to make it current; zero if none does.
	Staged change.ID
}

// Update is what there is to refresh a snap to.
type Update struct {
	Snap    tenure.Instance
	Current tenure.Revision
	Info    *snapfile.Snap
	// Newest is what a refresh by hand brings the snap to.
	Newest Candidate
	// Next is what the snap goes to by itself: an older revision where the newest one is
	// too young, or has failed.
	Next Candidate
	// Held is what keeps also refreshes of all snaps by hand from it; nil if nothing does.
	Held *schedule.Hold
}

// maxCandidates is how many releases of one snap, the newest, are looked at.
const maxCandidates = 16

// Updates are what there is to refresh installed snaps to; bases come first. What is
// wrong with a source hides what it has, and is told.
func (m *Manager) Updates(ctx context.Context) (updates []Update, problems []error, err error) {
	return m.updatesAt(ctx, m.cfg.Now())
}

// updatesAt is Updates as of a time.
func (m *Manager) updatesAt(ctx context.Context, now time.Time) (updates []Update, problems []error, err error) {
	m.catchUp(ctx)
	states, err := m.snaps.All()
	if err != nil {
		return nil, nil, err
	}
	staged := m.staged()
	for i := range states {
		state := &states[i]
		if !state.Line.Active || state.Line.Current.Local() || state.Tracking.Source == "" {
			continue
		}
		line, err := m.lineOf(ctx, state.Instance, state.Tracking, tenure.Revision{})
		if err != nil {
			problems = append(problems, fmt.Errorf("look for updates of %s: %w", state.Instance, err))
			continue
		}
		var candidates []Candidate
		after := line.After(state.Line.Current)
		for _, r := range after[max(0, len(after)-maxCandidates):] {
			c := Candidate{Origin: Origin{Tracking: state.Tracking, Release: r}}
			c.Staged = staged[tenure.Ref{Snap: state.Instance, Revision: r.Revision}]
			when, err := m.updateFacts(ctx, state, &c.Origin)
			if err != nil {
				return nil, nil, err
			}
			c.Due = when.Due(now)
			candidates = append(candidates, c)
		}
		if len(candidates) == 0 {
			continue
		}
		u := Update{
			Snap: state.Instance, Current: state.Line.Current, Info: state.Kept[state.Line.Current].Info,
			Newest: candidates[len(candidates)-1], Next: next(candidates, now),
		}
		if u.Held, err = m.generalHold(state.Instance, now); err != nil {
			return nil, nil, err
		}
		updates = append(updates, u)
	}
	slices.SortStableFunc(updates, func(a, b Update) int { return rank(a.Info) - rank(b.Info) })
	return updates, problems, nil
}

// next is the newest candidate whose time has come, else that whose time comes first,
// else the newest.
func next(candidates []Candidate, now time.Time) Candidate {
	best := candidates[len(candidates)-1]
	for _, c := range slices.Backward(candidates) {
		switch {
		case c.Due.Now(now):
			return c
		case !c.Due.At.IsZero() && (best.Due.At.IsZero() || c.Due.At.Before(best.Due.At)):
			best = c
		}
	}
	return best
}

// updateFacts are all that decides when a snap goes to a release by itself.
func (m *Manager) updateFacts(ctx context.Context, state *snapState, origin *Origin) (schedule.Update, error) {
	u := schedule.Update{
		Released: origin.Release.Released, Window: m.timer(), WindowBy: optionTimer,
		MinimumAge: m.limit(optionAge), AgeBy: optionAge,
	}
	var err error
	if u.Seed, err = m.seed(); err != nil {
		return u, err
	}
	if u.Holds, err = m.holdsOn(state); err != nil {
		return u, err
	}
	if slices.Contains(state.Line.Skipped, origin.Release.Revision) {
		u.Holds = append(u.Holds, schedule.Hold{By: "a revert went back from it"})
	}
	failures, err := m.failures.of(state.Instance)
	if err != nil {
		return u, err
	}
	if failed, found := failures.Of(origin.Release.Digest); found {
		u.Holds = append(u.Holds, failureHold(failed))
	}
	return u, m.applyRules(ctx, state, origin, &u)
}

// applyRules lets the administrator's rules go before the options.
func (m *Manager) applyRules(ctx context.Context, state *snapState, origin *Origin, u *schedule.Update) error {
	release := &origin.Release
	given, err := m.RulesFor(ctx, state.Instance, rules.Update{
		To: release.Revision, ToVersion: release.Version, Released: release.Released, Urgency: string(release.Urgency),
	}, true)
	if err != nil {
		return err
	}
	by := func(rule string) string { return "rule " + rule }
	if window := given.Snap.Window; window != nil {
		if u.Window, err = schedule.ParseTimer(window.Value); err != nil {
			return err
		}
		u.WindowBy = by(window.Rule)
	}
	if age := given.Snap.MinimumAge; age != nil {
		u.MinimumAge, u.AgeBy = age.Value, by(age.Rule)
	}
	for _, hold := range []*rules.Given[string]{given.Snap.Hold, given.Snap.Refuse} {
		if hold != nil {
			u.Holds = append(u.Holds, schedule.Hold{By: by(hold.Rule) + ": " + hold.Value})
		}
	}
	return nil
}

// failureHold is how an attempt that has failed keeps its revision from being tried
// again.
func failureHold(f revision.Failure) schedule.Hold {
	if f.Refused {
		return schedule.Hold{Until: f.Again(), By: "it was refused: " + f.Why}
	}
	return schedule.Hold{Until: f.Again(), By: fmt.Sprintf("it has failed (change %d: %s)", f.Change, f.Why)}
}

// Begun is what has become of one snap when all were to be refreshed: a change, or why
// there is none.
type Begun struct {
	Snap   tenure.Instance
	Change change.ID
	Err    error
}

// RefreshAll begins a change for each snap that there is an update of, so that one does
// not stand in the way of another. What the administrator holds, what was reverted
// from, and what has failed before is left out, and said.
func (m *Manager) RefreshAll(ctx context.Context, req Request) ([]Begun, error) {
	all, err := m.sources.All()
	if err == nil && len(all) == 0 {
		return nil, &Error{
			Kind: KindNoSource, Op: "refresh all snaps", Hint: "see tenure help source, or give the paths of files",
			Err: errors.New("no source of snaps is configured"),
		}
	}
	if err != nil {
		return nil, err
	}
	updates, problems, err := m.Updates(ctx)
	if err != nil {
		return nil, err
	}
	var begun []Begun
	for i := range updates {
		u := &updates[i]
		b := Begun{Snap: u.Snap}
		if b.Err, err = m.leftOut(u); err != nil {
			return nil, err
		}
		if b.Err == nil {
			one := req
			one.Snaps = []tenure.Instance{u.Snap}
			b.Change, b.Err = m.Do(ctx, one)
		}
		if KindOf(b.Err) != KindNoUpdate {
			begun = append(begun, b)
		}
	}
	for _, problem := range problems {
		begun = append(begun, Begun{Err: problem})
	}
	return begun, nil
}

// leftOut is why a refresh of all snaps by hand passes over one; nil if it does not.
func (m *Manager) leftOut(u *Update) (why, err error) {
	state, err := m.installedSnap("refresh", u.Snap)
	if err != nil {
		return nil, err
	}
	failures, err := m.failures.of(u.Snap)
	if err != nil {
		return nil, err
	}
	release := &u.Newest.Origin.Release
	failed, known := failures.Of(release.Digest)
	left := func(format string, args ...any) error {
		return &Error{
			Kind: KindRefused, Op: "refresh", Object: string(u.Snap), Hint: "name it to refresh it all the same",
			Err: fmt.Errorf(format, args...),
		}
	}
	switch {
	case u.Held != nil:
		return left("%s", u.Held.By), nil
	case slices.Contains(state.Line.Skipped, release.Revision):
		return left("a revert went back from revision %s", release.Revision), nil
	case known && failed.Fault:
		return left("revision %s: %s", release.Revision, failureHold(failed).By), nil
	}
	return nil, nil
}

// planAll is the plan of each change that RefreshAll would begin.
func (m *Manager) planAll(ctx context.Context, req Request) ([]policy.Plan, error) {
	updates, _, err := m.Updates(ctx)
	if err != nil {
		return nil, err
	}
	var plans []policy.Plan
	for i := range updates {
		why, err := m.leftOut(&updates[i])
		if err != nil {
			return nil, err
		}
		if why != nil {
			continue
		}
		one := req
		one.Snaps = []tenure.Instance{updates[i].Snap}
		more, err := m.Plan(ctx, one)
		if err != nil {
			return nil, err
		}
		plans = append(plans, more...)
	}
	return plans, nil
}
