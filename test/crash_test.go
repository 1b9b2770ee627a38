package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"tenure"
	"tenure/examples/clients/hello"
	"tenure/examples/clients/snaps"
	"tenure/examples/clients/virtd"
	"tenure/internal/proc"
	"tenure/test/rig"
)

// tally is the histogram of kills.
type tally struct {
	mu      sync.Mutex
	moments []moment
}

func (c *tally) add(moments ...moment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moments = append(c.moments, moments...)
}

// count is how many there were, and how many of them in the gap.
func (c *tally) count() (all, gap int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.moments {
		if m.gap {
			gap++
		}
	}
	return len(c.moments), gap
}

func (c *tally) String() string {
	all, gap := c.count()
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := map[moment]int{}
	for _, m := range c.moments {
		counts[m]++
	}
	rows := make([]string, 0, len(counts))
	for m, n := range counts {
		in := "no"
		if m.gap {
			in = "yes"
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%d\n", m.snap, m.change, m.task, m.phase, in, n))
	}
	slices.Sort(rows)
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(table, "snap\tchange\ttask\tphase\tgap\tkills\n%s", strings.Join(rows, ""))
	_ = table.Flush() // A strings.Builder does not fail.
	return fmt.Sprintf("%s%d kills, %d of them in the gap\n", out.String(), all, gap)
}

// TestCrash kills the daemon at every boundary of refreshes of all examples, that
// go well and that are undone, and at what can be seen of a step from outside;
// also the next daemon, that goes on. After each restart all is as before the
// refresh, or all as after it.
func TestCrash(t *testing.T) {
	t.Parallel()
	kills := &tally{}
	t.Run("lanes", func(t *testing.T) {
		for name, lane := range map[string]func(*testing.T, *tally){
			"hello":           crashHello,
			"hello again":     crashHelloAgain,
			"hello undone":    crashHelloUndone,
			"virt":            crashVirt,
			"postgres":        crashPostgres,
			"postgres undone": crashPostgresUndone,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				lane(t, kills)
			})
		}
	})
	t.Logf("\n%s", kills)
	all, gap := kills.count()
	if wantAll, wantGap := often(200, 40), often(20, 3); !t.Failed() && (all < wantAll || gap < wantGap) {
		t.Errorf("%d kills, %d of them in the gap; want %d and %d", all, gap, wantAll, wantGap)
	}
}

func helloScene(t *testing.T) *scene {
	t.Helper()
	s := newScene(t, "hello", "hellod", nil, snap(t, "hello", "1"))
	s.commands = []string{"hello"}
	// It is observed, though not for long.
	s.Tenure("set", "system", "refresh.observe=30ms")
	s.lastChange++
	s.answer = func(ctx context.Context, revision int) error {
		got, err := hello.Ask(ctx, filepath.Join(s.Common("hello"), hello.Socket))
		if err == nil && got.Revision != x(revision) {
			err = fmt.Errorf("it is %s, want %s", got.Revision, x(revision))
		}
		return err
	}
	return s
}

// brokenHello is hello with a service that cannot start.
func brokenHello(t *testing.T, i *rig.Instance) string {
	t.Helper()
	tree, err := snaps.Tree(t.Context(), "hello")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(tree)); err != nil {
		t.Fatal(err)
	}
	yaml := "name: hello\nversion: broken\nsummary: s\ndescription: d\nbase: bare\napps:\n" +
		"  hello: {command: bin/hello}\n" +
		"  hellod: {command: bin/hellod, daemon: notify, environment: {HELLO_SOCKET: /nowhere/hello.sock}}\n"
	file := filepath.Join(t.TempDir(), "hello_broken.snap")
	err = os.MkdirAll(filepath.Join(dir, "meta"), 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "meta/snap.yaml"), []byte(yaml), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if result := i.Try("pack", "--compression", "lz4", dir, file); result.Status != 0 {
		t.Fatalf("pack: %s", result.Stderr)
	}
	return file
}

func goodHello(t *testing.T) *refresh {
	t.Helper()
	return &refresh{name: "hello", files: []string{snap(t, "hello", "1"), snap(t, "hello", "2")}}
}

func crashHello(t *testing.T, kills *tally) {
	s, good := helloScene(t), goodHello(t)
	s.count(t.Context(), good)
	s.dieEverywhere(t.Context(), good, kills)
	for _, of := range sights(s) {
		s.strike(t.Context(), good, death{of: of}, kills)
	}
}

func crashHelloAgain(t *testing.T, kills *tally) {
	s, good := helloScene(t), goodHello(t)
	s.count(t.Context(), good)
	for n := 0; n < len(good.points); n += often(1, 5) {
		s.strike(t.Context(), good, death{at: n + 1, again: 1 + n*5%11}, kills)
	}
}

func crashHelloUndone(t *testing.T, kills *tally) {
	s := helloScene(t)
	bad := &refresh{name: "broken hello", files: []string{brokenHello(t, s.Instance)}, fails: true}
	s.count(t.Context(), bad)
	s.dieEverywhere(t.Context(), bad, kills)
}

func crashVirt(t *testing.T, kills *tally) {
	s := newScene(t, "virt", "virtd", []string{snap(t, "debian12", "1")}, snap(t, "virt", "1"))
	s.base, s.commands = "debian12", []string{"virt.virtctl"}
	manager := virtd.Client{Common: s.Common("virt")}
	start := func(ctx context.Context, name string) workload {
		machine, err := manager.Start(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := proc.Read(machine.PID)
		if err != nil {
			t.Fatal(err)
		}
		return workload{Process: info.Process, Revision: machine.Revision}
	}
	for _, name := range []string{"one", "two"} {
		w := start(t.Context(), name)
		s.stay[w.unit()] = w
	}
	s.begin = func(ctx context.Context) workload { return start(ctx, fmt.Sprintf("guest%d", s.lastChange)) }
	s.answer = func(ctx context.Context, _ int) error {
		machines, err := manager.List(ctx)
		if err != nil {
			return err
		}
		running := map[string]bool{}
		for _, machine := range machines {
			unit := workload{Process: tenure.Process{PID: machine.PID}}.unit()
			running[unit] = machine.Running && machine.Revision == s.stay[unit].Revision
		}
		for unit := range s.stay {
			if !running[unit] {
				err = errors.Join(err, fmt.Errorf("it has lost %s: %+v", unit, machines))
			}
		}
		return err
	}
	good := &refresh{name: "virt", files: []string{snap(t, "virt", "1"), snap(t, "virt", "2")}}
	s.count(t.Context(), good)
	s.dieEverywhere(t.Context(), good, kills)
}

// postgresScene has a table to which every death adds a row.
func postgresScene(t *testing.T) *scene {
	t.Helper()
	s := newScene(t, "postgres", "server", []string{snap(t, "debian12", "1")}, snap(t, "postgres", "1"))
	s.base, s.commands = "debian12", []string{"postgres.psql"}
	rows := 0
	ask := func(query string) (string, error) {
		r := s.Exec(s.Path("snap/bin/postgres.psql"), "-AtXq", "-c", query)
		if r.Status != 0 {
			return "", fmt.Errorf("psql: %d, %s", r.Status, r.Stderr)
		}
		return strings.TrimSpace(r.Stdout), nil
	}
	if _, err := ask("create table kept (n int)"); err != nil {
		t.Fatal(err)
	}
	s.answer = func(context.Context, int) error {
		got, err := ask("select count(*), coalesce(max(n), 0) from kept")
		if want := fmt.Sprintf("%d|%d", rows, rows); err == nil && got != want {
			err = fmt.Errorf("rows and the last one: %s, want %s", got, want)
		}
		rows++
		_, insertErr := ask(fmt.Sprintf("insert into kept values (%d)", rows))
		return errors.Join(err, insertErr)
	}
	return s
}

func crashPostgres(t *testing.T, kills *tally) {
	s := postgresScene(t)
	good := &refresh{name: "postgres", files: []string{snap(t, "postgres", "1"), snap(t, "postgres", "2")}}
	s.count(t.Context(), good)
	s.dieEverywhere(t.Context(), good, kills)
}

func crashPostgresUndone(t *testing.T, kills *tally) {
	s := postgresScene(t)
	bad := &refresh{name: "broken postgres", files: []string{snap(t, "postgres", "broken-config")}, fails: true}
	s.count(t.Context(), bad)
	// From the switch on; what comes before is as with any other.
	for n, point := range bad.points {
		if n >= 12 && point.Phase != "before-undo" && n%often(1, 5) == 0 {
			s.strike(t.Context(), bad, death{at: n + 1}, kills)
		}
	}
}
