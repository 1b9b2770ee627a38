package refresh

import (
	"context"
	"slices"
	"sync"

	"tenure"
)

// claims lets one at a time look at a snap's state and act on what it saw:
// requests until their change has been made, and the collector. A change that
// runs is kept from others by the engine; the claim only covers the moment
// before.
type claims struct {
	mu    sync.Mutex
	taken map[tenure.Instance]chan struct{}
}

// take claims snaps, in order of their names so that two who want the same ones
// do not wait for each other, and gives what releases them.
func (c *claims) take(ctx context.Context, snaps ...tenure.Instance) (release func(), err error) {
	snaps = slices.Compact(slices.Sorted(slices.Values(snaps)))
	var done []tenure.Instance
	release = func() { c.release(done) }
	for _, snap := range snaps {
		if err := c.takeOne(ctx, snap); err != nil {
			release()
			return nil, err
		}
		done = append(done, snap)
	}
	return release, nil
}

func (c *claims) takeOne(ctx context.Context, snap tenure.Instance) error {
	for {
		c.mu.Lock()
		held, busy := c.taken[snap]
		if !busy {
			if c.taken == nil {
				c.taken = make(map[tenure.Instance]chan struct{})
			}
			c.taken[snap] = make(chan struct{})
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *claims) release(snaps []tenure.Instance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, snap := range snaps {
		close(c.taken[snap])
		delete(c.taken, snap)
	}
}
