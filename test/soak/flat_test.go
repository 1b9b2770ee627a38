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

// What a daemon has lost track of shows when the next one does without, whatever runs; not what it has for apps that run, nor
// where its holder ends with it.
func TestShed(t *testing.T) {
	t.Parallel()
	var loses, keeps, serves, both flatness
	for n := range 4 * lived {
		life, size := 1+n/(2*lived), 20+n*7%13
		since := n % (2 * lived) // The daemon began.
		add := func(f *flatness, apps, more, holder int) {
			f.samples = append(f.samples, sample{
				step: n, life: life, holder: holder, size: size, apps: apps, values: map[string]float64{"daemon descriptors": float64(3*size + more)},
			})
		}
		add(&loses, since/4, since, 1)
		add(&keeps, 0, 0, 1)
		add(&serves, since/2, since, 1)
		add(&both, 0, since, life)
	}
	if lost := loses.shed(); len(lost) != 1 {
		t.Errorf("a descriptor lost with every step: %v", lost)
	}
	for what, f := range map[string]*flatness{"three descriptors for each unit": &keeps, "two more for each app": &serves, "another holder": &both} {
		if lost := f.shed(); len(lost) != 0 {
			t.Errorf("%s: %v", what, lost)
		}
	}
}
