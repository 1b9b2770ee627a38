package refresh

import "context"

// Turn is how work is done that others ask for as often as they like, such as reading all
// that sources have: one after another, in the order in which they came.
type Turn chan struct{}

// NewTurn is a Turn that nobody has.
func NewTurn() Turn { return make(Turn, 1) }

// Take waits until nobody has it, or ctx ends.
func (t Turn) Take(ctx context.Context) (done func(), err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
