package api

import (
	"errors"
	"io/fs"
	"os"
	"sync"
)

// litter is what was received and is not needed any more, and that the disk has refused to remove.
type litter struct {
	mu    sync.Mutex
	paths []string
}

// remove takes files away, those too that could not be when others were.
func (l *litter) remove(paths ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var left []string
	for _, path := range append(l.paths, paths...) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			left = append(left, path)
		}
	}
	l.paths = left
}
