package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tenure"
	"tenure/internal/change"
)

// switchChannel begins a change of where the updates of snaps come from. Nothing is
// refreshed.
func (m *Manager) switchChannel(ctx context.Context, req Request) (change.ID, error) {
	bad := func(object, hint string, err error) (change.ID, error) {
		return 0, &Error{Kind: KindBad, Op: "switch", Object: object, Hint: hint, Err: err}
	}
	if req.Channel == "" && req.Source == "" || len(req.Snaps) == 0 {
		return bad("", "give a snap, and --channel or --source", errors.New("there is nothing to switch to"))
	}
	var tasks []change.TaskSpec
	var last Tracking
	for _, snap := range req.Snaps {
		state, err := m.installedSnap("switch", snap)
		if err != nil {
			return 0, err
		}
		if last, err = state.Tracking.amended(req); err != nil {
			return bad(string(snap), "", err)
		}
		if last.Source == "" {
			return bad(string(snap), "name one with --source", errors.New("it came from a file, and no source"))
		}
		if _, found, err := m.sources.docs.Get(last.Source); err != nil || !found {
			return bad(string(snap), "see tenure source list", errors.Join(err, fmt.Errorf("there is no source %q", last.Source)))
		}
		tasks = append(tasks, change.NewTask(taskSwitch, fmt.Sprintf("Let %q track %s of %s", snap, last.Channel, last.Source),
			switchParams{Snap: snap, Before: state.Tracking, After: last}))
	}
	if err := m.vacate(ctx, "switch", req.Snaps); err != nil {
		return 0, err
	}
	id, err := m.engine.Start(ctx, change.NewChange{
		Kind: "switch-snap", Summary: fmt.Sprintf("Switch %s to %s", quoteSnaps(req.Snaps), last.Channel), Snaps: req.Snaps, Tasks: tasks,
	})
	if err != nil {
		return 0, conflict("switch", join(req.Snaps), err)
	}
	return id, nil
}

// tracksOther reports whether a request wants a snap to track something else than it does.
func (m *Manager) tracksOther(req Request) bool {
	return slices.ContainsFunc(req.Snaps, func(snap tenure.Instance) bool {
		state, err := m.snaps.Get(snap)
		if err != nil || state == nil || state.Tracking.Source == "" {
			return false
		}
		wanted, err := state.Tracking.amended(req)
		return err == nil && wanted != state.Tracking
	})
}

// switchStep makes a snap track something else.
type switchStep struct{ m *Manager }

type switchParams struct {
	Snap   tenure.Instance `json:"snap"`
	Before Tracking        `json:"before"`
	After  Tracking        `json:"after"`
}

func (s switchStep) Do(ctx context.Context, p switchParams) (nothing, error) {
	return nothing{}, s.track(ctx, p.Snap, p.After)
}

func (s switchStep) Undo(ctx context.Context, p switchParams, _ nothing) error {
	return s.track(ctx, p.Snap, p.Before)
}

func (s switchStep) track(ctx context.Context, snap tenure.Instance, t Tracking) error {
	release, err := s.m.claims.take(ctx, snap)
	if err != nil {
		return err
	}
	defer release()
	state, err := s.m.installedSnap("switch", snap)
	if err != nil {
		return err
	}
	next := state.with(state.Line)
	next.Tracking = t
	return s.m.snaps.Put(snap, next)
}
