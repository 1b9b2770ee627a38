package refresh

import (
	"context"
	"fmt"
	"log/slog"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
)

// compareStep holds what a change has done against its plan, and says where they
// differ: in its log, and in the daemon's.
type compareStep struct{ m *Manager }

// Do never fails: what has happened is no reason to undo it.
func (s compareStep) Do(ctx context.Context, _ nothing) (nothing, error) {
	report := change.ReporterFrom(ctx)
	differences, err := s.m.compare(ctx, change.IDFrom(ctx))
	if err != nil {
		report.Logf("%v", err)
		return nothing{}, nil
	}
	for _, d := range differences {
		report.Logf("not as planned: %s: %s", d.Unit, d.Text)
		s.m.cfg.Logger.Warn("a change did not go as planned",
			slog.String("change", change.IDFrom(ctx).String()), slog.String("unit", d.Unit.String()),
			slog.String("kind", string(d.Kind)), slog.String("difference", d.Text))
	}
	if len(differences) == 0 {
		report.Logf("everything went as planned")
	}
	return nothing{}, nil
}

func (compareStep) Undo(context.Context, nothing, nothing) error { return nil }

// compare holds the plan that is stored with a change against the units and
// processes as they are.
func (m *Manager) compare(ctx context.Context, id change.ID) ([]policy.Difference, error) {
	c, err := m.engine.Get(id)
	if err != nil {
		return nil, fmt.Errorf("compare the plan: %w", err)
	}
	plans, err := m.plans.of(c)
	if err != nil {
		return nil, fmt.Errorf("compare the plan: %w", err)
	}
	snaps := make([]tenure.Instance, len(plans))
	for i := range plans {
		snaps[i] = plans[i].Change.Snap
	}
	units, _, err := m.unitsOf(ctx, snaps...)
	if err != nil {
		return nil, fmt.Errorf("compare the plan of change %s: %w", id, err)
	}
	var all []policy.Difference
	for _, plan := range plans {
		all = append(all, policy.Compare(plan, units[plan.Change.Snap])...)
	}
	return all, nil
}
