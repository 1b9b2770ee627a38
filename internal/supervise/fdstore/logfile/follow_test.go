package logfile_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore/logfile"
)

// follow sends what Logs yields, until ctx ends; then the channel is closed.
func follow(ctx context.Context, t *testing.T, dir string, n int, units ...tenure.UnitID) <-chan supervise.LogLine {
	t.Helper()
	lines := make(chan supervise.LogLine)
	go func() {
		defer close(lines)
		for line, err := range logfile.NewReader(dir).Logs(ctx, units, n, true) {
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case lines <- line:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		for range lines {
		}
	})
	return lines
}

func expect(t *testing.T, lines <-chan supervise.LogLine, want string) {
	t.Helper()
	if got := <-lines; got.Text != want {
		t.Fatalf("line is %q, want %q", got.Text, want)
	}
}

func TestFollowBeginsBeforeTheLog(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir, a, b := t.TempDir()+"/not/yet", unit(t, "a.a"), unit(t, "b.b/w.1")
	lines := follow(ctx, t, dir, 5, a, b)
	wa := logfile.NewWriter(dir, a, logfile.Limits{})
	wb := logfile.NewWriter(dir, b, logfile.Limits{})
	defer wa.Close()
	defer wb.Close()
	for i := range 10 {
		wa.Write(numbered(i, i+1))
		expect(t, lines, fmt.Sprintf("line %d", i))
		wb.Write(numbered(100+i, 101+i))
		expect(t, lines, fmt.Sprintf("line %d", 100+i))
	}
}

func TestFollowAcrossSegmentsAtFullSpeed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const total = 100_000
	dir, u := t.TempDir(), unit(t, "a.a")
	w := logfile.NewWriter(dir, u, logfile.Limits{Segment: 8 << 10, Total: 1 << 40})
	defer w.Close()
	w.Write(numbered(0, 100))
	lines := follow(ctx, t, dir, 10, u)
	expect(t, lines, "line 90")
	go func() {
		for i := 100; i < total; i += 10 {
			w.Write(numbered(i, i+10))
		}
	}()
	for i := 91; i < total; i++ {
		expect(t, lines, fmt.Sprintf("line %d", i))
	}
}

// TestAFollowerThatFallsBehind has lost whole segments only, and knows how many.
func TestAFollowerThatFallsBehind(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir, u := t.TempDir(), unit(t, "a.a")
	w := logfile.NewWriter(dir, u, logfile.Limits{Segment: 1, Total: 1000}) // One line per segment, and room for two dozen.
	defer w.Close()
	w.Write(numbered(0, 1))
	lines := follow(ctx, t, dir, -1, u)
	expect(t, lines, "line 0")
	w.Write(numbered(1, 2))
	expect(t, lines, "line 1")
	for i := 2; i < 1000; i++ {
		w.Write(numbered(i, i+1))
	}
	next, lost := 2, 0
	for next < 1000 {
		line := <-lines
		var n int
		if _, err := fmt.Sscanf(line.Text, "[%d segments lost", &n); err == nil && line.PID == 0 {
			next += n
			lost += n
			continue
		}
		if line.Text != fmt.Sprintf("line %d", next) {
			t.Fatalf("line is %q, want line %d", line.Text, next)
		}
		next++
	}
	if lost < 900 {
		t.Errorf("%d lines lost: the test tests nothing", lost)
	}
}

func TestFollowGoesOnAfterRemove(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir, u := t.TempDir(), unit(t, "a.a")
	limits := logfile.Limits{Segment: 1}
	w := logfile.NewWriter(dir, u, limits)
	w.Write(numbered(0, 1))
	lines := follow(ctx, t, dir, -1, u)
	expect(t, lines, "line 0")
	for i := 1; i < 20; i++ {
		w.Write(numbered(i, i+1))
		expect(t, lines, fmt.Sprintf("line %d", i))
		if i%5 == 0 {
			w.Close()
			if err := logfile.Remove(dir, u); err != nil {
				t.Fatal(err)
			}
			w = logfile.NewWriter(dir, u, limits)
		}
	}
	w.Close()
}

func TestFollowEndsWithItsConsumer(t *testing.T) {
	t.Parallel()
	dir, u := t.TempDir(), unit(t, "a.a")
	w := logfile.NewWriter(dir, u, logfile.Limits{})
	w.Write(numbered(0, 3))
	w.Close()
	var got []string
	for line, err := range logfile.NewReader(dir).Logs(t.Context(), []tenure.UnitID{u}, 2, true) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, line.Text); len(got) == 2 {
			break
		}
	}
	if strings.Join(got, " ") != "line 1 line 2" {
		t.Errorf("got %q", got)
	}
}
