package refresh

import (
	"context"
	"fmt"
	"time"

	"tenure"
	"tenure/internal/hook"
)

// Health is what a revision of a snap has last said of itself.
type Health struct {
	hook.Health

	Revision tenure.Revision
	// At is when it said so.
	At time.Time
}

// healthRecord is a Health as it is kept, with who said it.
type healthRecord struct {
	hook.Health

	Unit tenure.UnitID `json:"unit"`
	At   time.Time     `json:"at"`
}

// SetHealth notes what the caller says of the revision that it runs from.
func (p Packages) SetHealth(ctx context.Context, c hook.Caller, health hook.Health) error {
	status, err := p.m.statusOf(ctx, c.Unit)
	if err != nil {
		return err
	}
	ref := tenure.Ref{Snap: c.Unit.Snap, Revision: status.Revision}
	if err := p.m.confs.health.Put(ref.String(), healthRecord{Health: health, Unit: c.Unit, At: p.m.cfg.Now()}); err != nil {
		return fmt.Errorf("note the health of %s: %w", ref, err)
	}
	return nil
}

// health is what a revision has last said of itself; nil if it has said nothing.
func (m *Manager) health(ref tenure.Ref) (*Health, error) {
	said, found, err := m.confs.health.Get(ref.String())
	if err != nil {
		return nil, fmt.Errorf("see the health of %s: %w", ref, err)
	}
	if !found {
		return nil, nil //nolint:nilnil // To have said nothing is no error.
	}
	return &Health{Health: said.Health, Revision: ref.Revision, At: said.At}, nil
}
