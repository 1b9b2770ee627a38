package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// stopByHand ends a unit because systemd is asked to, and returns when it has ended, which for what
// may not be killed can take as long as it will. One that is ending, or has ended, is only waited for; and so is one
// of which systemd alone believes that it has: it takes the end of an earlier main process for that of the
// service, and would end the one that there is now as soon as this returns.
func (s *Supervisor) stopByHand(ctx context.Context, q question, group proc.Group) error {
	select {
	case <-s.Ready(): // Only then it is known what the group is.
	case <-ctx.Done():
		return fmt.Errorf("stop %s: %w", q.Unit, context.Cause(ctx))
	}
	unit, known := s.UnitOf(group.Path())
	if !known || s.host.between(group) {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := s.Events(ctx) // From now on.
	status, lives := s.livesIn(ctx, unit, group)
	if !lives {
		return nil
	}
	go s.endByHand(ctx, q, status, group)
	for event := range events {
		over := !event.State.Alive() || event.State == supervise.Starting // That is the next life.
		if event.Kind == supervise.EventState && event.Unit == unit && over {
			return nil
		}
	}
	return fmt.Errorf("wait for %s: %w", unit, context.Cause(ctx))
}

// livesIn is how a unit does whose life is in a group. Of one whose main process has ended systemd has not been asked
// for anything, but follows, unless another is the main process, as it may just have said.
func (s *Supervisor) livesIn(ctx context.Context, unit tenure.UnitID, group proc.Group) (status supervise.Status, lives bool) {
	status, known := s.status(ctx, unit)
	if known && hasEnded(status.Main) {
		_ = s.Hear(ctx, unit) // Where it is not known any more it does not live.
		status, known = s.status(ctx, unit)
	}
	return status, known && status.State.Alive() && status.Group == group.Path() && !hasEnded(status.Main)
}

// How long systemd is asked at a time not to end by itself what the supervisor ends, and how often.
const (
	heldOff = 30 * time.Second
	again   = 5 * time.Second
)

// endByHand ends a unit that systemd is to stop, and keeps systemd from ending it sooner than the
// administrator's rules allow, until ctx ends.
func (s *Supervisor) endByHand(ctx context.Context, q question, status supervise.Status, group proc.Group) {
	ticks := time.NewTicker(again)
	defer ticks.Stop()
	words := fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", heldOff.Microseconds())
	for asked := status.State == supervise.Stopping; ; {
		s.host.Heard(group, status.Main, words)
		if !asked && (!q.Orphan || s.host.Told(ctx, group)) {
			asked = true
			// It is not waited for: it comes to an end only when nobody is in the group, as who asks is.
			go s.endOnTerms(ctx, status.Unit)
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}

// endOnTerms ends a unit as the administrator's rules have it. Where they cannot be asked it is not killed.
func (s *Supervisor) endOnTerms(ctx context.Context, unit tenure.UnitID) {
	reason := tenure.ReasonStop
	if s.host.bus.machineEnds(ctx) {
		reason = tenure.ReasonShutdown
	}
	req := supervise.StopRequest{Units: []tenure.UnitID{unit}, Reason: reason}
	if s.terms != nil {
		terms, err := s.terms(ctx, unit)
		if err != nil && ctx.Err() == nil {
			s.host.logger.Warn("terms of its end are not known, so that it is not killed", slog.Any("unit", unit), slog.Any("error", err))
			terms = supervise.Terms{Kill: supervise.KillNever}
		}
		req.Terms = map[tenure.UnitID]supervise.Terms{unit: terms}
	}
	if _, err := s.Stop(ctx, req); err != nil && ctx.Err() == nil {
		s.host.logger.Warn("unit is not stopped yet", slog.Any("unit", unit), slog.Any("error", err))
	}
}

// livesOn tells systemd, which starts a service because it takes it for ended, which process the service is, and who it
// has started that there is nothing to become. It reports whether that is so: the service lives in the unit's own group.
func (s *Supervisor) livesOn(ctx context.Context, c *caller, unit tenure.UnitID) bool {
	status, lives := s.livesIn(ctx, unit, s.host.groupFor(unit, c.Unit))
	if !lives {
		return false
	}
	// It is read before the end of who is told next.
	err := relay(c.peer.Handle.Process().PID, fmt.Sprintf("READY=1\n%s=%d", mainPID, status.Main.PID))
	if err == nil {
		err = c.tell(order{Lives: true}, nil)
	}
	s.host.logger.Warn("systemd had lost the main process of a service that runs", slog.Any("unit", unit), slog.Any("error", err))
	c.peer.Handle.Close()
	c.close()
	return true
}

// hasEnded reports whether a main process has ended, which the supervisor may not have heard yet: then
// systemd has not been asked for anything, but follows.
func hasEnded(main tenure.Process) bool {
	handle, err := proc.Open(main)
	if err != nil {
		return errors.Is(err, proc.ErrGone)
	}
	defer handle.Close()
	ended, err := handle.Ended()
	return err == nil && ended
}
