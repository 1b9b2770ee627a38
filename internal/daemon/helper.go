package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"

	"tenure/internal/api"
	"tenure/internal/entry"
)

// serveEntry lets people run apps. All else works without.
func (p *parts) serveEntry(ctx context.Context, group *errgroup.Group) {
	helper, kept := p.paths.Helper(), p.kept(ctx, doorEntry)
	warning, err := installHelper(companion(p.cfg.Self, companionRun), helper)
	if err != nil {
		p.cfg.Logger.Error("apps cannot be run", slog.Any("error", err))
		p.doors.answer(group, func() error {
			for left := range kept {
				_ = left.File.Close() // Nobody answers.
			}
			return nil
		})
		return
	}
	if warning != "" {
		p.cfg.Logger.Warn("only root can run apps", slog.String("helper", helper), slog.String("reason", warning))
	}
	// It is there before anybody is told that all is.
	listener, err := p.doors.open(doorEntry, p.cfg.Entry, func() (*net.UnixListener, error) { return api.Listen(ctx, p.paths.EntrySocket()) })
	p.doors.answer(group, func() error {
		if err != nil {
			return err
		}
		cfg := api.Config{Listener: listener, Quiesce: p.doors.quiet, Manager: p.manager, Logger: p.cfg.Logger, Box: &p.doors.box}
		return api.ServeEntry(ctx, cfg, p.paths.EntrySocket(), helper, kept)
	})
}

// installHelper makes a program the helper, which has rights that whoever calls it has not: it must be nobody's
// who could not change this one.
func installHelper(program, helper string) (warning string, err error) {
	file, err := openExecutable(program, ofRootOrOwn)
	if err != nil {
		return "", fmt.Errorf("install the helper %s: %w", program, err)
	}
	defer file.Close() //nolint:errcheck // Only read.
	return entry.Install(file, helper)
}
