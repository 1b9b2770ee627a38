package systemd

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"

	"tenure/internal/supervise"
)

// Booted ends what is done in the place of systemd before services may start: all that are to run have
// been started. What systemd still has in mind for them is called off, for it may mean a
// generation that is not the service any more, or a service that is not to run; and it gets to know the
// newest units, if any were changed.
func (s *Supervisor) Booted(ctx context.Context) error {
	h := s.host
	if err := h.bus.callOff(ctx, func(unit string) bool {
		_, _, ours := h.names.parse(unit)
		return ours
	}); err != nil {
		return err
	}
	select {
	case <-h.files.changed:
		return h.bus.reload(ctx)
	default:
		return nil
	}
}

// callOff cancels all that waits to be started among units.
func (b *bus) callOff(ctx context.Context, among func(unit string) bool) error {
	conn, _, err := b.get()
	if err != nil {
		return err
	}
	jobs, err := conn.ListJobsContext(ctx)
	if err != nil {
		return fmt.Errorf("see what waits to be started: %w", err)
	}
	for _, j := range jobs {
		if j.JobType == "start" && j.Status == "waiting" && among(j.Unit) {
			// What cannot be called off has begun, or is over.
			_ = b.manager().CallWithContext(ctx, "org.freedesktop.systemd1.Manager.CancelJob", 0, j.Id).Err
		}
	}
	return nil
}

// manager is systemd itself, for what the library does not have.
func (b *bus) manager() dbus.BusObject {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.raw.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
}

// StopByHand ends a service as if systemd had asked for it, and returns when it has ended. It is for a
// supervisor that is run for nothing else.
func (s *Supervisor) StopByHand(ctx context.Context, unit string) error {
	id, _, ok := s.host.names.parse(unit)
	if !ok {
		return fmt.Errorf("stop %s: %w", unit, supervise.ErrUnknown)
	}
	if err := s.stopByHand(ctx, question{Unit: unit}, s.host.groupFor(id, unit)); err != nil {
		return fmt.Errorf("stop %s: %w", unit, err)
	}
	return nil
}
