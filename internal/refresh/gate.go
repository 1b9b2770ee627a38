package refresh

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/policy"
	"tenure/internal/supervise"
)

// kindGate is the kind of the changes that ask snaps whether they may be refreshed. It is
// none that refreshes: wrappers that look for one find none.
const kindGate = "gate-auto-refresh"

// gateWord is what a snap that was asked has said.
type gateWord string

const (
	sayHold    gateWord = "hold"
	sayProceed gateWord = "proceed"
)

// The longest times that a snap can hold its own automatic refreshes for, and those of
// the base that it runs on (https://snapcraft.io/docs, "refresh control").
const (
	maxOwnHold   = 90 * 24 * time.Hour
	maxOtherHold = 48 * time.Hour
)

// errGated is that a snap holds what is due.
var errGated = errors.New("a snap holds it")

// askGates runs the hook gate-auto-refresh of those that an update disturbs: the snap
// itself, and, if it is a base, those that run on it. Each is asked in a change of its own,
// beside the others: one that takes its time is not in the way of what is due of them,
// and all together take no longer than one may. It fails with errGated if one of
// them holds it then.
func (m *Manager) askGates(ctx context.Context, u *Update) error {
	gates, err := m.gates(u)
	if err != nil || len(gates) == 0 {
		return err
	}
	if err := m.awaitGates(ctx, gates); err != nil {
		return err
	}
	failures := make([]error, len(gates))
	var asked sync.WaitGroup
	for n := range gates {
		asked.Go(func() { failures[n] = m.askGate(ctx, u, &gates[n]) })
	}
	asked.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	on, _, err := m.holds.docs.Get(string(u.Snap))
	if err != nil {
		return fmt.Errorf("see what holds refreshes of %s: %w", u.Snap, err)
	}
	now := m.cfg.Now()
	for i := range gates {
		if held := on.Gates[gates[i].Snap]; held.Until.After(now) {
			return fmt.Errorf("%w: %s until %s", errGated, gates[i].Snap, held.Until.Format(time.RFC3339))
		}
	}
	return nil
}

// awaitGates waits for changes that work on snaps that are to be asked. Then it fails: what
// is due has to be looked at again.
func (m *Manager) awaitGates(ctx context.Context, gates []gateParams) error {
	for i := range gates {
		for _, busy := range m.engine.List(change.Filter{Select: change.Unfinished, Snap: gates[i].Snap}) {
			if !busy.Holds {
				continue
			}
			if _, err := m.engine.WaitFor(ctx, busy.ID); err != nil {
				return err
			}
			return conflict("ask", string(gates[i].Snap), &change.ConflictError{Snap: gates[i].Snap, ID: busy.ID, Kind: busy.Kind})
		}
	}
	return nil
}

// askGate asks one snap, and waits until it has said something, or its time is over.
func (m *Manager) askGate(ctx context.Context, u *Update, p *gateParams) error {
	id, err := m.engine.Start(ctx, change.NewChange{
		Kind: kindGate, Summary: fmt.Sprintf("Ask %q whether %q may be refreshed", p.Snap, u.Snap), Snaps: []tenure.Instance{p.Snap},
		Tasks: []change.TaskSpec{
			change.NewTask(taskGate, fmt.Sprintf("Run %s hook of %q snap", hook.GateAutoRefresh, p.Snap), *p),
			collectTask(p.Snap),
		},
	})
	if err != nil {
		return conflict("ask", string(p.Snap), err)
	}
	_, err = m.engine.WaitFor(ctx, id)
	return err
}

// gates are the hooks that an update has to ask.
func (m *Manager) gates(u *Update) ([]gateParams, error) {
	states, err := m.snaps.All()
	if err != nil {
		return nil, err
	}
	var gates []gateParams
	for i := range states {
		state := &states[i]
		if !state.Line.Active || state.Instance != u.Snap && !runsOn(state, u.Snap) {
			continue
		}
		current := state.Line.Current
		declared := state.Kept[current].Info.Hook(string(hook.GateAutoRefresh))
		if declared == nil {
			continue
		}
		r, err := m.runnable(state, current)
		if err != nil {
			return nil, err
		}
		why := policy.Change{Reason: tenure.ReasonRefresh, Snap: state.Instance, From: current, To: current, Auto: true}
		if state.Instance == u.Snap {
			why.To = u.Next.Origin.Release.Revision
		}
		gates = append(gates, gateParams{Snap: state.Instance, Affecting: u.Snap, Spec: m.launch.hook(r, declared, why)})
	}
	return gates, nil
}

// runsOn reports whether a snap has another as its base.
func runsOn(state *snapState, base tenure.Instance) bool {
	info := state.Kept[state.Line.Current].Info
	return needsBase(info) && info.EffectiveBase() == string(base)
}

// gateStep asks one snap. One that has said nothing lets the refresh go on; one whose
// hook fails holds it, as with snapd.
type gateStep struct{ m *Manager }

type gateParams struct {
	Snap tenure.Instance `json:"snap"`
	// Affecting is the snap that is to be refreshed: it, or its base.
	Affecting tenure.Instance `json:"affecting"`
	Spec      supervise.Spec  `json:"spec"`
}

func (s gateStep) Do(ctx context.Context, p gateParams) (nothing, error) {
	spec := hook.GateAutoRefresh.Spec(p.Spec, change.IDFrom(ctx))
	failed := hook.Run(ctx, s.m.cfg.Supervisor, spec)
	if failed != nil && ctx.Err() != nil {
		return nothing{}, failed
	}
	run, _, err := s.m.confs.runs.Get(spec.Unit.String())
	if err != nil {
		return nothing{}, fmt.Errorf("see what %s has said: %w", spec.Unit, err)
	}
	report := change.ReporterFrom(ctx)
	switch {
	case run.Gate == sayHold:
		report.Logf("%s holds the refresh", p.Snap)
	case failed == nil:
		return nothing{}, s.m.gateProceeds(p.Snap, []tenure.Instance{p.Affecting})
	default:
		report.Logf("%v; the refresh is held", failed)
		until, err := s.m.nextRun()
		if err == nil {
			err = s.m.gateHolds(p.Snap, []tenure.Instance{p.Affecting}, until)
		}
		if errors.Is(err, errHeldLongEnough) {
			report.Logf("%v", err)
			err = nil
		}
		return nothing{}, err
	}
	return nothing{}, nil
}

// Undo has nothing to do: what a snap has said holds until it is asked again.
func (gateStep) Undo(context.Context, gateParams, nothing) error { return nil }

// nextRun is when updates are looked for the next time.
func (m *Manager) nextRun() (time.Time, error) {
	seed, err := m.seed()
	return m.timer().Next(m.cfg.Now(), seed), err
}

// disturbance is what there is of updates that disturb one snap.
type disturbance struct {
	// Own is that of the snap itself, and Base that of its base; nil if there is none.
	Own, Base *Update
}

// affecting are the snaps whose refreshes disturb a snap: itself where there is none.
func (d disturbance) affecting(snap tenure.Instance) []tenure.Instance {
	var affecting []tenure.Instance
	for _, u := range []*Update{d.Own, d.Base} {
		if u != nil {
			affecting = append(affecting, u.Snap)
		}
	}
	if len(affecting) == 0 {
		return []tenure.Instance{snap}
	}
	return affecting
}

// disturbing are the updates that disturb a snap.
func (m *Manager) disturbing(ctx context.Context, snap tenure.Instance) (found disturbance, err error) {
	state, err := m.installedSnap("see updates of", snap)
	if err != nil {
		return found, err
	}
	done, err := m.asked.Take(ctx)
	if err != nil {
		return found, err
	}
	defer done()
	updates, _, err := m.Updates(ctx)
	if err != nil {
		return found, err
	}
	for i := range updates {
		switch u := &updates[i]; {
		case u.Snap == snap:
			found.Own = u
		case runsOn(state, u.Snap):
			found.Base = u
		}
	}
	return found, nil
}

var _ hook.RefreshHost = Packages{}

// Pending is what there is to refresh the caller's snap to.
func (p Packages) Pending(ctx context.Context, c hook.Caller) (hook.Pending, error) {
	state, err := p.m.installedSnap("see updates of", c.Unit.Snap)
	if err != nil {
		return hook.Pending{}, err
	}
	found, err := p.m.disturbing(ctx, c.Unit.Snap)
	if err != nil {
		return hook.Pending{}, err
	}
	pending := hook.Pending{Tracking: string(state.Tracking.Channel), Base: found.Base != nil}
	if own := found.Own; own != nil {
		release := &own.Newest.Origin.Release
		pending.Revision, pending.Version, pending.Inhibited = release.Revision, release.Version, own.Newest.Staged != 0
	}
	return pending, nil
}

// HoldRefreshes holds those of the caller's snap, and of its base: in its hook
// gate-auto-refresh until it is asked the next time, else until it lets go. Neither is
// longer than it may.
func (p Packages) HoldRefreshes(ctx context.Context, c hook.Caller) error {
	found, err := p.m.disturbing(ctx, c.Unit.Snap)
	if err != nil {
		return err
	}
	var until time.Time
	asked := isGate(c.Unit)
	if asked {
		if until, err = p.m.nextRun(); err != nil {
			return err
		}
	}
	if err := p.m.gateHolds(c.Unit.Snap, found.affecting(c.Unit.Snap), until); err != nil || !asked {
		return err
	}
	return p.said(c.Unit, sayHold)
}

// ProceedWithRefreshes ends what the caller's snap holds.
func (p Packages) ProceedWithRefreshes(_ context.Context, c hook.Caller) error {
	all, err := p.m.holds.docs.All()
	if err != nil {
		return err
	}
	var held []tenure.Instance
	for snap, on := range all {
		if _, holds := on.Gates[c.Unit.Snap]; holds {
			held = append(held, tenure.Instance(snap))
		}
	}
	if err := p.m.gateProceeds(c.Unit.Snap, held); err != nil {
		return err
	}
	p.m.look()
	if !isGate(c.Unit) {
		return nil
	}
	return p.said(c.Unit, sayProceed)
}

// said notes what a run of gate-auto-refresh has said last.
func (p Packages) said(unit tenure.UnitID, word gateWord) error {
	return p.m.confs.amend(unit, func(run *hookRun) error {
		run.Gate = word
		return nil
	})
}

func isGate(unit tenure.UnitID) bool {
	return unit.Kind == tenure.HookRun && unit.App == tenure.App(hook.GateAutoRefresh)
}

// errHeldLongEnough is that a snap may hold a refresh no longer.
var errHeldLongEnough = errors.New("refreshes cannot be held any longer")

// gateHolds makes a snap hold the refreshes of others, among them its own, for as long as
// it may, and at most until a time if that is not zero. If it may hold one of them no
// longer, it holds none: it would be disturbed all the same.
func (m *Manager) gateHolds(by tenure.Instance, affecting []tenure.Instance, until time.Time) error {
	now := m.cfg.Now().UTC()
	var over []string
	for _, snap := range affecting {
		err := m.holds.update(m.cfg.Journal, snap, func(on *snapHolds) error {
			held, err := on.Gates[by].longer(now, until, snap == by)
			if err != nil {
				return err
			}
			if on.Gates == nil {
				on.Gates = map[tenure.Instance]gateHold{}
			}
			on.Gates[by] = held
			return nil
		})
		if errors.Is(err, errHeldLongEnough) {
			over = append(over, string(snap))
		} else if err != nil {
			return err
		}
	}
	if len(over) == 0 {
		return nil
	}
	return errors.Join(m.gateProceeds(by, affecting), fmt.Errorf("hold refreshes of %s: %w", strings.Join(over, ", "), errHeldLongEnough))
}

// longer is h, asked for at a time to last as long as it may, and at most until another
// if that is not zero. Own is that the snap holds itself.
func (h gateHold) longer(now, until time.Time, own bool) (gateHold, error) {
	if h.First.IsZero() {
		h.First = now
	}
	most := maxOtherHold
	if own {
		most = maxOwnHold
	}
	h.Until = h.First.Add(most)
	if !h.Until.After(now) {
		return h, errHeldLongEnough
	}
	if !until.IsZero() && until.Before(h.Until) {
		h.Until = until.UTC()
	}
	return h, nil
}

// gateProceeds ends what a snap holds of the refreshes of others. How long it has held
// them is kept until they have been refreshed.
func (m *Manager) gateProceeds(by tenure.Instance, affecting []tenure.Instance) error {
	var failures []error
	for _, snap := range affecting {
		failures = append(failures, m.holds.update(m.cfg.Journal, snap, func(on *snapHolds) error {
			if held, found := on.Gates[by]; found {
				held.Until = time.Time{}
				on.Gates[by] = held
			}
			return nil
		}))
	}
	return errors.Join(failures...)
}
