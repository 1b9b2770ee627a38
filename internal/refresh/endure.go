package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/supervise"
)

const (
	// optionEndure is how long a unit may endure on an old revision.
	optionEndure = "lifecycle.max-endure"
	// optionEndured is what becomes of one that has for longer.
	optionEndured = "lifecycle.endure-action"
)

func checkEndured(text string) (any, error) {
	if action := policy.Overdue(text); action != policy.OverdueWarn && action != policy.OverdueEnd {
		return nil, fmt.Errorf("endure-action must be %s or %s, not %q", policy.OverdueWarn, policy.OverdueEnd, text)
	}
	return text, nil
}

// endsEndured reports whether what has endured for too long is ended.
func (m *Manager) endsEndured() bool {
	raw, found, err := m.settings.Get(optionEndured)
	var action policy.Overdue
	return err == nil && found && json.Unmarshal(raw, &action) == nil && action == policy.OverdueEnd
}

// left notes in after that the current revision of before is no longer that, from now
// on: what endures on it is stale since then.
func (s *snapState) left(before *snapState, now time.Time) {
	if before == nil || !before.Line.Installed() || before.Line.Current == s.Line.Current {
		return
	}
	if old, is := s.Kept[before.Line.Current]; is {
		old.Left = now
		s.Kept[before.Line.Current] = old
	}
	if current, is := s.Kept[s.Line.Current]; is {
		current.Left = time.Time{}
		s.Kept[s.Line.Current] = current
	}
}

// linesOf is what is known of revisions, by their snaps.
type linesOf map[tenure.Instance]*snapState

// staleSince is since when status is that of a unit on an old revision, of its snap or of
// its base; zero if it is on none.
func (l linesOf) staleSince(status *supervise.Status) time.Time {
	since := l.leftAt(tenure.Ref{Snap: status.Unit.Snap, Revision: status.Revision})
	if status.Spec == nil || status.Spec.Base.IsZero() {
		return since
	}
	if base := l.leftAt(status.Spec.Base); since.IsZero() || !base.IsZero() && base.Before(since) {
		return base
	}
	return since
}

// leftAt is when a revision ceased to be the current one; zero if it is.
func (l linesOf) leftAt(ref tenure.Ref) time.Time {
	state := l[ref.Snap]
	if state == nil || !state.Line.Installed() || state.Line.Current == ref.Revision {
		return time.Time{}
	}
	if left := state.Kept[ref.Revision].Left; !left.IsZero() {
		return left
	}
	return state.Kept[state.Line.Current].Installed
}

// date says of units until when they may endure, if they do, and by whose word.
func (m *Manager) date(units []UnitInfo, states []snapState) {
	lines, limits, rulings := linesIn(states), m.limits(), m.dateRulings(units, states)
	for i := range units {
		u := &units[i]
		if !u.Stale || !policy.Endures(u.Unit) {
			continue
		}
		u.StaleSince = lines.staleSince(&u.Status)
		u.Endurance = policy.EnduranceOf(u.Unit, limits, rulings[u.Unit])
		u.EnduresUntil = u.Endurance.Until(u.StaleSince)
	}
}

// dateRulings are what the administrator's rules say of how long those of units that are
// stale may be.
func (m *Manager) dateRulings(units []UnitInfo, states []snapState) map[tenure.UnitID][]policy.Ruling {
	set, _ := m.rules()
	if set == nil || !set.Dates() {
		return nil
	}
	facts := policy.Facts{Now: m.cfg.Now()}
	for i := range units {
		if units[i].Stale {
			facts.Units = append(facts.Units, factsOf(units[i].Status, units[i].Processes))
		}
	}
	known := revisions{states: states}
	m.declare(&facts, known)
	all := map[tenure.UnitID][]policy.Ruling{}
	for _, snap := range snapsOf(&facts) {
		if snap == "" {
			continue
		}
		result := set.Endurance(factsAfter(&facts, snap, known))
		maps.Copy(all, result.Rulings())
	}
	return all
}

// tell says in facts since when units are stale.
func (l linesOf) tell(facts *policy.Facts, statuses []supervise.Status) {
	since := map[tenure.UnitID]time.Time{}
	for i := range statuses {
		since[statuses[i].Unit] = l.staleSince(&statuses[i])
	}
	for i := range facts.Units {
		facts.Units[i].StaleSince = since[facts.Units[i].ID]
	}
}

func linesIn(states []snapState) linesOf {
	lines := linesOf{}
	for i := range states {
		lines[states[i].Instance] = &states[i]
	}
	return lines
}

// Converge sees to it that what endures on an old revision does not do so for longer than
// the administrator wants: it warns, and ends it if that is wanted. It waits for the next
// such time, and hears when a change or other rules have moved it. Only where a rule on that
// speaks of what nobody hears of, as ages, it looks again by itself as long as anything is
// stale.
func (m *Manager) Converge(ctx context.Context) error {
	changes := m.engine.Subscribe(ctx, m.engine.Revision())
	go func() {
		for c := range changes {
			if !c.Status.Ready() && c.Status != change.Wait {
				continue
			}
			m.dates.raise()
		}
	}()
	e := &endurances{m: m, told: map[enduring]bool{}}
	for {
		next, err := e.look(ctx)
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.ErrorContext(ctx, "cannot see what endures", slog.Any("error", err))
		}
		if !m.lookAgain(ctx, m.dates, next) {
			return nil
		}
	}
}

// enduring is one life of a unit.
type enduring struct {
	unit       tenure.UnitID
	generation int
	started    time.Time
}

// endurances is what Converge knows.
type endurances struct {
	m *Manager
	// told are those that were warned of.
	told map[enduring]bool
}

// enduredAgain is how long it takes until what could not be ended is tried again, and until
// rules that speak of ages and the like are asked again.
const enduredAgain = time.Minute

// look deals with what has endured for too long, and gives the time at which the next one
// will have, or is tried again; zero is never.
func (e *endurances) look(ctx context.Context) (next time.Time, err error) {
	set, _ := e.m.rules()
	if e.m.limit(optionEndure) == 0 && (set == nil || !set.Dates()) {
		return next, nil
	}
	varies := set != nil && set.DatesVary()
	units, err := e.m.Units(ctx)
	if err != nil {
		return next, err
	}
	now := e.m.cfg.Now()
	sooner := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	overdue := map[tenure.Instance][]*UnitInfo{}
	for i := range units {
		u := &units[i]
		if u.Stale && varies {
			sooner(now.Add(enduredAgain))
		}
		switch {
		case u.EnduresUntil.IsZero():
		case now.Before(u.EnduresUntil):
			sooner(u.EnduresUntil)
		case u.Endurance.Ends:
			overdue[u.Unit.Snap] = append(overdue[u.Unit.Snap], u)
		default:
			e.warn(ctx, u)
		}
	}
	for snap, units := range overdue {
		if !e.end(ctx, snap, units) {
			sooner(now.Add(enduredAgain))
		}
	}
	return next, nil
}

// warn says once of a unit that it has endured for too long.
func (e *endurances) warn(ctx context.Context, u *UnitInfo) {
	key := enduring{u.Unit, u.Generation, u.Started}
	if e.told[key] {
		return
	}
	e.told[key] = true
	e.m.troubled.raise()
	e.m.cfg.Logger.WarnContext(ctx, "a unit endures on an old revision for longer than it may", slog.String("unit", u.Unit.String()),
		slog.String("revision", u.Revision.String()), slog.Time("stale_since", u.StaleSince), slog.String("because", u.Endurance.Because()))
}

// end ends units of one snap, and reports whether nothing is left to try: what it cannot
// do beside what it does, or what another change does, is seen to when that has ended.
func (e *endurances) end(ctx context.Context, snap tenure.Instance, units []*UnitInfo) bool {
	id, err := e.m.endEndured(ctx, snap, units)
	log := e.m.cfg.Logger.With(slog.String("snap", string(snap)))
	busy, conflicts := errors.AsType[*change.ConflictError](err)
	switch {
	case conflicts:
		log.DebugContext(ctx, "what endured for too long is ended later", slog.String("change", busy.ID.String()))
	case isRefused(err):
		log.DebugContext(ctx, "what endured for too long must not end now", slog.Any("error", err))
		for _, u := range units {
			e.warn(ctx, u)
		}
	case err != nil:
		log.ErrorContext(ctx, "what endured for too long cannot be ended", slog.Any("error", err))
	default:
		log.InfoContext(ctx, "what endured for too long is ended", slog.String("change", id.String()))
	}
	return err == nil
}

func isRefused(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == KindRefused
}

// endEndured ends units by their stop protocols, first those that do not start again.
// Services and instances of templates that the current revision has too start again on it.
// What a rule of the administrator does not want to end is left out.
func (m *Manager) endEndured(ctx context.Context, snap tenure.Instance, units []*UnitInfo) (change.ID, error) {
	state, err := m.installedSnap("end", snap)
	if err != nil {
		return 0, err
	}
	stop, restart := Request{Action: ActionStop, Exact: true, Overdue: true}, Request{Action: ActionRestart, Overdue: true}
	because := map[string]string{}
	for _, u := range units {
		req := &stop
		if _, err := declared(state.Kept[state.Line.Current].Info, u.Unit); err == nil && u.Unit.Kind == tenure.Service {
			req = &restart
		}
		req.Names = append(req.Names, u.Unit.String())
		because[u.Unit.String()] = fmt.Sprintf("on an old revision since %s at the latest, and %s", u.StaleSince.UTC().Format(time.RFC3339), u.Endurance.Because())
	}
	var refusal error
	for _, req := range []Request{stop, restart} {
		if len(req.Names) == 0 {
			continue
		}
		if refusal, err = m.leaveOutRefused(ctx, &req); err != nil {
			return 0, err
		}
		if len(req.Names) > 0 {
			req.Because = because[req.Names[0]]
			return m.Do(ctx, req)
		}
	}
	return 0, refusal
}

// leaveOutRefused takes the names out of req of which the plan refuses the units, and gives
// the refusal; nil is none.
func (m *Manager) leaveOutRefused(ctx context.Context, req *Request) (refusal, err error) {
	plans, err := m.planControl(ctx, *req)
	if err != nil {
		return nil, err
	}
	for _, plan := range plans {
		if plan.Refusal == nil {
			continue
		}
		refusal = refused(string(req.Action), plan)
		req.Names = slices.DeleteFunc(req.Names, func(name string) bool {
			return slices.ContainsFunc(plan.Refusal.Units, func(unit tenure.UnitID) bool { return unit.String() == name })
		})
	}
	return refusal, nil
}
