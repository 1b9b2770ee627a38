package soak

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

// The history of a snap keeps one revision to go back to, what processes use, and no more.
func TestLine(t *testing.T) {
	t.Parallel()
	var l line
	l.to(1)
	l.to(2)
	l.to(3)
	if kept := l.collect(map[int]bool{1: true}); !reflect.DeepEqual(kept, []int{1, 2, 3}) {
		t.Errorf("with a process on x1: %v", kept)
	}
	l.Current = l.previous()
	l.to(4)
	if kept := l.collect(nil); !reflect.DeepEqual(kept, []int{2, 4}) || l.previous() != 2 {
		t.Errorf("after a revert from x3 to x2 and a refresh to x4: %v, %+v", kept, l)
	}
}

// What is drawn for a step takes as many numbers whatever comes of it.
func TestDrawsAreTheSameAgain(t *testing.T) {
	t.Parallel()
	for n := range uint64(100) {
		one, two := rand.New(rand.NewPCG(7, n)), rand.New(rand.NewPCG(7, n)) //nolint:gosec // To be drawn again.
		for range 5 {
			if a, b := draw(one, 8), draw(two, 8); a != b {
				t.Fatalf("%+v and %+v", a, b)
			}
		}
	}
}
