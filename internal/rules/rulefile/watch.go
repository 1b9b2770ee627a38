package rulefile

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long the file must have been left alone before it is looked at: who
// writes it in place takes a moment.
const settle = 100 * time.Millisecond

// Watch looks at the file whenever something happens in its directory, which it makes
// if it is not there, and calls changed after other rules have been loaded than those that
// were known when it began. It returns when ctx ends. Where nothing can be watched, the rules are still those of the file as it is
// when they are asked for; only nobody is told before.
func (k *Keeper) Watch(ctx context.Context, changed func()) error {
	seen := k.now.Load()
	if seen == nil {
		k.Rules()
		seen = k.now.Load()
	}
	watcher, err := k.watcher()
	if err != nil {
		k.cfg.Logger.Warn("the rules are not watched", slog.Any("error", err))
		<-ctx.Done()
		return nil
	}
	defer watcher.Close() //nolint:errcheck // Nothing was written.
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for {
		select {
		case <-watcher.Events:
			timer.Reset(settle)
		case err := <-watcher.Errors:
			k.cfg.Logger.Warn("the rules are not watched well", slog.Any("error", err))
			timer.Reset(settle)
		case <-timer.C:
			k.Rules()
			if now := k.now.Load(); now != seen {
				seen = now
				changed()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (k *Keeper) watcher() (*fsnotify.Watcher, error) {
	dir := filepath.Dir(k.cfg.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the rules: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	if err := watcher.Add(dir); err != nil {
		_ = watcher.Close() // It watches nothing.
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return watcher, nil
}
