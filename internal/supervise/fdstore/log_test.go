package fdstore_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
	"tenure/internal/supervise/fdstore/logfile"
)

// read returns the log of a unit as it is now.
func (r *root) read(t *testing.T, name string) []supervise.LogLine {
	t.Helper()
	var lines []supervise.LogLine
	for line, err := range logfile.NewReader(r.logs()).Logs(t.Context(), []tenure.UnitID{unit(t, name)}, -1, false) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines
}

func (r *root) texts(t *testing.T, name string) []string {
	t.Helper()
	var s []string
	for _, l := range r.read(t, name) {
		s = append(s, l.Text)
	}
	return s
}

func openLog(t *testing.T, c *fdstore.Client, name string) *os.File {
	t.Helper()
	w, err := c.Log(t.Context(), unit(t, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// run starts the command with its output in the log of a unit.
func run(t *testing.T, c *fdstore.Client, name string, cmd *exec.Cmd) {
	t.Helper()
	w := openLog(t, c, name)
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
}

// ended waits until the last writer of all logs is gone and the holder has seen it.
func ended(t *testing.T, c *fdstore.Client) {
	t.Helper()
	eventually(t, "end of the logs", func() bool {
		items, err := c.List(t.Context())
		return err == nil && len(items) == 0
	})
}

func TestLinesHaveTheirWriters(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	c := r.client(t)
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `echo $$; /bin/sh -c 'echo $$; printf "\0\377half of $$"'; echo other; printf "no newline"`)
	run(t, c, "a.a", cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	ended(t, c)
	lines := r.read(t, "a.a")
	if len(lines) != 5 {
		t.Fatalf("lines are %v", lines)
	}
	outer, inner := lines[0].Text, lines[1].Text
	var got, want []string
	for _, l := range lines {
		got = append(got, strconv.Itoa(l.PID)+" "+l.Text)
	}
	want = []string{outer + " " + outer, inner + " " + inner, inner + " \x00\xffhalf of " + inner, outer + " other", outer + " no newline"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if outer != strconv.Itoa(cmd.Process.Pid) {
		t.Errorf("pid is %s, want %d", outer, cmd.Process.Pid)
	}
}

func TestLongLinesAreCut(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	c := r.client(t)
	w := openLog(t, c, "a.a")
	long := strings.Repeat("0123456789", 10_000)
	exact := strings.Repeat("x", logfile.MaxText)
	if _, err := fmt.Fprintf(w, "short\n%s\n%s\n%sy\n%s", long, exact, exact, long); err != nil {
		t.Fatal(err)
	}
	w.Close()
	ended(t, c)
	const m = logfile.MaxText
	want := []string{"short", long[:m], long[m : 2*m], long[2*m:], exact, exact, "y", long[:m], long[m : 2*m], long[2*m:]}
	if diff := cmp.Diff(want, r.texts(t, "a.a")); diff != "" {
		t.Errorf("%.2000s", diff)
	}
}

// checkCount fails unless the log is the lines that the role count writes, each once and in order.
func checkCount(t *testing.T, r *root, name string, n int) {
	t.Helper()
	lines := r.read(t, name)
	for i, l := range lines {
		if want := "line " + strconv.Itoa(i); l.Text != want {
			t.Errorf("%s: line %d is %q", name, i, l.Text)
			return
		}
	}
	if len(lines) != n {
		t.Errorf("%s: %d lines, want %d", name, len(lines), n)
	}
}

func TestHandOverUnderWriters(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	r.limits.Segment = 64 << 10
	c := r.client(t)
	const n = 200_000
	u, f := unit(t, "a.a"), file(t, "kept")
	put(t, c, u, fdstore.Stored, "x", f)
	var services []*exec.Cmd
	for i := range 2 {
		cmd := command(t, "count", strconv.Itoa(n))
		run(t, c, fmt.Sprintf("a.u%d", i), cmd)
		services = append(services, cmd)
	}
	slow := openLog(t, c, "a.slow")
	seen := map[int]bool{}
	for i := range 8 {
		if _, err := fmt.Fprintf(slow, "half of %d, ", i); err != nil {
			t.Fatal(err)
		}
		if err := c.Replace(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(slow, "and the other\n"); err != nil {
			t.Fatal(err)
		}
		seen[r.holder(t)] = true
	}
	slow.Close()
	for _, cmd := range services {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d holders", len(seen))
	}
	if diff := cmp.Diff([]string{"stored x kept"}, contents(t, c, u)); diff != "" {
		t.Error(diff)
	}
	forget(t, c, u)
	ended(t, c)
	checkCount(t, r, "a.u0", n)
	checkCount(t, r, "a.u1", n)
	for i, text := range r.texts(t, "a.slow") {
		if want := fmt.Sprintf("half of %d, and the other", i); text != want {
			t.Errorf("line is %q, want %q", text, want)
		}
	}
}

// TestKilledHolder kills it under a writer at full speed, which notices nothing. What the
// holder had read and not yet written is lost: one batch.
func TestKilledHolder(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	c := r.client(t)
	u, f := unit(t, "a.a"), file(t, "kept")
	put(t, c, u, fdstore.Stored, "x", f)
	const n, kills = 300_000, 5
	cmd := command(t, "count", strconv.Itoa(n))
	w := openLog(t, c, "a.a")
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range kills {
		old := r.holder(t)
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another holder", func() bool { pids := r.holders(); return len(pids) == 1 && pids[0] != old })
		if diff := cmp.Diff([]string{"stored x kept"}, contents(t, c, u)); diff != "" {
			t.Error(diff)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the service noticed: %v", err)
	}
	if _, err := fmt.Fprintf(w, "\nline %d\n", n); err != nil {
		t.Error(err)
	}
	w.Close()
	forget(t, c, u)
	ended(t, c)
	lines := r.read(t, "a.a")
	last, cut := -1, 0
	for _, l := range lines {
		var i int
		if _, err := fmt.Sscanf(l.Text, "line %d", &i); err != nil {
			continue
		}
		// A line that a holder had only the beginning of when it died.
		if i < last && strings.HasPrefix(strconv.Itoa(last+1), strconv.Itoa(i)) {
			cut++
			continue
		}
		if i < last {
			t.Fatalf("line %d after %d", i, last)
		}
		last = i
	}
	if cut > kills {
		t.Errorf("%d lines are cut, and %d holders were killed", cut, kills)
	}
	if lost := n - len(lines); last != n || lost > kills*64<<10/len("line 1\n") {
		t.Errorf("last line is %d, %d are lost", last, lost)
	}
}

// TestAFloodDoesNotDrownOthers follows a quiet log beside those that are written at full speed.
func TestAFloodDoesNotDrownOthers(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	r.limits = logfile.Limits{}
	c := r.client(t)
	var floods []*exec.Cmd
	for i := range 12 { // More than there are batches.
		cmd := exec.CommandContext(t.Context(), "/usr/bin/yes", "flood")
		run(t, c, fmt.Sprintf("a.flood%d", i), cmd)
		floods = append(floods, cmd)
	}
	w := openLog(t, c, "a.quiet")
	i := 0
	for line, err := range followLog(t, r, "a.quiet", func() { fmt.Fprintf(w, "line %d\n", i) }) {
		if err != nil || line.Text != fmt.Sprintf("line %d", i) {
			t.Fatalf("line is %q, %v", line.Text, err)
		}
		if i++; i == 50 {
			break
		}
		fmt.Fprintf(w, "line %d\n", i)
	}
	rss := status(t, r.holder(t), "VmRSS")
	w.Close()
	for _, cmd := range floods {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	ended(t, c)
	t.Logf("RSS of the holder under 12 floods: %d KiB", rss)
	if rss > 64<<10 && !raced {
		t.Errorf("RSS of the holder is %d KiB", rss)
	}
}

func followLog(t *testing.T, r *root, name string, first func()) func(func(supervise.LogLine, error) bool) {
	t.Helper()
	first()
	return logfile.NewReader(r.logs()).Logs(t.Context(), []tenure.UnitID{unit(t, name)}, -1, true)
}

// status is a number of /proc/PID/status.
func status(t *testing.T, pid int, key string) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s", key)
	return 0
}

// TestIdleStreamsAreSmall measures the holder with many logs, each of which has been written to.
func TestIdleStreamsAreSmall(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	c := r.client(t)
	const n = 500
	if _, err := c.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := status(t, r.holder(t), "VmRSS")
	for i := range n {
		w := openLog(t, c, fmt.Sprintf("a.u%d", i))
		if _, err := w.WriteString("hello\n"); err != nil {
			t.Fatal(err)
		}
	}
	last := fmt.Sprintf("a.u%d", n-1)
	eventually(t, "the last line", func() bool { return len(r.read(t, last)) == 1 })
	after := status(t, r.holder(t), "VmRSS")
	t.Logf("RSS of the holder: %d KiB with none, %d KiB with %d idle logs: %.1f KiB each", before, after, n, float64(after-before)/n)
	if after-before > 10*n && !raced {
		t.Errorf("%d KiB for %d idle logs", after-before, n)
	}
}

// The logs of a snap go at once, whoever still writes to them, and those of others
// stay. What is written later goes nowhere, and never to the log of a next life.
func TestDroppedLogs(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	c := r.client(t)
	for _, name := range []string{"a.a", "a.a/leftover.7", "b.a"} {
		w := openLog(t, c, name)
		fmt.Fprintln(w, "first")
		eventually(t, "the line of "+name, func() bool { return len(r.texts(t, name)) == 1 })
		defer fmt.Fprintln(w, "never read")
		if name == "b.a" {
			break
		}
		defer w.Close()
	}
	old := openLog(t, c, "a.a")
	if err := c.DropLogs(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	next := openLog(t, c, "a.a")
	fmt.Fprintln(old, "of an earlier life")
	fmt.Fprintln(next, "second")
	eventually(t, "the line of the next life", func() bool { return len(r.texts(t, "a.a")) > 0 })
	want := map[string][]string{"a.a": {"second"}, "a.a/leftover.7": nil, "b.a": {"first"}}
	for name, lines := range want {
		if diff := cmp.Diff(lines, r.texts(t, name)); diff != "" {
			t.Errorf("log of %s (-want +got):\n%s", name, diff)
		}
	}
	entries, err := os.ReadDir(r.logs())
	if err != nil || len(entries) != 2 {
		t.Errorf("directories of logs: %v, %v", entries, err)
	}
	if err := c.DropLog(t.Context(), unit(t, "b.a")); err != nil {
		t.Fatal(err)
	}
	if got := r.texts(t, "b.a"); len(got) > 0 {
		t.Errorf("log of b.a after it was dropped: %q", got)
	}
	if got := r.texts(t, "a.a"); len(got) != 1 {
		t.Errorf("log of a.a after that of b.a was dropped: %q", got)
	}
}
