package soak

import "testing"

// What grows with every step is told from what grows with the processes that there are.
func TestTrend(t *testing.T) {
	t.Parallel()
	var grows, follows flatness
	for n := range 2 * enough {
		size := n * 7 % 13
		grows.samples = append(grows.samples, sample{step: n, life: 1, size: size, values: map[string]float64{"daemon descriptors": float64(n + size)}})
		follows.samples = append(follows.samples, sample{step: n, life: 1, size: size, values: map[string]float64{"daemon descriptors": float64(40 + 3*size)}})
	}
	if grown := grows.growth(); len(grown) != 1 {
		t.Errorf("a descriptor with every step: %v", grown)
	}
	if grown := follows.growth(); len(grown) != 0 {
		t.Errorf("three descriptors for each process: %v", grown)
	}
}
