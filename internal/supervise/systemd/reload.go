package systemd

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// reloadQuiet is for how long no unit file must have changed before systemd is made to read
// them: what belongs to one change is read at once.
const reloadQuiet = 500 * time.Millisecond

// keepReloaded makes systemd read the unit files again when they have changed, and never in a gap: it
// starts and stops nothing meanwhile.
func (h *host) keepReloaded(ctx context.Context) {
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
func (s *Supervisor) Gap(begins bool) { s.host.gap.set(begins) }
