package daemon

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"tenure/internal/api"
	"tenure/internal/entry"
)

// serveEntry lets people run apps. All else works without.
func (p *parts) serveEntry(ctx context.Context, group *errgroup.Group) {
	helper := p.paths.Helper()
	warning, err := entry.Install(filepath.Join(filepath.Dir(p.cfg.Self), "tenure-run"), helper)
	if err != nil {
		p.cfg.Logger.Error("apps cannot be run", slog.Any("error", err))
		return
	}
	if warning != "" {
		p.cfg.Logger.Warn("only root can run apps", slog.String("helper", helper), slog.String("reason", warning))
	}
	p.doors.answer(group, func() error {
		listener, err := p.doors.open(doorEntry, p.cfg.Entry, func() (*net.UnixListener, error) { return api.Listen(ctx, p.paths.EntrySocket()) })
		if err != nil {
			return err
		}
		cfg := api.Config{Listener: listener, Quiesce: p.doors.quiet, Manager: p.manager, Logger: p.cfg.Logger}
		return api.ServeEntry(ctx, cfg, p.paths.EntrySocket(), helper)
	})
}
