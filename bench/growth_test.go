package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tenure/internal/rules"
)

// growthTurns is of how many samples the medians of a curve are.
const growthTurns = 5

// curves are what grows with a number of things, as columns of a table: the number, and then
// what each curve has there. A curve that ends earlier has a dash.
type curves struct {
	of    string
	names []string
	rows  [][]string
}

func (c *curves) row(n int, values ...float64) {
	row := []string{strconv.Itoa(n)}
	for _, v := range values {
		row = append(row, fmt.Sprintf("%.2f", v))
	}
	c.rows = append(c.rows, row)
}

// write makes a file for gnuplot.
func (c *curves) write(dir string) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%q", c.of)
	for _, name := range c.names {
		fmt.Fprintf(&text, "\t%q", name)
	}
	for _, row := range c.rows {
		text.WriteString("\n" + strings.Join(row, "\t"))
	}
	name := strings.ReplaceAll(c.of, " ", "-") + ".tsv"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text.String()+"\n"), 0o644); err != nil { //nolint:gosec // For everybody.
		return fmt.Errorf("write a curve: %w", err)
	}
	return nil
}

// BenchmarkGrowth measures how times and memory grow, at ten, a hundred and so on up to GROWTH
// (100), and writes a table of each to the directory GROWTH_OUT.
func BenchmarkGrowth(b *testing.B) {
	out := os.Getenv("GROWTH_OUT")
	if out == "" {
		b.Log("make growth says where to, with GROWTH_OUT")
		return
	}
	most, err := strconv.Atoi(os.Getenv("GROWTH"))
	if os.Getenv("GROWTH") == "" {
		most, err = 100, nil
	}
	if err != nil || most < 10 {
		b.Fatalf("GROWTH=%q: want the largest number, such as 10000", os.Getenv("GROWTH"))
	}
	for _, c := range []struct {
		curves

		// most is where the curve ends whatever is asked for: services are real processes.
		most    int
		measure func(b *testing.B, n int) []float64
	}{
		{curves{of: "processes", names: []string{"decision with 100 rules, ms"}}, 10_000, growDecision},
		{curves{of: "files of data", names: []string{"second copy, 1 % changed, ms", "full copy, ms"}}, 10_000, growCopy},
		{curves{of: "services", names: []string{
			"list, ms", "ps, ms", "start of the daemon, ms", "tenured and holder, MiB",
		}}, 1000, growServices},
		{curves{of: "snaps in one command", names: []string{"refresh, ms"}}, commandSnaps, growSnaps},
	} {
		for n := 10; n <= min(most, c.most); n *= 10 {
			b.Run(strings.ReplaceAll(c.of, " ", "_")+"/"+strconv.Itoa(n), func(b *testing.B) { c.row(n, c.measure(b, n)...) })
		}
		if err := c.write(out); err != nil {
			b.Fatal(err)
		}
	}
}

func growDecision(b *testing.B, n int) []float64 {
	set, err := rules.Parse("policy.yaml", []byte(manyRules(decideRules)))
	if err != nil {
		b.Fatal(err)
	}
	var took series
	for range growthTurns {
		facts := manyProcesses(max(1, n/10), n)
		start := time.Now()
		decide(set, &facts)
		took.add(time.Since(start))
	}
	return []float64{milliseconds(took.median())}
}

func growCopy(b *testing.B, n int) []float64 {
	c := copyTwice(b, b.TempDir(), n, 100*kib)
	return []float64{milliseconds(c.second.median()), milliseconds(c.first.median())}
}

func growServices(b *testing.B, n int) []float64 {
	i := newInstance(b)
	files := packMany(b, i, b.TempDir(), n/manyServices, manyServices)
	for _, file := range files {
		i.Tenure("install", "--dangerous", file)
	}
	want := mainProcesses(b, i, len(files))
	var lists, trees series
	for range growthTurns {
		lists.add(timed(i, "list"))
		trees.add(timed(i, "ps"))
	}
	starts := adopt(b, i, growthTurns, files[0], want, len(files))
	time.Sleep(rest)
	memory := residents(b, i.PID()).all + residents(b, i.Holder()).all
	return []float64{
		milliseconds(lists.median()), milliseconds(trees.median()), milliseconds(starts.median()), float64(memory) / mib,
	}
}

// growSnaps refreshes many snaps in one command, each with one service, and all of the
// same size.
func growSnaps(b *testing.B, n int) []float64 {
	return []float64{milliseconds(refreshAll(b, n))}
}
