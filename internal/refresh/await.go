package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// awaitStep follows a stop of units that must not be killed: where one has not ended
// in its time it waits for that, and then goes on with the stop. It is a step of its
// own so that the change can be turned round meanwhile, and the stop undone.
type awaitStep struct{ m *Manager }

func (s awaitStep) Do(ctx context.Context, p stopParams) (nothing, error) {
	return nothing{}, stopStep(s).stop(ctx, p)
}

// Undo has nothing to do: what was stopped is started again by the stop's.
func (awaitStep) Undo(context.Context, stopParams, nothing) error { return nil }

// Probe has nothing to see: a stop can be gone on with at any time.
func (awaitStep) Probe(context.Context, stopParams) (nothing, bool, error) {
	return nothing{}, false, nil
}

// mayBlock reports whether any unit of a snap must not be killed, or something that
// comes out of it.
func mayBlock(snap tenure.Instance, statuses []supervise.Status) bool {
	never := func(stop supervise.StopProtocol) bool { return stop.Kill == supervise.KillNever }
	return slices.ContainsFunc(statuses, func(status supervise.Status) bool {
		return status.Unit.Snap == snap && status.Spec != nil && (never(status.Spec.Stop) ||
			slices.ContainsFunc(status.Spec.Workloads, func(w supervise.Workload) bool { return never(w.Stop) }))
	})
}

// stopOrWait stops units within the administrator's limit. Where one that must not be
// killed has not ended in its time, the error is that its end is waited for; asked
// once more, it is not told again, unless it may be killed now.
func (m *Manager) stopOrWait(ctx context.Context, req supervise.StopRequest) (supervise.Ended, error) {
	w, err := m.waited(ctx)
	if err != nil {
		return supervise.Ended{}, err
	}
	if w != nil && w.Kill {
		req.Kill = true
	}
	if w != nil && !req.Kill {
		if err := m.pending(ctx, w, req.Units); err != nil {
			return supervise.Ended{}, err
		}
	}
	req.Limit = m.limits().MaxStopTimeout
	ended, err := m.halt(ctx, req)
	if !errors.Is(err, supervise.ErrStopTimeout) || change.IDFrom(ctx) == 0 {
		return ended, err
	}
	told, lookErr := m.blockers(ctx, req.Units)
	if lookErr != nil {
		return ended, errors.Join(err, lookErr)
	}
	if len(told) == 0 {
		return ended, nil // What has not ended is a leftover by now.
	}
	if err := m.putWait(ctx, told); err != nil {
		return ended, err
	}
	return ended, waitingFor(told)
}

// pending is that the end of units which were told before is still waited for.
func (m *Manager) pending(ctx context.Context, w *wait, units []tenure.UnitID) error {
	known, err := m.statuses(ctx)
	if err != nil {
		return err
	}
	told := slices.DeleteFunc(slices.Clone(w.Units), func(a awaited) bool {
		return a.Told.IsZero() || !slices.Contains(units, a.Unit) || a.over(known)
	})
	if len(told) == 0 {
		return nil
	}
	return waitingFor(told)
}

// blockers are those of units that were told to stop, and live.
func (m *Manager) blockers(ctx context.Context, units []tenure.UnitID) ([]awaited, error) {
	known, err := m.statuses(ctx)
	if err != nil {
		return nil, err
	}
	var told []awaited
	for _, unit := range units {
		status := known[unit]
		if !status.State.Alive() {
			continue
		}
		infos, err := m.processes(ctx, unit)
		if err != nil {
			return nil, err
		}
		// The main process is what people know.
		slices.SortStableFunc(infos, func(a, b proc.Info) int {
			if (a.Process == status.Main) == (b.Process == status.Main) {
				return 0
			}
			if a.Process == status.Main {
				return -1
			}
			return 1
		})
		a := awaited{Unit: unit, Generation: status.Generation, Told: m.cfg.Now().UTC()}
		for _, info := range infos {
			a.Processes = append(a.Processes, info.Process)
			if a.Command == "" {
				a.Command = info.CommandLine()
			}
		}
		told = append(told, a)
	}
	return told, nil
}

func waitingFor(told []awaited) *change.Waiting {
	var names []string
	for _, a := range told {
		process := ""
		if len(a.Processes) > 0 {
			process = fmt.Sprintf(" (process %d, %s)", a.Processes[0].PID, policy.Program(a.Command))
		}
		names = append(names, fmt.Sprintf("%s%s, told to stop and still running at %s", a.Unit, process, a.Told.Format(time.RFC3339)))
	}
	return &change.Waiting{For: strings.Join(names, ", ") + ", to end, for it must not be killed", Hold: true}
}

// killBlocker lets the change that waits for units which must not be killed kill them
// after all, if they are those that req names; the change is zero if there is none.
func (m *Manager) killBlocker(ctx context.Context, req Request) (change.ID, error) {
	if req.Action != ActionStop || !req.Options.Kill {
		return 0, nil
	}
	for _, c := range m.engine.List(change.Filter{Select: change.WaitingOnly}) {
		w, found, err := m.waits.Get(c.ID.String())
		if err != nil {
			return 0, err
		}
		named := func(a awaited) bool {
			return !a.Told.IsZero() && (slices.Contains(req.Names, a.Unit.String()) || slices.Contains(req.Names, string(a.Unit.Snap)))
		}
		if !found || !c.Holds || !slices.ContainsFunc(w.Units, named) {
			continue
		}
		if err := m.updateWait(c.ID, func(w *wait) { w.Kill = true }); err != nil {
			return 0, err
		}
		return c.ID, m.engine.Wake(ctx, c.ID)
	}
	return 0, nil
}
