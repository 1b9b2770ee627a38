package refresh

import (
	"context"
	"slices"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
)

// ruledGlance is how often it is seen whether a rule still has a change wait: conditions
// speak of ages, memory and the time of day, and nobody tells when those change.
const ruledGlance = 5 * time.Second

// RulesChanged lets every change that waits before its switch be decided anew, by other
// rules, looks for updates that are held no longer and for what may endure no longer, and
// collects what is retained no longer.
func (m *Manager) RulesChanged(ctx context.Context) {
	for _, c := range m.engine.List(change.Filter{Select: change.WaitingOnly}) {
		if _, waits := deferral(c); waits {
			_ = m.engine.Wake(ctx, c.ID) // It may have ended.
		}
	}
	m.look()
	m.dates.raise()
	m.troubled.raise()
	m.Wake()
}

// ruledDefer reports whether a rule has the change wait for a unit.
func ruledDefer(item *policy.Item) bool {
	return item.Verdict == tenure.Defer && item.Rule.Source == policy.Administrator
}

// released reports whether a unit that a change waits for by a rule need not be waited for
// any more, because the rules say otherwise by now.
func (m *Manager) released(ctx context.Context, c change.Change, w *wait) (bool, error) {
	plan, waits := deferral(c)
	if !waits || !slices.ContainsFunc(w.Units, func(a awaited) bool { return a.Ruled }) {
		return false, nil
	}
	facts, err := m.facts(ctx, plan.Change)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(w.Units, func(a awaited) bool { return a.Ruled && !defers(facts.Rulings[a.Unit]) }), nil
}

// defers reports whether rulings have a change wait for their unit.
func defers(rulings []policy.Ruling) bool {
	at := slices.IndexFunc(rulings, func(r policy.Ruling) bool { return r.Aspect == policy.AspectVerdict })
	return at >= 0 && rulings[at].Value == string(tenure.Defer)
}

// until is when the first of the units of w is waited for no longer, of a change that
// has waited since; zero is never. Limit is the administrator's for all.
func (w *wait) until(since time.Time, limit time.Duration) time.Time {
	var first time.Time
	for _, a := range w.Units {
		most := limit
		if a.Limit > 0 && (most <= 0 || a.Limit < most) {
			most = a.Limit
		}
		if a.Unit.Kind == tenure.HookRun || !a.Told.IsZero() || most <= 0 {
			continue
		}
		if at := since.Add(most); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

// patienceOf is how long a plan waits at most; 0 is without a limit. Hooks are bounded in
// themselves.
func patienceOf(plan policy.Plan) time.Duration {
	var most time.Duration
	for i := range plan.Items {
		item := &plan.Items[i]
		if item.Verdict != tenure.Defer || item.Unit.Kind == tenure.HookRun {
			continue
		}
		if item.Deferral <= 0 {
			return 0
		}
		most = max(most, item.Deferral)
	}
	return most
}
