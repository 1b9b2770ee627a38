package test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure/test/rig"
)

// TestCrashMatrix kills the daemon at what it does in every operation: each change of a file, a mount, a
// control group and the journal, each start of a process and each signal; and in some the
// daemon that goes on. Afterwards all is as before the operation, or all as after it, and
// nothing else is there. It dies at a few points of a few operations. TENURE_CRASH=NUMBER has it die at others,
// TENURE_CRASH=all at all that there is time for (make crash), and TENURE_CRASH=at=POINT at one of
// each operation that -run selects.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	s := newSample(t)
	t.Logf("TENURE_CRASH=%d", s.seed)
	kills, things := newLedger(t), props{mortal: buildMortal(t), files: allSnaps(t)}
	t.Run("operations", func(t *testing.T) {
		for number, op := range operations() {
			if !s.has(number) {
				continue
			}
			t.Run(op.title(), func(t *testing.T) {
				t.Parallel()
				if op.fails {
					op.after = op.before
				}
				p := &pass{op: &op, number: number, sample: s, props: things, kills: kills, row: kills.open(&op)}
				p.run(t)
			})
		}
	})
	t.Logf("\n%s", kills)
	if left := kills.leftOut(); s.each == 0 && s.only == 0 && len(left) > 0 {
		t.Errorf("points were left out of %v", left)
	}
}

// pass goes through the points of one operation. After a death that something was wrong after, it goes on
// with the next on another instance.
type pass struct {
	op     *operation
	number int
	sample sample
	props  props
	kills  *ledger
	row    *row
	// left are the points that the daemon has not died at yet, once they are known.
	left    []int
	counted bool
}

// run uses up instances until no point is left.
func (p *pass) run(t *testing.T) {
	t.Helper()
	for before := -1; !p.counted || len(p.left) > 0; before = len(p.left) {
		if !p.sample.inTime() || p.counted && len(p.left) == before {
			return // What is left out is in the table.
		}
		t.Run("instance", func(t *testing.T) { p.on(t, newMatrix(t, p.props)) })
		if !p.counted {
			return
		}
	}
}

// on has the daemon of an instance die at one point after another.
func (p *pass) on(t *testing.T, m *matrix) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	op := p.op
	m.renews = op.renews
	before := m.arrive(ctx, op)
	if op.boots {
		if m.boot(0) {
			m.t.Fatal("it dies at the start of the machine")
		}
		m.Start()
	} else {
		m.mortal.attach(m.PID(), 0)
		_ = op.ask(ctx, m) // What it leads to is looked at.
	}
	after := m.await(ctx, op, "nobody has died", outlook{facts: op.after.facts()})
	if said := m.why(ctx); strings.Contains(said, "compare the plan of change") {
		t.Errorf("the plan of %s is not compared:\n%s", op.name, said)
	}
	p.count(m.mortal.release())
	for there := after; len(p.left) > 0 && p.sample.inTime(); {
		if diff := cmp.Diff(before.whole(), there.whole()); diff != "" {
			m.leave(ctx)
			op.prepare(ctx, m)
			m.await(ctx, op, "prepared once more", before)
		}
		at := p.left[0]
		p.left = p.left[1:]
		there = p.die(ctx, m, at, before, after)
		p.kills.tell(p.row)
	}
	m.leave(ctx)
}

// count notes what the daemon does when nobody dies, for the first time.
func (p *pass) count(done []effect) {
	if p.counted {
		return
	}
	for _, e := range done {
		p.row.points[e.class()]++
	}
	p.left, p.counted = p.sample.of(p.number, len(done)), true
}

// die has the daemon die at a point, and looks at what comes of it.
func (p *pass) die(ctx context.Context, m *matrix, at int, before, after outlook) outlook {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 5*rig.Patience)
	defer cancel()
	op, r := p.op, p.row
	story := fmt.Sprintf("%s, killed at %d", op.title(), at)
	well := false
	defer func() {
		if !well {
			r.failed = append(r.failed, at)
		}
	}()
	living := m.living(op)
	m.strike(ctx, op, at, after)
	done := m.mortal.release()
	if len(done) >= at {
		m.Kill() // It may be about to die.
		story += ": " + done[len(done)-1].String()
		r.kills[at] = true
		story += m.recover(ctx, r, at)
	} else {
		r.alive++
		story += ", where it does not come"
		if op.boots {
			m.Start()
		}
	}
	there := m.await(ctx, op, story, p.allowed(before, after)...)
	for _, process := range living {
		if !slices.Contains(m.living(op), process) {
			m.t.Errorf("%s: process %v has not lived on", story, process)
		}
	}
	if slices.Equal(there.whole(), after.whole()) {
		r.after++
	} else {
		r.before++
	}
	for line := range strings.Lines(m.Said()) {
		if strings.Contains(line, "did not go as planned") {
			m.t.Errorf("%s: %s\n%s", story, line, m.why(ctx))
		}
	}
	if m.t.Failed() {
		m.t.FailNow() // What follows would be wrong as well.
	}
	well = true
	return there
}

// strike carries out an operation with a daemon that is to die at a point of it, until it has died, or there is
// nothing more to be done.
func (m *matrix) strike(ctx context.Context, op *operation, at int, after outlook) {
	m.t.Helper()
	if op.boots {
		m.boot(at)
		return
	}
	m.mortal.attach(m.PID(), at)
	asked := make(chan struct{})
	go func() {
		_ = op.ask(ctx, m) // It may die before it answers.
		close(asked)
	}()
	if !m.outlive(ctx, asked) && op.certain {
		m.reach(ctx, after)
	}
	<-asked
}

// boot ends the machine and starts it, as far as "tenured boot" does that, which dies at its call at. It
// tells whether it has died.
func (m *matrix) boot(at int) bool {
	m.t.Helper()
	tenured := filepath.Join(m.Bin, "tenured")
	if out := m.Exec(tenured, "shutdown", "--root", m.Root); out.Status != 0 {
		m.t.Fatalf("tenured shutdown: %s%s", out.Stdout, out.Stderr)
	}
	<-m.Ended()
	m.mortal.await(at)
	out := m.Exec(m.mortal.path, "become", tenured, "boot", "--root", m.Root)
	if out.Status > 0 {
		m.t.Fatalf("tenured boot: %s%s", out.Stdout, out.Stderr)
	}
	return out.Status != 0
}

// allowed is what may be there after a death.
func (p *pass) allowed(before, after outlook) []outlook {
	want := []outlook{before, after}
	if p.op.certain {
		want = want[1:]
	}
	for _, between := range p.op.between {
		want = append(want, outlook{facts: between.facts()})
	}
	return want
}

// props are what all instances need: the program that kills, and snap files by their names.
type props struct {
	mortal string
	files  map[string]string
}

func newMatrix(t *testing.T, things props) *matrix {
	t.Helper()
	m := &matrix{t: t, files: things.files}
	m.Instance = rig.New(t, rig.Config{FailPoints: true, Wrap: []string{things.mortal, "become"}})
	m.mortal = newMortality(t, things.mortal, m.Root)
	// What the first snap brings along for all stays.
	save := func(ctx context.Context, m *matrix) error {
		_, _, err := m.Client().Save(ctx, []string{"probe"}, nil)
		return err
	}
	steps(file("install", "plain"), save)(t.Context(), m)
	m.leave(t.Context())
	return m
}
