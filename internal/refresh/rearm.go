package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"tenure"
	"tenure/internal/supervise"
)

// rearm has what waits of a snap that nobody works on, for somebody who connects or for its
// time, begin on the current revision of its base: nothing runs there that would have to stay. Its sockets
// stay as they are, with who is in them. Somebody may connect meanwhile, and is then served from
// the base of before.
func (m *Manager) rearm(ctx context.Context, snap tenure.Instance) error {
	state, err := m.snaps.Get(snap)
	if err != nil || state == nil || !state.Line.Active {
		return err
	}
	statuses, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return fmt.Errorf("see what waits of %s: %w", snap, err)
	}
	known, err := m.instancesOf(snap)
	if err != nil {
		return err
	}
	var failures []error
	for _, status := range statuses {
		if _, kept := state.Kept[status.Revision]; !kept || status.Unit.Snap != snap || !waitsOnBase(status) {
			continue
		}
		r, err := m.runnable(state, status.Revision)
		if KindOf(err) == KindBase {
			return nil // It is disabled: what waits finds it as it was.
		}
		if err != nil {
			return err
		}
		if r.Base == status.Spec.Base {
			continue
		}
		spec, err := m.spec(r, status.Unit, known)
		if err == nil {
			err = m.cfg.Supervisor.Start(ctx, spec)
		}
		switch {
		case errors.Is(err, supervise.ErrRunning):
		case err != nil:
			failures = append(failures, fmt.Errorf("have %s wait on %s: %w", status.Unit, r.Base, err))
		default:
			m.cfg.Logger.InfoContext(ctx, "waits on another base", slog.String("unit", status.Unit.String()), slog.String("base", r.Base.String()))
			m.Wake() // The base of before may have been kept for nothing else.
		}
	}
	return errors.Join(failures...)
}

// waitsOnBase reports whether a unit has no process, and would begin on a base.
func waitsOnBase(status supervise.Status) bool {
	armed := status.State == supervise.Listening || status.State == supervise.Waiting
	return armed && status.Unit.Kind == tenure.Service && status.Spec != nil && !status.Spec.Base.IsZero()
}
