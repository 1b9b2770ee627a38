package test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tenure"
	"tenure/client"
	"tenure/test/rig"
)

// matrix is an instance that an operation dies on.
type matrix struct {
	*rig.Instance

	t      *testing.T
	mortal *mortality
	files  map[string]string
	// renews is that processes may have the environment of an earlier revision.
	renews bool
}

// sample says at which of the points of an operation the daemon dies.
type sample struct {
	// share is that it is one operation of so many, each at another time.
	share int
	// each is at how many of its points; 0 is at all.
	each int
	// seed is which ones.
	seed int
	// only is the one point, if not 0.
	only int
	// end is when no other death begins, if there is an end to the time; the rest is left out.
	end time.Time
}

// newSample is what TENURE_CRASH asks for, within the time that the test has.
func newSample(t *testing.T) sample {
	t.Helper()
	s := sample{share: often(12, 36), each: 2}
	word := os.Getenv("TENURE_CRASH")
	if only, found := strings.CutPrefix(word, "at="); found {
		s.share = 1
		s.only, _ = strconv.Atoi(only) // What is no number is 0: all.
	}
	switch seed, err := strconv.Atoi(word); {
	case word == "all":
		s = sample{share: 1}
	case err == nil:
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
	if s.only != 0 {
		return []int{s.only}
	}
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

// recover starts the next daemon, which after every other point dies as well.
func (m *matrix) recover(ctx context.Context, r *row, point int) (story string) {
	m.t.Helper()
	if point%2 == 0 {
		m.Start()
		return ""
	}
	const stride = 7
	at := 1 + point*stride%40
	m.mortal.await(at)
	if m.TryStart() == nil {
		quiet := make(chan struct{})
		close(quiet)
		m.outlive(ctx, quiet)
	}
	if done := m.mortal.release(); len(done) >= at {
		m.Kill() // It may be about to die.
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
// does by itself.
func (m *matrix) reach(ctx context.Context, want outlook) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, rig.Patience)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		if there, err := m.look(ctx); err == nil && want.fits(there) {
			m.trySettle(ctx)
			return
		}
		select {
		case <-m.Ended():
			return
		case <-ctx.Done():
			return // Who looks next says so.
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
		changes, err := m.Client().Changes(ctx, "in-progress", "")
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
		var orphans []string
		for _, want := range allowed {
			if failure != nil || !want.fits(there) {
				continue
			}
			if orphans = m.strangers(); len(orphans) == 0 {
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
	list, err := m.Client().Snaps(ctx, false)
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range list {
		steps(action(client.Action{Action: "remove", Snaps: []string{list[i].Name}, Purge: true}))(ctx, m)
	}
	sets, err := m.Client().Snapshots(ctx, 0, nil)
	for i := 0; err == nil && i < len(sets); i++ {
		_, err = m.Client().ChangeSnapshots(ctx, client.SnapshotAction{Action: "forget", Set: sets[i].ID})
	}
	if err != nil {
		m.t.Fatal(err)
	}
	const retention = "snapshots.automatic.retention"
	conf, err := m.Client().Conf(ctx, "system", []string{retention})
	if err != nil {
		m.t.Fatal(err)
	}
	if conf[retention] != "no" {
		steps(setting(retention, "no"))(ctx, m)
	}
	// Somebody on this machine may just have a copy of all mounts, as who makes a namespace does, and keeps a revision.
	m.await(ctx, &operation{name: "remove all"}, "afterwards", outlook{})
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
