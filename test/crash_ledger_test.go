package test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// row is what became of the deaths of one operation.
type row struct {
	operation, verdict string
	// points are how many there are, by class; kills at how many of them the daemon died.
	points map[string]int
	kills  map[int]bool
	// again is how often the next daemon died as well, alive how often there were fewer
	// points this time.
	again, alive int
	// before and after are what came of it; failed are the points after which it was neither, or something
	// else was wrong.
	before, after int
	failed        []int
}

// ledger is the table of all.
type ledger struct {
	t     *testing.T
	began time.Time

	mu     sync.Mutex
	rows   []*row
	deaths int
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	return &ledger{t: t, began: time.Now()}
}

// open is the row of an operation.
func (l *ledger) open(op *operation) *row {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &row{operation: op.name, verdict: op.verdict, points: map[string]int{}, kills: map[int]bool{}}
	l.rows = append(l.rows, r)
	return r
}

// tell says now and then how far it is.
func (l *ledger) tell(r *row) {
	const often = 25
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deaths++; l.deaths%often == 0 {
		l.t.Logf("%d points after %s; %s: %d of %d, failed at %v",
			l.deaths, time.Since(l.began).Round(time.Second), r.title(), len(r.kills)+r.alive, r.all(), r.failed)
	}
}

// title is the operation and its verdict.
func (r *row) title() string { return strings.TrimSpace(r.operation + " " + r.verdict) }

// leftOut are the operations that have points at which nobody has died.
func (l *ledger) leftOut() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for _, r := range l.rows {
		if r.all() == 0 || r.all() > len(r.kills)+r.alive {
			list = append(list, r.title())
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
	slices.SortFunc(l.rows, func(a, b *row) int { return strings.Compare(a.title(), b.title()) })
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	classes := []string{"journal", "files", "mounts", "units"}
	fmt.Fprintf(table, "operation\tverdict\tpoints\t%s\tkilled at\talive\tagain\tas before\tas after\tleft out\tfailed\n", strings.Join(classes, "\t"))
	var total row
	total.points = map[string]int{}
	killed := 0
	for _, r := range l.rows {
		counts := ""
		for _, class := range classes {
			counts += "\t" + strconv.Itoa(r.points[class])
			total.points[class] += r.points[class]
		}
		fmt.Fprintf(table, "%s\t%s\t%d%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", r.operation, r.verdict, r.all(), counts,
			len(r.kills), r.alive, r.again, r.before, r.after, r.all()-len(r.kills)-r.alive, r.failures())
		killed += len(r.kills)
		total.again, total.before, total.after = total.again+r.again, total.before+r.before, total.after+r.after
		total.alive, total.failed = total.alive+r.alive, append(total.failed, r.failed...)
	}
	_ = table.Flush() // A strings.Builder does not fail.
	fmt.Fprintf(&out, "%d points of %d operations, killed at %d, again %d times; %d came out as before, %d as after, %d failed; in %s\n",
		total.all(), len(l.rows), killed, total.again, total.before, total.after, len(total.failed), time.Since(l.began).Round(time.Second))
	return out.String()
}

// failures are the points that something was wrong after.
func (r *row) failures() string {
	if len(r.failed) == 0 {
		return "-"
	}
	return strings.Trim(fmt.Sprint(r.failed), "[]")
}
