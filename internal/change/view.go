package change

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
)

// view is what readers see: copies of all changes that exist, as of the last
// step of each. Only the owner writes to it.
type view struct {
	mu  sync.Mutex
	rev uint64
	// changes are the copies, which nobody modifies any more, ordered by when they were made: hundreds have ended, and who
	// follows those that go on looks at the last few alone. at is where each is.
	changes *list.List
	at      map[ID]*list.Element
	// moved is closed, and replaced, when rev grows.
	moved chan struct{}
}

func newView() *view {
	return &view{changes: list.New(), at: make(map[ID]*list.Element), moved: make(chan struct{})}
}

// seen is the copy that is in the list.
func seen(e *list.Element) *Change { return e.Value.(*Change) } //nolint:forcetypeassert // Nothing else is put into it.

func (v *view) put(c Change) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rev++
	c.Rev = v.rev
	v.remove(c.ID)
	v.at[c.ID] = v.changes.PushBack(&c)
	close(v.moved)
	v.moved = make(chan struct{})
}

func (v *view) drop(id ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.remove(id)
}

func (v *view) remove(id ID) {
	if e, ok := v.at[id]; ok {
		v.changes.Remove(e)
		delete(v.at, id)
	}
}

func (v *view) get(id ID) (Change, bool) {
	c, ok, _ := v.one(id)
	return c, ok
}

// after returns the changes modified after rev, ordered by that, the revision
// now, and what is closed when it grows.
func (v *view) after(rev uint64) ([]Change, uint64, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var changes []Change
	for e := v.changes.Back(); e != nil && seen(e).Rev > rev; e = e.Prev() {
		changes = append(changes, *seen(e))
	}
	slices.Reverse(changes)
	return changes, v.rev, v.moved
}

// matching are the changes that f selects.
func (v *view) matching(f Filter) (changes []Change) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for e := v.changes.Front(); e != nil; e = e.Next() {
		if f.Match(seen(e)) {
			changes = append(changes, *seen(e))
		}
	}
	return changes
}

// one is a change, whether it exists, and what is closed when any is modified.
func (v *view) one(id ID) (c Change, ok bool, moved <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e, ok := v.at[id]
	if ok {
		c = *seen(e)
	}
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
	changes := e.view.matching(f)
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
			changes, now, moved := e.view.after(rev)
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
