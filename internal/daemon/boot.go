package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

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

// makeRoom is for how long whoever has given the lock back leaves it to others.
const makeRoom = 10 * time.Second

// errMadeRoom is that the lock was given back before the unit had ended.
var errMadeRoom = errors.New("another one is to have the lock")

// StopUnit ends a service that systemd has been asked to stop, as a daemon would: its workloads are
// set apart, and its protocol is carried out. args are those that systemd.Main had when it
// found nobody to do so. Several that are asked for at once take turns, or do it for each other. A daemon that
// starts meanwhile says so by a signal, and goes on with it; should none come this does.
func StopUnit(ctx context.Context, cfg Config, args []string, told <-chan os.Signal) error {
	cfg.helper = true
	var room <-chan time.Time
	for {
		if room == nil {
			err := stopAsDaemon(ctx, cfg, args, told)
			switch {
			case errors.Is(err, errMadeRoom):
				room = time.After(makeRoom)
			case !errors.Is(err, ErrRunning):
				return err
			}
		}
		if err := systemd.Main(args); !errors.Is(err, systemd.ErrNobody) {
			return err
		}
		select {
		case <-room:
			room = nil
		case <-time.After(askAgain):
		case <-ctx.Done():
			return fmt.Errorf("stop a unit: %w", context.Cause(ctx))
		}
	}
}

// stopAsDaemon ends a service in the place of a daemon, in the group of the holder: it would stand still with the unit
// that it is run for. Who is told to make room asks from where it was.
func stopAsDaemon(ctx context.Context, cfg Config, args []string, told <-chan os.Signal) error {
	select {
	case <-told: // That was for an earlier time.
	default:
	}
	p, err := assemble(ctx, cfg)
	if err != nil {
		return err
	}
	defer p.close()
	home, err := p.hierarchy.GroupOf(os.Getpid())
	if err == nil {
		err = proc.GroupAt(p.holderGroup.Path()).Move(os.Getpid())
	}
	if err != nil {
		return fmt.Errorf("stop a unit: %w", err)
	}
	ctx, done := context.WithCancelCause(ctx)
	defer done(nil)
	go func() {
		select {
		case <-told:
			done(errMadeRoom)
		case <-ctx.Done():
		}
	}()
	err = p.stopUnit(ctx, args)
	if err == nil || !errors.Is(context.Cause(ctx), errMadeRoom) {
		return err
	}
	if err := home.Move(os.Getpid()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stop a unit: %w", err)
	}
	return errMadeRoom
}

func (p *parts) stopUnit(ctx context.Context, args []string) error {
	s, is := p.supervisor.(*systemd.Supervisor)
	if !is {
		return fmt.Errorf("stop a unit: %w", errors.ErrUnsupported)
	}
	ready, err := p.supervised(ctx, func(ctx context.Context) error { return s.StopByHand(ctx, systemd.UnitOf(args)) })
	if !ready {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}
