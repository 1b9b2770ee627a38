package refresh

import (
	"context"
	"errors"
	"slices"
	"time"

	"tenure"
)

// commitStep makes a snap's new state durable. From here on the change counts.
type commitStep struct{ m *Manager }

type commitParams struct {
	Snap   tenure.Instance `json:"snap"`
	Before *snapState      `json:"before,omitempty"`
	After  *snapState      `json:"after,omitempty"`
}

func (s commitStep) Do(ctx context.Context, p commitParams) (nothing, error) {
	after := p.After
	if after != nil {
		after.left(p.Before, s.m.cfg.Now())
	}
	if after == nil || !after.Line.Active {
		return nothing{}, s.m.snaps.PutAlong(ctx, p.Snap, after)
	}
	if info := after.Kept[after.Line.Current].Info; info != nil {
		all, err := s.m.wanted(ctx, p.Snap, services(info))
		if err != nil {
			return nothing{}, err
		}
		after = after.apply(all)
	}
	return nothing{}, s.m.snaps.PutAlong(ctx, p.Snap, after)
}

func (s commitStep) Undo(ctx context.Context, p commitParams, _ nothing) error {
	return s.m.snaps.PutAlong(ctx, p.Snap, p.Before)
}

// collectStep collects what nothing needs after a change, so that it is gone
// when the change is done. What a unit still pins goes later, by the collector.
type collectStep struct{ m *Manager }

type collectParams struct {
	// Snap is the one of a release before this one, which had a task for each.
	Snap  tenure.Instance   `json:"snap,omitempty"`
	Snaps []tenure.Instance `json:"snaps,omitempty"`
}

// Do never fails: a revision that cannot be collected now is no reason to undo
// what has been achieved. The collector tries again.
func (s collectStep) Do(ctx context.Context, p collectParams) (nothing, error) {
	if p.Snap != "" {
		p.Snaps = append(p.Snaps, p.Snap)
	}
	for _, snap := range p.Snaps {
		if err := errors.Join(s.m.forgetHooks(ctx, snap), s.m.forgetEnded(ctx, snap)); err != nil {
			s.m.report(ctx, snap, err)
		}
	}
	failed := func(snap tenure.Instance, err error) { s.m.report(ctx, snap, err) }
	s.m.collectSnaps(ctx, p.Snaps, failed)
	for _, moment := range moments() {
		left := s.m.removed(p.Snaps)
		if len(left) == 0 {
			break
		}
		select {
		case <-time.After(moment):
		case <-ctx.Done():
			return nothing{}, nil
		}
		s.m.collectSnaps(ctx, left, failed)
	}
	return nothing{}, nil
}

// moments are how long a removal waits for what pins a snap before it leaves that to the collector: a process that begins in a
// mount namespace of its own, anywhere on the machine, has copies of all mounts until it has let go of them.
func moments() []time.Duration {
	return []time.Duration{20 * time.Millisecond, 80 * time.Millisecond, 300 * time.Millisecond}
}

// removed are those of snaps that are removed and not gone.
func (m *Manager) removed(snaps []tenure.Instance) []tenure.Instance {
	return slices.DeleteFunc(slices.Clone(snaps), func(snap tenure.Instance) bool {
		state, err := m.snaps.Get(snap)
		return err != nil || state == nil || state.Line.Installed()
	})
}

func (collectStep) Undo(context.Context, collectParams, nothing) error { return nil }
