package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// telling is a workload that lives on, and is told to read again what is current: a
// helper of running containers that loads a library anew.
type telling struct {
	Unit     tenure.UnitID   `json:"unit"`
	Revision tenure.Revision `json:"revision"`
	// Process is the one that is told.
	Process tenure.Process `json:"process"`
	Signal  string         `json:"signal"`
	Rule    policy.Rule    `json:"rule"`
}

type tellParams struct {
	Change    policy.Change `json:"change"`
	Workloads []telling     `json:"workloads"`
}

// tellStep tells workloads of a revision that is current by now. One that has ended
// meanwhile is not missed here: what becomes of it is compared with the plan.
type tellStep struct{ m *Manager }

func (s tellStep) Do(ctx context.Context, p tellParams) (nothing, error) {
	if err := s.m.tell(ctx, p); err != nil {
		return nothing{}, fmt.Errorf("reload workloads: %w", err)
	}
	return nothing{}, nil
}

// Undo has nothing to do: it has to wait for the switch back (recallStep).
func (tellStep) Undo(context.Context, tellParams, nothing) error { return nil }

// recallStep stands before the switch of what is current, so that its undo comes after
// that has been switched back, and tells the workloads once more.
type recallStep struct{ m *Manager }

func (recallStep) Do(context.Context, tellParams) (nothing, error) { return nothing{}, nil }

// Undo tells nobody who was not told before.
func (s recallStep) Undo(ctx context.Context, p tellParams, _ nothing) error {
	c, err := s.m.engine.Get(change.IDFrom(ctx))
	if err != nil {
		return err
	}
	told := func(t change.Task) bool {
		return t.Kind == taskTell && (t.Begun || t.Status == change.Undone || t.Status == change.Error)
	}
	if !slices.ContainsFunc(c.Tasks, told) {
		return nil
	}
	return s.m.tell(ctx, p)
}

// Probe has nothing to see: nothing was done.
func (recallStep) Probe(context.Context, tellParams) (nothing, bool, error) {
	return nothing{}, false, nil
}

func (m *Manager) tell(ctx context.Context, p tellParams) error {
	var failures []error
	for _, t := range p.Workloads {
		err := m.tellWorkload(ctx, &t)
		if err != nil && !errors.Is(err, proc.ErrGone) {
			failures = append(failures, fmt.Errorf("%s: %w", t.Unit, err))
		}
	}
	return errors.Join(failures...)
}

func (m *Manager) tellWorkload(ctx context.Context, t *telling) error {
	handle, err := proc.Open(t.Process)
	if err != nil {
		return err
	}
	defer handle.Close()
	m.write(Happening{
		Time: m.cfg.Now(), Kind: string(supervise.EventSignal), Snap: t.Unit.Snap, Unit: t.Unit, Revision: t.Revision, Signal: t.Signal,
		Cause: supervise.CauseRequest, Process: []tenure.Process{t.Process}, Change: change.IDFrom(ctx), Verdict: tenure.Reload, Rule: t.Rule,
	})
	change.ReporterFrom(ctx).Logf("%s is told by %s", t.Unit, t.Signal)
	return handle.Signal(proc.SignalNumber(t.Signal))
}
