package cli

import (
	"context"
	"errors"
	"os"
	"sync"
)

// errInterrupted is the cause with which a command ends that was interrupted.
var errInterrupted = errors.New("interrupted")

// interrupts decides what an interrupt (^C) does at the moment: it ends the
// command, unless something better has been found to do.
type interrupts struct {
	mu sync.Mutex
	do func()
}

// listen reacts to signals until ctx ends.
func (i *interrupts) listen(ctx context.Context, signals <-chan os.Signal, end func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			i.take(end)()
		}
	}
}

// take is what the next interrupt does; the one after it ends the command.
func (i *interrupts) take(end func()) func() {
	i.mu.Lock()
	defer i.mu.Unlock()
	do := i.do
	i.do = nil
	if do == nil {
		return end
	}
	return do
}

// instead makes the next interrupt call do, until the returned function is called.
func (i *interrupts) instead(do func()) (restore func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.do = do
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.do = nil
	}
}
