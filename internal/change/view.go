package change

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
)

// view is what readers see: copies of all changes that exist, as of the last
// step of each. Only the owner writes to it.
type view struct {
	mu      sync.Mutex
	rev     uint64
	changes map[ID]Change
	// moved is closed, and replaced, when rev grows.
	moved chan struct{}
}

func newView() *view {
	return &view{changes: make(map[ID]Change), moved: make(chan struct{})}
}

func (v *view) put(c Change) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rev++
	c.Rev = v.rev
	v.changes[c.ID] = c
	close(v.moved)
	v.moved = make(chan struct{})
}

func (v *view) drop(id ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.changes, id)
}

func (v *view) get(id ID) (Change, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := v.changes[id]
	return c, ok
}

// all returns the changes modified after rev, ordered by that, the revision
// now, and what is closed when it grows.
func (v *view) all(after uint64) ([]Change, uint64, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	changes := make([]Change, 0, 8)
	for c := range maps.Values(v.changes) {
		if c.Rev > after {
			changes = append(changes, c)
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Rev, b.Rev) })
	return changes, v.rev, v.moved
}

func (v *view) one(id ID) (Change, bool, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := v.changes[id]
	return c, ok, v.moved
}

// Get returns a change; one that does not exist is ErrNotFound. Before Ready,
// none does.
func (e *Engine) Get(id ID) (Change, error) {
	c, ok := e.view.get(id)
	if !ok {
		return Change{}, fmt.Errorf("change %s: %w", id, ErrNotFound)
	}
	return c, nil
}

// List returns the changes that f selects, ordered by ID.
func (e *Engine) List(f Filter) []Change {
	changes, _, _ := e.view.all(0)
	changes = slices.DeleteFunc(changes, func(c Change) bool { return !f.Match(c) })
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.ID, b.ID) })
	return changes
}

// Watch waits until a change was modified after revision rev, which is the Rev
// of the Change that the caller knows, or 0, and returns it. It fails if the
// change does not exist (any more), ctx ends or the engine stops.
func (e *Engine) Watch(ctx context.Context, id ID, rev uint64) (Change, error) {
	for {
		c, ok, moved := e.view.one(id)
		if !ok {
			return Change{}, fmt.Errorf("watch change %s: %w", id, ErrNotFound)
		}
		if c.Rev > rev {
			return c, nil
		}
		if err := e.sleep(ctx, moved); err != nil {
			return Change{}, fmt.Errorf("watch change %s: %w", id, err)
		}
	}
}

// WaitFor waits until a change has ended, and returns it. That the change
// failed is in its Status and Err, and no error here.
func (e *Engine) WaitFor(ctx context.Context, id ID) (Change, error) {
	var rev uint64
	for {
		c, err := e.Watch(ctx, id, rev)
		if err != nil {
			return Change{}, err
		}
		if c.Status.Ready() {
			return c, nil
		}
		rev = c.Rev
	}
}

// Subscribe yields every change that is modified after revision rev, until ctx
// ends or the engine stops. A slow reader misses states in between, never the
// last one. With rev 0 it begins with all changes that exist.
func (e *Engine) Subscribe(ctx context.Context, rev uint64) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		for {
			changes, now, moved := e.view.all(rev)
			for _, c := range changes {
				if !yield(c) {
					return
				}
			}
			rev = now
			if e.sleep(ctx, moved) != nil {
				return
			}
		}
	}
}

// Revision counts the modifications of changes. It starts anew with every
// Engine.
func (e *Engine) Revision() uint64 {
	e.view.mu.Lock()
	defer e.view.mu.Unlock()
	return e.view.rev
}

func (e *Engine) sleep(ctx context.Context, moved <-chan struct{}) error {
	select {
	case <-moved:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.done:
		select {
		case <-moved:
			return nil
		default:
			return ErrShutdown
		}
	}
}
