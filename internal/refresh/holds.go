package refresh

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/schedule"
)

// snapHolds are what holds the refreshes of one snap.
type snapHolds struct {
	// General is the administrator's: it holds automatic refreshes and refreshes of all
	// snaps by hand. Nil is none; one without a time has no end.
	General *time.Time `json:"general,omitempty"`
	// Gates are those of snaps: its own, and those that run on it.
	Gates map[tenure.Instance]gateHold `json:"gates,omitempty"`
}

// gateHold is that of a snap that was asked, or has said so by itself.
type gateHold struct {
	// First is when it first held what is held now, which bounds how long it may.
	First time.Time `json:"first"`
	Until time.Time `json:"until"`
}

// holds are those of all snaps, by their names.
type holds struct {
	docs *journal.Collection[snapHolds]
}

func newHolds(db *journal.DB) holds {
	return holds{journal.NewCollection[snapHolds](db, "refresh-holds")}
}

// update changes the holds on one snap.
func (h *holds) update(db *journal.DB, snap tenure.Instance, f func(*snapHolds) error) error {
	err := db.Update(func(tx *journal.Tx) error {
		docs := h.docs.In(tx)
		on, _, err := docs.Get(string(snap))
		if err != nil {
			return err
		}
		if err := f(&on); err != nil {
			return err
		}
		if on.General == nil && len(on.Gates) == 0 {
			return docs.Delete(string(snap))
		}
		return docs.Put(string(snap), on)
	})
	if err != nil {
		return fmt.Errorf("hold refreshes of %s: %w", snap, err)
	}
	return nil
}

// generalHold is that of the administrator on one snap; nil if there is none.
func (m *Manager) generalHold(snap tenure.Instance, now time.Time) (*schedule.Hold, error) {
	on, _, err := m.holds.docs.Get(string(snap))
	if err != nil {
		return nil, fmt.Errorf("see what holds refreshes of %s: %w", snap, err)
	}
	if on.General == nil || !on.General.IsZero() && !on.General.After(now) {
		return nil, nil //nolint:nilnil // Not to be held is no error.
	}
	return &schedule.Hold{Until: *on.General, By: "the administrator holds it"}, nil
}

// holdsOn are what holds the automatic refreshes of a snap now.
func (m *Manager) holdsOn(state *snapState) ([]schedule.Hold, error) {
	now := m.cfg.Now()
	var found []schedule.Hold
	if hold, held := m.holdOfAll(now); held {
		found = append(found, hold)
	}
	general, err := m.generalHold(state.Instance, now)
	if err != nil {
		return nil, err
	}
	if general != nil {
		found = append(found, *general)
	}
	on, _, err := m.holds.docs.Get(string(state.Instance))
	if err != nil {
		return nil, fmt.Errorf("see what holds refreshes of %s: %w", state.Instance, err)
	}
	for _, snap := range slices.Sorted(maps.Keys(on.Gates)) {
		if until := on.Gates[snap].Until; until.After(now) {
			found = append(found, schedule.Hold{Until: until, By: fmt.Sprintf("the snap %s holds it", snap)})
		}
	}
	return found, nil
}

// HoldRequest asks for a hold, or that it ends.
type HoldRequest struct {
	// Snaps are those whose refreshes are held; none is the automatic ones of all.
	Snaps []tenure.Instance
	// Until is when the hold ends; zero is never by itself.
	Until time.Time
	// End is that there is to be no hold any more.
	End bool
}

// Hold begins a change of what the administrator holds.
func (m *Manager) Hold(ctx context.Context, req HoldRequest) (change.ID, error) {
	if len(req.Snaps) == 0 {
		return m.holdAll(ctx, req)
	}
	var tasks []change.TaskSpec
	for _, snap := range req.Snaps {
		if _, err := m.installedSnap("hold refreshes of", snap); err != nil {
			return 0, err
		}
		on, _, err := m.holds.docs.Get(string(snap))
		if err != nil {
			return 0, fmt.Errorf("see what holds refreshes of %s: %w", snap, err)
		}
		p := holdParams{Snap: snap, Before: on.General}
		if !req.End {
			p.After = &req.Until
		}
		tasks = append(tasks, change.NewTask(taskHold, fmt.Sprintf("Record what holds refreshes of %q", snap), p))
	}
	kind, verb := "hold-snap", "Hold"
	if req.End {
		kind, verb = "unhold-snap", "Remove hold on"
	}
	// A hold is no matter of the snap itself: it does not wait for a change to it.
	id, err := m.engine.Start(ctx, change.NewChange{Kind: kind, Summary: verb + " general refreshes of " + quoteSnaps(req.Snaps), Tasks: tasks})
	if err != nil {
		return 0, fmt.Errorf("hold refreshes of %s: %w", join(req.Snaps), err)
	}
	return id, nil
}

// holdAll is Hold for the automatic refreshes of all snaps.
func (m *Manager) holdAll(ctx context.Context, req HoldRequest) (change.ID, error) {
	value := json.RawMessage(none)
	if !req.End {
		text := forever
		if !req.Until.IsZero() {
			text = req.Until.UTC().Format(time.RFC3339Nano)
		}
		raw, err := json.Marshal(text)
		if err != nil {
			return 0, err
		}
		value = raw
	}
	return m.Configure(ctx, System, map[string]json.RawMessage{optionHold: value})
}

// holdStep records what the administrator holds.
type holdStep struct{ m *Manager }

type holdParams struct {
	Snap   tenure.Instance `json:"snap"`
	Before *time.Time      `json:"before"`
	After  *time.Time      `json:"after"`
}

func (s holdStep) Do(_ context.Context, p holdParams) (nothing, error) {
	return nothing{}, s.put(p.Snap, p.After)
}

func (s holdStep) Undo(_ context.Context, p holdParams, _ nothing) error {
	return s.put(p.Snap, p.Before)
}

func (s holdStep) put(snap tenure.Instance, general *time.Time) error {
	return s.m.holds.update(s.m.cfg.Journal, snap, func(on *snapHolds) error {
		on.General = general
		return nil
	})
}

// refreshed forgets what snaps have held of the refreshes of one that was refreshed.
func (m *Manager) refreshed(snap tenure.Instance) error {
	if _, found, err := m.holds.docs.Get(string(snap)); err != nil || !found {
		return err
	}
	return m.holds.update(m.cfg.Journal, snap, func(on *snapHolds) error {
		on.Gates = nil
		return nil
	})
}
