package refresh

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"text/tabwriter"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/change"
)

// TestCrashOperations has the daemon die in every operation, and a second one, that
// goes on, at a place of its own, in memory. Then all is as before, or all as after. It dies at one of a few places;
// TENURE_CRASH=NUMBER has it die at others, and TENURE_CRASH=all at all (make crash).
func TestCrashOperations(t *testing.T) {
	t.Parallel()
	s := newSample()
	used := usedUp(t)
	var mu sync.Mutex
	var rows []string
	total := 0
	t.Run("all", func(t *testing.T) {
		for _, op := range operations() {
			t.Run(op.name, func(t *testing.T) {
				t.Parallel()
				row := op.everywhere(t, used, s)
				mu.Lock()
				defer mu.Unlock()
				rows = append(rows, row.String())
				total += row.died
			})
		}
	})
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	slices.Sort(rows)
	fmt.Fprintf(table, "operation\tplaces\tdied at\tagain\tas before\tas after\n%s", strings.Join(rows, ""))
	_ = table.Flush() // A strings.Builder does not fail.
	t.Logf("\n%s%d deaths", out.String(), total)
}

// usedUp is a machine from which the only snap that there ever was has gone: what the first one brings along for all
// stays.
func usedUp(t *testing.T) *grave {
	t.Helper()
	top := workplace(t)
	var g *grave
	synctest.Test(t, func(t *testing.T) {
		m := newMortal(t, filepath.Join(top, "machine"), nil)
		m.boot(-1)
		m.carryOut(setting(System, optionRetention, `"no"`), setting(System, optionObserve, `"0s"`), install(oneService), install(oneService), save,
			ofFirst(forgetSet), onProbe(ActionRemove))
		if diff := cmp.Diff((*model)(nil).facts(), m.look().facts); diff != "" {
			t.Errorf("of the first snap is left (-want +got):\n%s", diff)
		}
		g = m.bury(filepath.Join(top, "bare"))
	})
	if t.Failed() {
		t.FailNow()
	}
	return g
}

// carryOut does one thing after another, each to its end.
func (m *mortal) carryOut(acts ...act) {
	m.t.Helper()
	for _, step := range acts {
		m.mark()
		if err := step(m.t.Context(), m); err != nil {
			m.t.Fatal(err)
		}
		m.settle()
	}
}

// abortLast aborts the change that was begun last.
func (m *mortal) abortLast(ctx context.Context) error {
	list := m.engine.List(change.Filter{Select: change.All})
	return m.engine.Abort(ctx, list[len(list)-1].ID)
}

// tally is what came of an operation.
type tally struct {
	name                                   string
	places, died, again, asBefore, asAfter int
}

func (r *tally) String() string {
	return fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%d\n", r.name, r.places, r.died, r.again, r.asBefore, r.asAfter)
}

// sample says at which places the daemon dies: at one of so many, of each operation.
type sample struct{ share, seed int }

func newSample() sample {
	s := sample{share: 5}
	word, _ := os.LookupEnv("TENURE_CRASH")
	if word == "all" {
		s.share = 1
	}
	s.seed, _ = strconv.Atoi(word) // What is no number is 0.
	return s
}

// everywhere has the daemon die at the places of s, and gives the row of the table.
func (op *crashing) everywhere(t *testing.T, used *grave, s sample) *tally {
	t.Helper()
	top := workplace(t)
	machine := filepath.Join(top, "machine")
	row := &tally{name: op.name}
	if op.fails {
		op.after = op.before
	}
	var g *grave
	var before, after sight
	inBubble := func(what func(t *testing.T)) {
		if !t.Failed() {
			synctest.Test(t, what)
		}
	}
	inBubble(func(t *testing.T) {
		m := newMortal(t, machine, used)
		m.boot(-1)
		m.carryOut(op.prepare...)
		if op.before == nil || op.before.written[op.before.current] != unmarked {
			m.mark()
		}
		before = m.look()
		if diff := cmp.Diff(op.before.facts(), before.facts); diff != "" {
			t.Errorf("before (-want +got):\n%s", diff)
		}
		g = m.bury(filepath.Join(top, "prepared"))
	})
	inBubble(func(t *testing.T) {
		m := newMortal(t, machine, g)
		defer m.close()
		if !op.die(m, -1, nil) {
			t.Fatal("it has died by itself")
		}
		row.places = m.life.many()
		after = m.look()
		if diff := cmp.Diff(op.after.facts(), after.facts); diff != "" {
			t.Errorf("nobody has died (-want +got):\n%s", diff)
		}
	})
	allowed := []sight{before, after}
	if op.certain {
		allowed = allowed[1:]
	}
	for at := s.seed % s.share; at < row.places; at += s.share {
		inBubble(func(t *testing.T) { op.at(newMortal(t, machine, g), at, row, allowed) })
	}
	return row
}

// at has the daemon die at a place, and looks at what comes of it.
func (op *crashing) at(m *mortal, at int, row *tally, allowed []sight) {
	t := m.t
	t.Helper()
	defer m.close()
	var was tenure.Process
	alive := op.die(m, at, &was)
	again := -1
	if !alive {
		row.died++
		// Now and then the next one dies as well.
		if at%2 == 1 {
			again = at * 7 % 23
		}
		if !m.boot(again) || !m.settle() {
			row.again++
			m.boot(-1)
			m.settle()
		}
	}
	if op.renews && m.carriedOut() && m.main() == was {
		t.Errorf("killed at %d of it, then at %d, it is done, and the service is the process that it was", at, again)
	}
	got := m.look()
	i := slices.IndexFunc(allowed, func(o sight) bool { return slices.Equal(o.whole(), got.whole()) })
	between := slices.ContainsFunc(op.between, func(m *model) bool { return slices.Equal(m.facts(), got.facts) })
	switch {
	case i == len(allowed)-1:
		row.asAfter++
	case i == 0 && !alive, between:
		row.asBefore++
	default:
		t.Errorf("killed at %d of it, then at %d, it is neither as before:\n%s\nnor as after:\n%s",
			at, again, allowed[0].diff(got), allowed[len(allowed)-1].diff(got))
	}
}

// die carries out the operation with a daemon that dies when it has passed so many places, and reports whether it lives.
func (op *crashing) die(m *mortal, left int, was *tenure.Process) (alive bool) {
	m.t.Helper()
	if op.boots {
		m.boot(-1)
		m.fresh()
		return m.boot(left) && m.settle() && m.survives()
	}
	m.boot(-1)
	if was != nil {
		*was = m.main()
	}
	m.life.from(left)
	go func() { _ = op.ask(m.t.Context(), m) }() // It may die before it answers.
	return m.settle() && m.survives()
}

// survives is that the daemon dies no more.
func (m *mortal) survives() bool {
	m.life.mu.Lock()
	defer m.life.mu.Unlock()
	m.life.left = -1
	return true
}
