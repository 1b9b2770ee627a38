package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"tenure/internal/proc"
	"tenure/internal/supervise/systemd"
)

// bootPatience bounds what Boot waits for: who calls the daemon waits as long, when the machine boots.
const bootPatience = 2 * time.Minute

// Boot does what is to be done before services start with the machine, in the place of a daemon that
// may not be started at all: it mounts the snaps, goes on with what was interrupted, applies
// what is staged, starts the services, and ends. Where there is a daemon it has done so.
func Boot(ctx context.Context, cfg Config) error {
	cfg.early = true
	p, err := assemble(ctx, cfg)
	if errors.Is(err, ErrRunning) {
		cfg.Logger.InfoContext(ctx, "nothing is left to do", slog.Any("reason", err))
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	ctx, done := context.WithCancel(ctx)
	defer done()
	return p.run(ctx, func(ctx context.Context) error {
		defer done()
		return p.boot(ctx)
	})
}

func (p *parts) boot(ctx context.Context) error {
	patient, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	err := p.manager.BringUp(patient)
	if patient.Err() != nil && ctx.Err() == nil {
		p.cfg.Logger.WarnContext(ctx, "not all is as it is to be yet; the daemon goes on with it", slog.Any("error", err))
		err = nil
	}
	s, is := p.supervisor.(*systemd.Supervisor)
	if err != nil || !is {
		return err // What was not started here systemd starts as it is written down.
	}
	return s.Booted(ctx)
}

// askAgain is how long it takes until a daemon that begins or ends is looked for once more: nobody tells
// of both.
const askAgain = 50 * time.Millisecond

// StopUnit ends a service that systemd has been asked to stop, as a daemon would: its workloads are
// set apart, and its protocol is carried out. args are those that systemd.Main had when it
// found nobody to do so. Several that are asked for at once take turns, or do it for each other.
func StopUnit(ctx context.Context, cfg Config, args []string) error {
	for {
		p, err := assemble(ctx, cfg)
		if err == nil {
			defer p.close()
			return p.stopUnit(ctx, args)
		}
		if !errors.Is(err, ErrRunning) {
			return err
		}
		if err := systemd.Main(args); !errors.Is(err, systemd.ErrNobody) {
			return err
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return fmt.Errorf("stop a unit: %w", context.Cause(ctx))
		}
	}
}

func (p *parts) stopUnit(ctx context.Context, args []string) error {
	s, is := p.supervisor.(*systemd.Supervisor)
	if !is {
		return fmt.Errorf("stop a unit: %w", errors.ErrUnsupported)
	}
	// It would stand still with the unit that it is run for.
	if err := proc.GroupAt(p.holderGroup.Path()).Move(os.Getpid()); err != nil {
		return fmt.Errorf("stop a unit: %w", err)
	}
	ctx, done := context.WithCancel(ctx)
	defer done()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.history.Run(ctx) })
	group.Go(func() error { return s.Run(ctx) })
	if !await(ctx, s.Ready()) {
		return group.Wait()
	}
	err := s.StopByHand(ctx, systemd.UnitOf(args))
	done()
	return errors.Join(err, group.Wait())
}
