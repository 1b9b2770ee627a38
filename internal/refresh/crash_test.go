package refresh

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
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
// goes on, at a place of its own, in memory. Then all is as before, or all as after. It dies at every place that leaves another
// machine than the place before: another file, unit or mount. A daemon that comes next sees nothing else.
// TENURE_CRASH=all has it die at the others as well (make crash).
func TestCrashOperations(t *testing.T) {
	t.Parallel()
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	everywhere := os.Getenv("TENURE_CRASH") == "all"
	used := usedUp(t)
	var mu sync.Mutex
	var rows []string
	total := 0
	t.Run("all", func(t *testing.T) {
		for _, op := range operations() {
			t.Run(op.name, func(t *testing.T) {
				t.Parallel()
				row := op.places(t, used, everywhere)
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

// gcPercent is for thousands of daemons that are soon forgotten: there are some 100 MB in memory, and a tenth less to be computed.
const gcPercent = 400

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
		g = m.bury()
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

// places has the daemon die at the places of an operation, and gives the row of the table.
func (op *crashing) places(t *testing.T, used *grave, everywhere bool) *tally {
	t.Helper()
	top := workplace(t)
	machine := filepath.Join(top, "machine")
	row := &tally{name: op.name}
	if op.fails {
		op.after = op.before
	}
	var g *grave
	var before, after sight
	var places []int
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
		g = m.bury()
	})
	inBubble(func(t *testing.T) {
		m := newMortal(t, machine, g)
		defer m.close()
		var was tenure.Process
		if !op.die(m, -1, m.fingerprint, &was) {
			t.Fatal("it has died by itself")
		}
		op.done(m, was)
		if row.places, places = m.life.many(), m.life.different(); len(places) == 0 {
			t.Error("there is no place to die at")
		}
		after = m.look()
		if diff := cmp.Diff(op.after.facts(), after.facts); diff != "" {
			t.Errorf("nobody has died (-want +got):\n%s", diff)
		}
	})
	allowed := []sight{before, after}
	if op.certain {
		allowed = allowed[1:]
	}
	for at := 0; everywhere && at < row.places; at++ {
		if !slices.Contains(places, at) {
			places = append(places, at)
		}
	}
	for i, at := range places {
		again := -1
		if i%2 == 1 { // Now and then the next one dies as well.
			again = at * 7 % 23
		}
		inBubble(func(t *testing.T) { op.at(newMortal(t, machine, g), at, again, row, allowed) })
	}
	if !t.Failed() && row.died == 0 {
		t.Error("nobody has died")
	}
	return row
}

// done sees that what was asked for was done where nobody has died, or has failed as it should: all else may look as if it was.
func (op *crashing) done(m *mortal, was tenure.Process) {
	m.t.Helper()
	if op.boots {
		return
	}
	if err := <-m.asked; err != nil && !op.fails {
		m.t.Errorf("it is refused: %v", err)
	}
	list := m.engine.List(change.Filter{Select: change.All})
	if op.fails && (len(list) <= m.prepared || list[len(list)-1].Status == change.Done) {
		m.t.Error("it does not fail")
	}
	if op.renews && m.main() == was {
		m.t.Error("the service is the process that it was")
	}
}

// at has the daemon die at a place, and the next one at another, and looks at what comes of it.
func (op *crashing) at(m *mortal, at, again int, row *tally, allowed []sight) {
	t := m.t
	t.Helper()
	defer m.close()
	var was tenure.Process
	alive := op.die(m, at, nil, &was)
	if !alive {
		row.died++
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

// die carries out the operation with a daemon that dies when it has passed so many places, and reports whether it lives. see, if set,
// tells machines apart at each.
func (op *crashing) die(m *mortal, left int, see func(asked int) uint64, was *tenure.Process) (alive bool) {
	m.t.Helper()
	m.boot(-1)
	if op.boots {
		m.fresh()
		m.see = see
		return m.boot(left) && m.settle() && m.survives()
	}
	if was != nil {
		*was = m.main()
	}
	m.life.from(left, see)
	go func() { m.asked <- op.ask(m.t.Context(), m) }() // It may die before it answers.
	return m.settle() && m.survives()
}

// survives is that the daemon dies no more.
func (m *mortal) survives() bool {
	m.life.mu.Lock()
	defer m.life.mu.Unlock()
	m.life.left = -1
	return true
}
