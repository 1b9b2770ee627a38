package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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

// The actions on what has endured for too long.
const (
	enduredWarn = "warn"
	enduredEnd  = "end"
)

func checkEndured(text string) (any, error) {
	if text != enduredWarn && text != enduredEnd {
		return nil, fmt.Errorf("endure-action must be %s or %s, not %q", enduredWarn, enduredEnd, text)
	}
	return text, nil
}

// endsEndured reports whether what has endured for too long is ended.
func (m *Manager) endsEndured() bool {
	raw, found, err := m.settings.Get(optionEndured)
	var action string
	return err == nil && found && json.Unmarshal(raw, &action) == nil && action == enduredEnd
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

// date says of a unit until when it may endure, if it does.
func (l linesOf) date(unit *UnitInfo, limit time.Duration, ends bool) {
	if !unit.Stale || !endures(unit.Unit) {
		return
	}
	unit.StaleSince = l.staleSince(&unit.Status)
	if limit > 0 && !unit.StaleSince.IsZero() {
		unit.EnduresUntil, unit.EnduredEnds = unit.StaleSince.Add(limit), ends && unit.Unit.Kind != tenure.AppRun
	}
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

// endures reports whether a convergence date is for such units: a hook ends by itself, and
// so does who hands over.
func endures(unit tenure.UnitID) bool { return unit.Kind != tenure.HookRun && !unit.Overlaps() }

// Converge sees to it that what endures on an old revision does not do so for longer than
// the administrator wants: it warns, and ends it if that is wanted. It waits for the next
// such time, and hears when a change has moved it.
func (m *Manager) Converge(ctx context.Context) error {
	look := make(chan struct{}, 1)
	changes := m.engine.Subscribe(ctx, m.engine.Revision())
	go func() {
		for c := range changes {
			if !c.Status.Ready() && c.Status != change.Wait {
				continue
			}
			select {
			case look <- struct{}{}:
			default:
			}
		}
	}()
	e := &endurances{m: m, told: map[enduring]bool{}}
	for {
		next, err := e.look(ctx)
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.ErrorContext(ctx, "cannot see what endures", slog.Any("error", err))
		}
		if !m.lookAgain(ctx, look, next) {
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

// enduredAgain is how long it takes until what could not be ended is tried again.
const enduredAgain = time.Minute

// look deals with what has endured for too long, and gives the time at which the next one
// will have, or is tried again; zero is never.
func (e *endurances) look(ctx context.Context) (next time.Time, err error) {
	if e.m.limit(optionEndure) == 0 {
		return next, nil
	}
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
		switch {
		case u.EnduresUntil.IsZero():
		case now.Before(u.EnduresUntil):
			sooner(u.EnduresUntil)
		case u.EnduredEnds:
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
	e.m.cfg.Logger.WarnContext(ctx, "a unit endures on an old revision for longer than "+optionEndure+" allows",
		slog.String("unit", u.Unit.String()), slog.String("revision", u.Revision.String()), slog.Time("stale_since", u.StaleSince))
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
	case err != nil:
		log.ErrorContext(ctx, "what endured for too long cannot be ended", slog.Any("error", err))
	default:
		log.InfoContext(ctx, "what endured for too long is ended", slog.String("change", id.String()))
	}
	return err == nil
}

// endEndured ends units by their stop protocols, first those that do not start again.
// Services and instances of templates that the current revision has too start again on it.
func (m *Manager) endEndured(ctx context.Context, snap tenure.Instance, units []*UnitInfo) (change.ID, error) {
	state, err := m.installedSnap("end", snap)
	if err != nil {
		return 0, err
	}
	stop, restart := Request{Action: ActionStop, Exact: true}, Request{Action: ActionRestart}
	for _, u := range units {
		req := &stop
		if _, err := declared(state.Kept[state.Line.Current].Info, u.Unit); err == nil && u.Unit.Kind == tenure.Service {
			req = &restart
		}
		req.Names = append(req.Names, u.Unit.String())
		if req.Because == "" {
			req.Because = fmt.Sprintf("on an old revision since %s at the latest, and %s is %s",
				u.StaleSince.UTC().Format(time.RFC3339), optionEndure, m.limit(optionEndure))
		}
	}
	if len(stop.Names) > 0 {
		return m.Do(ctx, stop)
	}
	return m.Do(ctx, restart)
}
