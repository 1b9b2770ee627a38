package systemd

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// reloadQuiet is for how long no unit file must have changed before systemd is made to read
// them: what belongs to one change is read at once.
const reloadQuiet = 500 * time.Millisecond

// keepReloaded makes systemd read the unit files again when they have changed, and never in a gap: it
// starts and stops nothing meanwhile.
func (h *host) keepReloaded(ctx context.Context) {
	if missed, err := h.missed(ctx); err != nil && ctx.Err() == nil {
		h.logger.Warn("systemd may not know the newest units", slog.Any("error", err))
	} else if missed {
		h.files.stale()
	}
	for {
		select {
		case <-h.files.changed:
		case <-ctx.Done():
			return
		}
		if !h.quiet(ctx) {
			return
		}
		if err := h.bus.reload(ctx); err != nil && ctx.Err() == nil {
			h.logger.Warn("systemd does not know the newest units", slog.Any("error", err))
		}
	}
}

// missed reports whether systemd is to read the units again because an earlier supervisor ended before that was
// done: an alias is another unit's for systemd, or the file of a unit has changed since.
func (h *host) missed(ctx context.Context) (bool, error) {
	links := h.files.linked(h.names)
	if len(links) == 0 {
		return false, nil
	}
	known, err := h.bus.resolve(ctx, slices.Collect(maps.Keys(links)))
	if err != nil {
		return false, err
	}
	for _, name := range links {
		if !slices.Contains(known, name) {
			return true, nil
		}
		if changed, err := h.bus.changed(ctx, name); changed || err != nil {
			return changed, err
		}
	}
	return false, nil
}

// quiet returns when no file has changed for a while, and there is no gap. It reports false when ctx
// has ended.
func (h *host) quiet(ctx context.Context) bool {
	for {
		select {
		case <-h.files.changed:
			continue
		case <-time.After(reloadQuiet):
		case <-ctx.Done():
			return false
		}
		over := h.gap.over()
		select {
		case <-over:
			return true
		default:
		}
		select {
		case <-over:
		case <-ctx.Done():
			return false
		}
	}
}

// gap is the time in which services are down for a change.
type gap struct {
	mu sync.Mutex
	// end is closed at its end; nil when there is none.
	end chan struct{}
}

func (g *gap) set(begins bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case begins && g.end == nil:
		g.end = make(chan struct{})
	case !begins && g.end != nil:
		close(g.end)
		g.end = nil
	}
}

// over is closed when there is no gap, or at the end of the one that there is.
func (g *gap) over() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.end != nil {
		return g.end
	}
	none := make(chan struct{})
	close(none)
	return none
}

// Gap is told when the first change enters a gap, and when the last has left it.
func (s *Supervisor) Gap(begins bool) {
	s.host.gap.set(begins)
	s.Turn(begins)
}
