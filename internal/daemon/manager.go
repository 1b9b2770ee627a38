package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"tenure/internal/change"
)

// Manager is who manages the daemon's process, as systemd does (sd_notify(3)). The
// zero value wants to know nothing.
type Manager struct {
	// Notify tells it a state, such as "READY=1".
	Notify func(ctx context.Context, state string) error
	// Barrier returns when it has read what it was told.
	Barrier func(ctx context.Context) error
	// Watchdog is how long it waits for a sign of life before it ends the daemon; 0 is
	// for ever.
	Watchdog time.Duration
}

// ready tells everybody that requests are answered, and the manager from then on how
// the daemon is, until ctx ends.
func (p *parts) ready(ctx context.Context) {
	if p.cfg.Ready != nil {
		p.cfg.Ready()
	}
	if p.cfg.Manager.Notify == nil {
		return
	}
	p.notify(ctx, "READY=1\nSTATUS="+status(nil))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		p.tellStatus(ctx)
		return nil
	})
	group.Go(func() error {
		p.cfg.Manager.tellAlive(ctx, func() { p.notify(ctx, "WATCHDOG=1") }, p.engine.Answers, p.supervisorAnswers)
		return nil
	})
	_ = group.Wait() // None of them fails.
	select {
	case <-p.doors.quiet:
		return // Another program takes the place of this one, in this process.
	default:
	}
	p.notify(context.WithoutCancel(ctx), "STOPPING=1\nSTATUS=Ending; what runs goes on.")
}

func (p *parts) notify(ctx context.Context, state string) {
	if p.cfg.Manager.Notify == nil {
		return
	}
	if err := p.cfg.Manager.Notify(ctx, state); err != nil {
		p.cfg.Logger.Warn("cannot tell the manager of this process", slog.String("state", state), slog.Any("error", err))
	}
}

// heard waits until the manager, if there is one, has read what it was told: it does not believe who has ended meanwhile.
func (m Manager) heard(ctx context.Context) {
	if m.Barrier == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaving/2)
	defer cancel()
	_ = m.Barrier(ctx) // One that does not read does not know better.
}

// supervisorAnswers returns when the supervisor does.
func (p *parts) supervisorAnswers(ctx context.Context) error {
	_, err := p.supervisor.Units(ctx)
	return err
}

// tellStatus tells what the daemon is at.
func (p *parts) tellStatus(ctx context.Context) {
	inProgress, filter, last := map[change.ID]string{}, change.Filter{Select: change.InProgress}, status(nil)
	for c := range p.engine.Subscribe(ctx, 0) {
		delete(inProgress, c.ID)
		if filter.Match(&c) {
			inProgress[c.ID] = c.Summary
		}
		if text := status(inProgress); text != last {
			last = text
			p.notify(ctx, "STATUS="+text)
		}
	}
}

// status is what is said of changes, of which the summaries are given.
func status(inProgress map[change.ID]string) string {
	if len(inProgress) > 1 {
		return fmt.Sprintf("%d changes are in progress.", len(inProgress))
	}
	for id, summary := range inProgress {
		return fmt.Sprintf("Change %s: %s", id, summary)
	}
	return "Idle."
}

// tellAlive gives signs of life, twice in the time that the manager waits for one, for
// as long as those answer without whom nothing goes on.
func (m Manager) tellAlive(ctx context.Context, sign func(), answers ...func(context.Context) error) {
	const signs = 2
	if m.Watchdog <= 0 {
		return
	}
	ticker := time.NewTicker(max(m.Watchdog/signs, time.Millisecond))
	defer ticker.Stop()
	for {
		for _, answer := range answers {
			if answer(ctx) != nil {
				return // The daemon ends.
			}
		}
		sign()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
