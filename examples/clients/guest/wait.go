package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// Wait follows the serial line at path until the story that it tells is what
// the caller waits for, and returns it. The directory of the line must exist;
// the file need not yet. It fails where ReadLine does.
func Wait(ctx context.Context, path string, until func(Line) bool) (line Line, err error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return Line{}, fmt.Errorf("watch the serial line: %w", err)
	}
	defer func() { err = errors.Join(err, watcher.Close()) }()
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		return Line{}, fmt.Errorf("watch the serial line: %w", err)
	}
	for {
		line, err := ReadLine(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return line, err
		}
		if until(line) {
			return line, nil
		}
		select {
		case <-watcher.Events:
		case err := <-watcher.Errors:
			return line, fmt.Errorf("watch the serial line: %w", err)
		case <-ctx.Done():
			return line, fmt.Errorf("serial line %s still at %+v: %w", path, line, context.Cause(ctx))
		}
	}
}

// Ticks waits for n more ticks from the counter from on.
func Ticks(ctx context.Context, path string, from uint32, n int) (Line, error) {
	return Wait(ctx, path, func(l Line) bool { return int64(l.Counter) >= int64(from)+int64(n) })
}
