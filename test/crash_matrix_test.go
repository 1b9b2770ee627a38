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
	// end is when no other death begins, if there is an end to the time; the rest is left out.
	end time.Time
}

// newSample is what TENURE_CRASH asks for, within the time that the test has.
func newSample(t *testing.T) sample {
	t.Helper()
	s := sample{share: often(12, 24), each: 2}
	if word := os.Getenv("TENURE_CRASH"); word == "all" {
		s = sample{share: 1}
	} else if seed, err := strconv.Atoi(word); err == nil {
		s.seed = seed
	}
	if end, bounded := t.Deadline(); bounded {
		s.end = end.Add(-2 * rig.Patience)
	}
	return s
}

// inTime reports whether there is time for another death.
func (s sample) inTime() bool { return s.end.IsZero() || time.Now().Before(s.end) }

// has reports whether an operation, by its number, is among them.
func (s sample) has(operation int) bool { return (s.seed+operation)%s.share == 0 }

// of are points, counted from 1, out of n.
func (s sample) of(operation, n int) []int {
	const stride = 37
	count, step := s.each, 1
	if s.each == 0 || s.each >= n {
		// In an order in which the first ones are as good a sample as any.
		for count, step = n, n*5/8; gcd(step, n) != 1; step++ {
		}
	}
	// Spread over the operation, from another one each time.
	var points []int
	for i := range count {
		next := i * step
		if count < n {
			next = i * n / count
		}
		points = append(points, 1+(stride*(s.seed+operation)+next)%n)
	}
	return points
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
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
// nothing else is there. It dies at a few points of a few operations; TENURE_CRASH=NUMBER has it die at others, and
// TENURE_CRASH=all at all that there is time for (make crash).
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	s := newSample(t)
	t.Logf("TENURE_CRASH=%d", s.seed)
	kills, files := &ledger{rows: map[string]*row{}}, allSnaps(t)
	t.Run("lanes", func(t *testing.T) {
		for kind, operations := range map[string][]operation{
			"installations": installations(), "refreshes": refreshes(), "stagings": stagings(),
			"controls": slices.Concat(controls(), savings()), "settings": settings(),
		} {
			const most = 4
			for n := 0; n < len(operations); n += most {
				t.Run(kind, func(t *testing.T) {
					t.Parallel()
					newLane(t, s, files, kills).run(n, operations[n:min(n+most, len(operations))])
				})
			}
		}
	})
	t.Logf("\n%s", kills)
	if left := kills.leftOut(); s.each == 0 && len(left) > 0 && !t.Failed() {
		t.Errorf("points were left out of %v", left)
	}
}

// lane has operations die one after another, on one instance as long as nothing is wrong with it.
type lane struct {
	t *testing.T
	*matrix

	sample sample
	files  map[string]string
	kills  *ledger
}

func newLane(t *testing.T, s sample, files map[string]string, kills *ledger) *lane {
	t.Helper()
	return &lane{t: t, sample: s, files: files, kills: kills}
}

// run takes operations of which the first has a number.
func (l *lane) run(first int, operations []operation) {
	l.t.Helper()
	for i := range operations {
		op, number := &operations[i], first+i
		if !l.sample.has(number) || !l.sample.inTime() {
			continue
		}
		if l.matrix == nil {
			l.matrix = newMatrix(l.t, l.sample, l.files, l.kills)
		}
		passed := l.t.Run(strings.TrimSpace(op.name+" "+op.verdict), func(t *testing.T) {
			l.matrix.t, l.mortal.t = t, t
			l.matrix.run(number, op)
		})
		if !passed {
			l.matrix = nil
		}
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
	if said := m.why(ctx); strings.Contains(said, "compare the plan of change") {
		m.t.Errorf("the plan of %s is not compared:\n%s", op.name, said)
	}
	points := m.mortal.release()
	for _, p := range points {
		r.points[p.class()]++
	}
	there := after
	for i, at := range m.sample.of(number, len(points)) {
		if !m.sample.inTime() {
			break
		}
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
	if !died && op.certain {
		died = m.reach(ctx, after)
	}
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
	for _, between := range op.between {
		want = append(want, outlook{facts: between.facts()})
	}
	there := m.await(ctx, op, story, want...)
	for _, p := range living {
		if !slices.Contains(m.living(op), p) {
			m.t.Errorf("%s: process %v has not lived on", story, p)
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

// reach waits until the daemon has ended, or everything is there as it is to be: for what the daemon
// does by itself. It tells whether the daemon has ended.
func (m *matrix) reach(ctx context.Context, want outlook) (died bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, rig.Patience)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		if there, err := m.look(ctx); err == nil && want.fits(there) {
			return !m.trySettle(ctx)
		}
		select {
		case <-m.Ended():
			return true
		case <-ctx.Done():
			return false // Who looks next says so.
		case <-again.C:
		}
	}
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

// await waits until what is there is one of what may be: what nothing needs any more goes, in
// its time.
func (m *matrix) await(ctx context.Context, op *operation, when string, allowed ...outlook) outlook {
	m.t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(rig.Patience)
	for {
		m.settle(ctx)
		there, failure := m.look(ctx) // It may go while it is looked at.
		orphans := m.strangers()
		for _, want := range allowed {
			if failure == nil && len(orphans) == 0 && want.fits(there) {
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
		m.t.Fatalf("%s %s: %s: it is neither; of no unit: %v; %v\n%s", op.name, op.verdict, when, orphans, failure, m.why(ctx))
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
