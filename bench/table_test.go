package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// series are the samples of one quantity.
type series []time.Duration //nolint:recvcheck // Only add changes it, as append does.

func (s *series) add(d time.Duration) { *s = append(*s, d) }

// percentile is the smallest sample that p percent of all do not exceed.
func (s series) percentile(p int) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	rank := (p*len(sorted) + 99) / 100
	return sorted[max(0, rank-1)]
}

func (s series) median() time.Duration { return s.percentile(50) }

// farFactor is how many times a target must be missed to fail a full run.
const farFactor = 2

// table is what is printed in the end.
type table struct {
	rows     [][]string
	sizes    [][]string
	verdicts []verdict
}

// verdict holds one number against one target.
type verdict struct {
	what          string
	found, target float64
	unit          string
	// later is that it is an aim: a run does not fail over it.
	later bool
}

func (v verdict) String() string {
	outcome := "met"
	if v.target > 0 {
		outcome = fmt.Sprintf("met, %.0f %% of it", 100*v.found/v.target)
	}
	if v.found > v.target {
		outcome = fmt.Sprintf("missed by %.1f %s", v.found-v.target, v.unit)
	}
	target := "target"
	if v.later {
		target = "aim"
	}
	return fmt.Sprintf("%s: %.1f %s, %s at most %.1f %s: %s", v.what, v.found, v.unit, target, v.target, v.unit, outcome)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// row adds the percentiles of a series.
func (t *table) row(what string, s series) {
	row := []string{what, fmt.Sprint(len(s))}
	for _, p := range []int{0, 50, 90, 99, 100} {
		row = append(row, fmt.Sprintf("%.2f", milliseconds(s.percentile(p))))
	}
	t.rows = append(t.rows, row)
}

// size adds the memory of a process.
func (t *table) size(what string, r resident) {
	row := []string{what}
	for _, n := range []int{r.all, r.own, r.most} {
		row = append(row, fmt.Sprintf("%.1f", float64(n)/mib))
	}
	t.sizes = append(t.sizes, row)
}

func (t *table) holdTime(what string, found, target time.Duration) {
	t.verdicts = append(t.verdicts, verdict{what, milliseconds(found), milliseconds(target), "ms", false})
}

// aimTime is holdTime for what is to come.
func (t *table) aimTime(what string, found, target time.Duration) {
	t.verdicts = append(t.verdicts, verdict{what, milliseconds(found), milliseconds(target), "ms", true})
}

func (t *table) holdSize(what string, found, target int) {
	t.verdicts = append(t.verdicts, verdict{what, float64(found) / mib, float64(target) / mib, "MiB", false})
}

// aimSize is holdSize for what is to come.
func (t *table) aimSize(what string, found, target int) {
	t.verdicts = append(t.verdicts, verdict{what, float64(found) / mib, float64(target) / mib, "MiB", true})
}

// aimCount holds against nothing at all.
func (t *table) aimCount(what string, found int) {
	t.verdicts = append(t.verdicts, verdict{what, float64(found), 0, "times", true})
}

func (t *table) print(w io.Writer) error {
	err := printRows(w, []string{"milliseconds", "n", "min", "p50", "p90", "p99", "max"}, t.rows)
	if len(t.sizes) > 0 {
		err = errors.Join(err, printRows(w, []string{"MiB resident", "all", "own", "peak"}, t.sizes))
	}
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	for _, v := range t.verdicts {
		if _, err := fmt.Fprintln(w, v); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	return nil
}

func printRows(w io.Writer, head []string, rows [][]string) error {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range append([][]string{head}, rows...) {
		fmt.Fprintln(columns, strings.Join(row, "\t")+"\t") //nolint:errcheck // Flush tells.
	}
	fmt.Fprintln(columns) //nolint:errcheck // Flush tells.
	return columns.Flush()
}

// end prints the table, and fails a full run, of n refreshes, over what is missed by far.
func (t *table) end(b *testing.B, n int) {
	b.Helper()
	if b.Failed() {
		return
	}
	if err := t.print(os.Stdout); err != nil {
		b.Error(err)
	}
	for _, far := range t.farMissed() {
		if n >= fullRefreshes {
			b.Error(far)
		}
	}
}

// farMissed are the verdicts that cannot be the machine's fault.
func (t *table) farMissed() (far []verdict) {
	for _, v := range t.verdicts {
		if !v.later && v.found > farFactor*v.target {
			far = append(far, v)
		}
	}
	return far
}
