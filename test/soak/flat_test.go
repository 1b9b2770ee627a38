package soak

import "testing"

// What grows with every step is told from what grows with the processes that there are.
func TestTrend(t *testing.T) {
	t.Parallel()
	var grows, follows flatness
	for n := range 2 * enough {
		size := n * 7 % 13
		grows.samples = append(grows.samples, sample{step: n, life: 1, size: size, values: map[string]float64{"daemon threads": float64(n + size)}})
		follows.samples = append(follows.samples, sample{step: n, life: 1, size: size, values: map[string]float64{"daemon threads": float64(40 + 3*size)}})
	}
	if grown := grows.growth(); len(grown) != 1 {
		t.Errorf("a thread with every step: %v", grown)
	}
	if grown := follows.growth(); len(grown) != 0 {
		t.Errorf("three threads for each process: %v", grown)
	}
}

// What a daemon has lost track of shows when the next one does without, whatever runs.
func TestShed(t *testing.T) {
	t.Parallel()
	var loses, keeps flatness
	for n := range 4 * lived {
		life, size := 1+n/(2*lived), 20+n*7%13
		lost := float64(n % (2 * lived)) // Since the daemon began.
		needs := float64(3 * size)
		loses.samples = append(loses.samples, sample{step: n, life: life, size: size, values: map[string]float64{"daemon descriptors": needs + lost}})
		keeps.samples = append(keeps.samples, sample{step: n, life: life, size: size, values: map[string]float64{"daemon descriptors": needs}})
	}
	if lost := loses.shed(); len(lost) != 1 {
		t.Errorf("a descriptor lost with every step: %v", lost)
	}
	if lost := keeps.shed(); len(lost) != 0 {
		t.Errorf("three descriptors for each unit: %v", lost)
	}
}
