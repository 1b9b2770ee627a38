package refresh

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
)

// oneStep does with a number what the test wants.
type oneStep func(context.Context, int) error

func (s oneStep) Do(ctx context.Context, n int) (nothing, error) { return nothing{}, s(ctx, n) }

func (oneStep) Undo(context.Context, int, nothing) error { return nil }

// A panic over one of several snaps is the failure of the step, and what has not begun when one fails does not.
func TestTogetherEndsWithTheFirstFailure(t *testing.T) {
	t.Parallel()
	each := make([]int, 100)
	for n := range each {
		each[n] = n
	}
	var begun atomic.Int64
	failing := func(do func() error) error {
		begun.Store(0)
		_, err := togetherStep[int]{oneStep(func(ctx context.Context, n int) error {
			if begun.Add(1); n == 0 {
				return do()
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})}.Do(t.Context(), togetherParams[int]{each})
		return err
	}
	torn := errors.New("torn")
	if err := failing(func() error { return torn }); !errors.Is(err, torn) || errors.Is(err, context.Canceled) {
		t.Errorf("it fails with %v, want %v alone", err, torn)
	}
	if n := begun.Load(); n > sideBySide {
		t.Errorf("%d of %d have begun, with one that fails", n, len(each))
	}
	if err := failing(func() error { panic("of one") }); err == nil || !strings.Contains(err.Error(), "panicked: of one") {
		t.Errorf("a panic is the error %v", err)
	}
}
