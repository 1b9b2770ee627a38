package changetest_test

import (
	"testing"

	"tenure/internal/change"
	"tenure/internal/change/changetest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	changetest.Run(t, func(*testing.T) func() change.Store {
		store := new(changetest.Memory)
		return func() change.Store { return store }
	})
}
