package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"tenure/internal/proc"
	"tenure/internal/sandbox"
	"tenure/internal/supervise/native"
)

// A start ahead is that of the next generation, by its own unit, while the one before runs: for
// systemd it starts, and takes as long as it will. Its process is in its namespace, and waits for the
// supervisor to say what to become. The alias is still that of the one before, so that nobody
// else starts it; who stops it has ended a preparation.

// abandoned is the exit status of what was started ahead when the supervisor is gone. systemd does
// not start it again.
const abandoned = 199

// longer lets systemd wait for ten years, in the words of sd_notify(3), for what is started ahead.
// When it has become the service it is for the supervisor to say how long it may take.
const longer = "EXTEND_TIMEOUT_USEC=315360000000000"

// aheadPatience bounds a start ahead, which nobody needs.
const aheadPatience = 10 * time.Second

var _ native.Forerunner = (*host)(nil)

// errNoGeneration is that the next start is in the unit that is the service already.
var errNoGeneration = errors.New("no other generation is to follow")

// Ahead implements native.Forerunner.
func (h *host) Ahead(ctx context.Context, p native.Place, profile sandbox.Profile, programs []string) (proc.Group, error) {
	ctx, cancel := context.WithTimeout(ctx, aheadPatience)
	defer cancel()
	h.mu.Lock()
	now, known := h.serving[p.Service]
	h.mu.Unlock()
	if !known || same(now.spec, p.Spec) {
		return proc.Group{}, fmt.Errorf("start %s ahead: %w", p.Service, errNoGeneration)
	}
	group, err := h.Fresh(p)
	if err != nil {
		return group, err
	}
	pl, err := h.at(group)
	if err != nil {
		return group, err
	}
	c, err := h.fetch(ctx, pl)
	if err == nil {
		h.mu.Lock()
		pl.waiting = c
		h.mu.Unlock()
		err = c.wait(ctx, order{Wait: true, Profile: profile, Ahead: programs})
	}
	if err != nil {
		h.Abandon(group)
		return group, fmt.Errorf("start %s ahead: %w", p.Service, err)
	}
	return group, nil
}

// takeWaiting gives who was started ahead in a place, unless that has ended meanwhile.
func (h *host) takeWaiting(pl *place) *caller {
	h.mu.Lock()
	c := pl.waiting
	pl.waiting = nil
	h.mu.Unlock()
	if c == nil {
		return nil
	}
	if ended, err := c.peer.Handle.Ended(); err != nil || ended {
		c.drop()
		return nil
	}
	return c
}

// drop leaves who asks without an answer.
func (c *caller) drop() {
	c.peer.Handle.Close()
	c.close()
}

// Abandon implements native.Forerunner. What systemd cannot be told, for this supervisor ends, is
// left to the next one.
func (h *host) Abandon(group proc.Group) {
	pl, err := h.at(group)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(h.life, aheadPatience)
	defer cancel()
	if c := h.takeWaiting(pl); c != nil {
		c.drop() // It ends by itself; the signal of the service's protocol may mean nothing to it.
	}
	err = h.bus.cancel(ctx, pl.name)
	if err == nil {
		err = h.forgetFailure(ctx, pl.name)
	}
	if err == nil {
		h.mu.Lock()
		delete(h.places, group.Path())
		h.mu.Unlock()
		err = h.files.remove(pl.name)
	}
	if err != nil && h.life.Err() == nil {
		h.logger.Warn("a start ahead is not undone", slog.String("unit", pl.name), slog.Any("error", err))
	}
}

// forgetFailures has systemd forget what an earlier supervisor had started ahead when it died.
func (h *host) forgetFailures(ctx context.Context, names []string) {
	for _, name := range names {
		if err := h.forgetFailure(ctx, name); err != nil {
			h.logger.Debug("a failure is not forgotten", slog.String("unit", name), slog.Any("error", err))
		}
	}
}

// forgetFailure has systemd not show a unit as failed that was told to end.
func (h *host) forgetFailure(ctx context.Context, name string) error {
	now, err := h.bus.look(ctx, name)
	if err == nil && now.active == "failed" {
		err = h.bus.resetFailed(ctx, name)
	}
	return err
}
