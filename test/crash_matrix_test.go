//go:build crash

package test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/client"
	"tenure/test/rig"
)

// matrix is an instance that operations die on.
type matrix struct {
	*rig.Instance

	t      *testing.T
	mortal *mortality
	files  map[string]string
	// renews is that processes may have the environment of an earlier revision.
	renews bool
	sample sample
	kills  *ledger
}

// sample says at which of the points of an operation the daemon dies.
type sample struct {
	// share is that it is one operation of so many, each at another time.
	share int
	// each is at how many of its points; 0 is at all.
	each int
	// seed is which ones.
	seed int
}

// has reports whether an operation, by its number, is among them.
func (s sample) has(operation int) bool { return (s.seed+operation)%s.share == 0 }

// of are points, counted from 1, out of n.
func (s sample) of(operation, n int) []int {
	var points []int
	if s.each == 0 || s.each >= n {
		for at := range n {
			points = append(points, at+1)
		}
		return points
	}
	// Spread over the operation, from another one each time.
	const stride = 37
	for i := range s.each {
		points = append(points, 1+(stride*(s.seed+operation)+i*n/s.each)%n)
	}
	return points
}

// row is what became of the deaths of one operation.
type row struct {
	operation, verdict string
	// points are how many there are, by class; kills at how many of them the daemon died.
	points map[string]int
	kills  map[int]bool
	// again is how often the next daemon died as well, alive how often there were fewer
	// points this time.
	again, alive int
	// before and after are what came of it.
	before, after int
}

// ledger is the table of all.
type ledger struct {
	mu   sync.Mutex
	rows map[string]*row
}

func (l *ledger) add(r *row) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows[r.operation+r.verdict] = r
}

// leftOut are the operations that have points at which nobody has died.
func (l *ledger) leftOut() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for _, r := range l.rows {
		if r.all() > len(r.kills)+r.alive {
			list = append(list, strings.TrimSpace(r.operation+" "+r.verdict))
		}
	}
	return list
}

// all is how many points there are.
func (r *row) all() (n int) {
	for _, count := range r.points {
		n += count
	}
	return n
}

// String is the table.
func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	classes := []string{"journal", "files", "mounts", "units"}
	fmt.Fprintf(table, "operation\tverdict\tpoints\t%s\tkilled at\talive\tagain\tas before\tas after\tleft out\n", strings.Join(classes, "\t"))
	total := row{kills: map[int]bool{}}
	killed, points := 0, 0
	for _, name := range slices.Sorted(maps.Keys(l.rows)) {
		r := l.rows[name]
		all, counts := r.all(), ""
		fmt.Fprintf(table, "%s\t%s", r.operation, r.verdict)
		for _, class := range classes {
			counts += "\t" + strconv.Itoa(r.points[class])
		}
		fmt.Fprintf(table, "\t%d%s\t%d\t%d\t%d\t%d\t%d\t%d\n",
			all, counts, len(r.kills), r.alive, r.again, r.before, r.after, all-len(r.kills)-r.alive)
		points, killed = points+all, killed+len(r.kills)
		total.again, total.before, total.after = total.again+r.again, total.before+r.before, total.after+r.after
	}
	_ = table.Flush() // A strings.Builder does not fail.
	fmt.Fprintf(&out, "%d points of %d operations, killed at %d, again %d times; %d came out as before, %d as after\n",
		points, len(l.rows), killed, total.again, total.before, total.after)
	return out.String()
}

// TestCrashMatrix kills the daemon at what it does in every operation: each change of a file, a mount, a
// control group and the journal, each start of a process and each signal; and in some the
// daemon that goes on. Afterwards all is as before the operation, or all as after it, and
// nothing else is there. It dies at a few points of a few operations, others each day;
// TENURE_CRASH=all has it die at all (make crash), TENURE_CRASH=NUMBER at those of a day.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	s := sample{share: often(4, 8), each: 2, seed: int(time.Now().Unix() / (24 * 60 * 60))}
	if word := os.Getenv("TENURE_CRASH"); word == "all" {
		s = sample{share: 1}
	} else if seed, err := strconv.Atoi(word); err == nil {
		s.seed = seed
	}
	t.Logf("TENURE_CRASH=%d", s.seed)
	kills, files := &ledger{rows: map[string]*row{}}, allSnaps(t)
	t.Run("lanes", func(t *testing.T) {
		for name, operations := range map[string][]operation{
			"installations": installations(), "refreshes": refreshes(), "controls": slices.Concat(controls(), savings()), "settings": settings(),
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				m := newMatrix(t, s, files, kills)
				for i := range operations {
					if op := &operations[i]; s.has(i) && !t.Failed() {
						//nolint:paralleltest // They have one instance, one after another.
						t.Run(strings.TrimSpace(op.name+" "+op.verdict), func(t *testing.T) {
							m.t, m.mortal.t = t, t
							m.run(i, op)
						})
					}
				}
			})
		}
	})
	t.Logf("\n%s", kills)
	if left := kills.leftOut(); s.each == 0 && len(left) > 0 && !t.Failed() {
		t.Errorf("points were left out of %v", left)
	}
}

func newMatrix(t *testing.T, s sample, files map[string]string, kills *ledger) *matrix {
	t.Helper()
	m := &matrix{t: t, sample: s, files: files, kills: kills}
	m.Instance = rig.New(t, rig.Config{FailPoints: true, Wrap: []string{buildMortal(t), "become"}})
	m.mortal = newMortality(t, m.Root)
	// What the first snap brings along for all stays.
	save := func(ctx context.Context, m *matrix) error {
		_, _, err := m.Client().Save(ctx, []string{"probe"}, nil)
		return err
	}
	steps(file("install", "plain"), save)(t.Context(), m)
	m.leave(t.Context())
	return m
}

// run has the daemon die in one operation.
func (m *matrix) run(number int, op *operation) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 30*rig.Patience)
	defer cancel()
	m.renews = op.renews
	if op.fails {
		op.after = op.before
	}
	r := &row{operation: op.name, verdict: op.verdict, points: map[string]int{}, kills: map[int]bool{}}
	m.kills.add(r)
	before := m.arrive(ctx, op)
	m.mortal.attach(m.PID(), 0)
	_ = op.ask(ctx, m) // What it leads to is looked at.
	after := m.await(ctx, op, "nobody has died", outlook{facts: op.after.facts()})
	points := m.mortal.release()
	for _, p := range points {
		r.points[p.class()]++
	}
	there := after
	for i, at := range m.sample.of(number, len(points)) {
		if diff := cmp.Diff(before.whole(), there.whole()); diff != "" {
			m.leave(ctx)
			if again := m.arrive(ctx, op); !slices.Equal(again.whole(), before.whole()) {
				m.t.Fatalf("%s %s cannot be prepared twice (-first +now):\n%s", op.name, op.verdict, cmp.Diff(before.whole(), again.whole()))
			}
		}
		there = m.die(ctx, op, r, at, i, before, after)
	}
	m.leave(ctx)
}

// die has the daemon die at a point, and looks at what comes of it.
func (m *matrix) die(ctx context.Context, op *operation, r *row, at, turn int, before, after outlook) outlook {
	m.t.Helper()
	living := m.living(op)
	m.mortal.attach(m.PID(), at)
	asked := make(chan struct{})
	go func() {
		_ = op.ask(ctx, m) // It may die before it answers.
		close(asked)
	}()
	died := m.outlive(ctx, asked)
	done := m.mortal.release()
	story := fmt.Sprintf("%s %s, killed at %d", op.name, op.verdict, at)
	if died {
		<-asked
		story += ": " + done[len(done)-1].String()
		r.kills[at] = true
		story += m.recover(ctx, r, turn)
	} else {
		r.alive++
		story += ", where it does not come"
	}
	want := []outlook{before, after}
	if op.certain {
		want = want[1:]
	}
	there := m.await(ctx, op, story, want...)
	for _, p := range living {
		if !slices.Contains(m.living(op), p) {
			m.t.Errorf("%s: process %v has not lived on", story, p)
		}
	}
	if slices.Equal(there.whole(), before.whole()) {
		r.before++
	} else {
		r.after++
	}
	for line := range strings.Lines(m.Said()) {
		if strings.Contains(line, "did not go as planned") {
			m.t.Errorf("%s: %s\n%s", story, line, m.why(ctx))
		}
	}
	if m.t.Failed() {
		m.t.FailNow() // What follows would be wrong as well.
	}
	return there
}

// recover starts the next daemon, which in every other turn dies as well.
func (m *matrix) recover(ctx context.Context, r *row, turn int) (story string) {
	m.t.Helper()
	if turn%2 == 0 {
		m.Start()
		return ""
	}
	const stride = 7
	at := 1 + turn*stride%40
	m.mortal.await(at)
	alive := m.TryStart() == nil
	if alive {
		quiet := make(chan struct{})
		close(quiet)
		alive = !m.outlive(ctx, quiet)
	}
	done := m.mortal.release()
	if !alive {
		r.again++
		story = fmt.Sprintf(", and the next one at %d: %s", at, done[len(done)-1])
		m.Start()
	}
	return story
}

// outlive waits until the daemon has ended, or all that was asked for has, and tells
// whether the daemon has ended.
func (m *matrix) outlive(ctx context.Context, asked <-chan struct{}) (died bool) {
	m.t.Helper()
	select {
	case <-m.Ended():
		return true
	case <-asked:
	case <-ctx.Done():
		m.t.Fatal("nobody answers, and the daemon has not died")
	}
	return !m.trySettle(ctx)
}

// settle waits until no change goes on.
func (m *matrix) settle(ctx context.Context) {
	m.t.Helper()
	if !m.trySettle(ctx) {
		m.t.Fatalf("the daemon has ended: %s", m.Said())
	}
}

// trySettle is settle for a daemon that may die, and tells whether it lives.
func (m *matrix) trySettle(ctx context.Context) bool {
	for {
		changes, err := m.Client().Changes(ctx, "all", "")
		if err != nil {
			<-m.Ended()
			return false
		}
		at := slices.IndexFunc(changes, goesOn)
		if at < 0 {
			return true
		}
		c := changes[at]
		for seen := uint64(0); err == nil && goesOn(c); seen = c.Revision {
			c, err = m.Client().Follow(ctx, c.ID, seen)
		}
	}
}

// goesOn reports whether a change is neither over nor waits for somebody.
func goesOn(c client.Change) bool { return !c.Ready && c.Status != "Wait" }

// arrive brings about what there is before an operation.
func (m *matrix) arrive(ctx context.Context, op *operation) outlook {
	m.t.Helper()
	op.prepare(ctx, m)
	return m.await(ctx, op, "before", outlook{facts: op.before.facts()})
}

// await waits until what is there is one of what may be. It may take a moment for what
// nothing needs any more.
func (m *matrix) await(ctx context.Context, op *operation, when string, allowed ...outlook) outlook {
	m.t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(settling)
	for {
		m.settle(ctx)
		there, err := m.look(ctx)
		if err != nil {
			m.t.Fatal(err)
		}
		orphans := m.strangers()
		for _, want := range allowed {
			if len(orphans) == 0 && want.fits(there) {
				return there
			}
		}
		select {
		case <-again.C:
			continue
		case <-deadline:
		}
		for _, want := range allowed {
			m.t.Logf("(-want +got):\n%s", want.diff(there))
		}
		m.t.Fatalf("%s %s: %s: it is neither; of no unit: %v\n%s", op.name, op.verdict, when, orphans, m.why(ctx))
	}
}

// why is what the daemon says of the changes that were last.
func (m *matrix) why(ctx context.Context) string {
	changes, err := m.Client().Changes(ctx, "all", "")
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, c := range changes[max(0, len(changes)-2):] {
		fmt.Fprintf(&b, "%s %s %s: %s\n", c.ID, c.Kind, c.Status, c.Err)
		full, _ := m.Client().Change(ctx, c.ID) // Only to be shown.
		for i := range full.Tasks {
			fmt.Fprintf(&b, "\t%s %s %q\n", full.Tasks[i].Kind, full.Tasks[i].Status, full.Tasks[i].Log)
		}
	}
	return b.String()
}

// leave removes all that there is.
func (m *matrix) leave(ctx context.Context) {
	m.t.Helper()
	remove := on("remove")
	remove.Purge = true
	_ = action(remove)(ctx, m) // It may not be there.
	m.settle(ctx)
	sets, err := m.Client().Snapshots(ctx, 0, nil)
	for i := 0; err == nil && i < len(sets); i++ {
		_, err = m.Client().ChangeSnapshots(ctx, client.SnapshotAction{Action: "forget", Set: sets[i].ID})
	}
	if err != nil {
		m.t.Fatal(err)
	}
	steps(setting("snapshots.automatic.retention", "no"))(ctx, m)
}

// living are the processes that are to live on.
func (m *matrix) living(op *operation) []tenure.Process {
	m.t.Helper()
	var all []tenure.Process
	if len(op.lives) == 0 {
		return nil
	}
	for id, unit := range m.Units() {
		for _, p := range unit.Processes {
			if slices.ContainsFunc(op.lives, func(word string) bool { return id == word || strings.Contains(p.Command, word) }) {
				all = append(all, tenure.Process{PID: p.PID, Start: p.Start})
			}
		}
	}
	return all
}

// strangers are the control groups and processes of this root that are of no unit.
func (m *matrix) strangers() []string {
	m.t.Helper()
	s := scene{Instance: m.Instance, t: m.t}
	return slices.DeleteFunc(s.orphans(), func(line string) bool { return strings.Contains(line, "mortal attach") })
}
