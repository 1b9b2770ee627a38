package soak

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"testing"
	"time"

	"tenure/client"
	"tenure/test/rig"
)

// TestSoak is the short form of "make soak", which sets what is read here.
func TestSoak(t *testing.T) {
	t.Parallel()
	cfg := config{Seed: 3, Snaps: 8, Time: 40 * time.Second, Steps: 24, Width: 4, Log: t.Logf}
	number(t, "SOAK_SEED", func(n int) { cfg.Seed = uint64(n) }) //nolint:gosec // Any number will do.
	number(t, "SOAK_SNAPS", func(n int) { cfg.Snaps = n })
	if text := os.Getenv("SOAK_TIME"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Time, cfg.Steps, cfg.Width = d, math.MaxInt, 6
	}
	number(t, "SOAK_STEPS", func(n int) { cfg.Steps = n })
	fmt.Printf("soak: seed %d, %d snaps, %s\n", cfg.Seed, cfg.Snaps, cfg.Time) //nolint:forbidigo // Also when nothing else is.
	r := begin(t, cfg)
	if err := r.walk(t.Context()); err != nil {
		t.Error(err)
	}
	for _, grown := range r.flat.growth() {
		t.Error(grown)
	}
	t.Logf("%+v\nof the first step to the last:\n%s", r.counts, &r.flat)
}

func number(t *testing.T, name string, set func(int)) {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	set(n)
}

// begin is a world in which nothing but the base is installed.
func begin(t *testing.T, cfg config) *run {
	t.Helper()
	i := rig.New(t, rig.Config{})
	p, err := newPacker(t.Context(), t.TempDir(), i.Bin)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{
		cfg: cfg, world: &world{Snaps: map[string]*snap{}, Sets: map[uint64]*saved{}, Ruled: map[string]bool{}},
		operator: &operator{Instance: i, client: i.Client(), packer: p, staged: map[string]string{}, known: map[string]known{}},
		counts:   counts{ByKind: map[string]int{}},
	}
	for n := range cfg.Snaps {
		name := fmt.Sprintf("s%02d", n)
		r.names = append(r.names, name)
		r.world.Snaps[name] = &snap{Name: name, Roles: rolesOf(n)}
	}
	file, err := p.base(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ask(t.Context(), &op{}, func() (string, error) {
		return i.Client().Do(t.Context(), client.Action{Action: "install", Files: []string{file}, Dangerous: true})
	}); err != nil {
		t.Fatal(err)
	}
	r.world.Base.to(1)
	return r
}
