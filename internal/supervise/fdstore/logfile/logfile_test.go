package logfile_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore/logfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func unit(t *testing.T, s string) tenure.UnitID {
	t.Helper()
	u, err := tenure.ParseUnit(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// read collects what Logs yields without following.
func read(t *testing.T, dir string, n int, units ...tenure.UnitID) []supervise.LogLine {
	t.Helper()
	var lines []supervise.LogLine
	for line, err := range logfile.NewReader(dir).Logs(t.Context(), units, n, false) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines
}

func texts(lines []supervise.LogLine) []string {
	var s []string
	for _, l := range lines {
		s = append(s, l.Text)
	}
	return s
}

func numbered(from, to int) []byte {
	var b []byte
	for i := from; i < to; i++ {
		b = logfile.AppendLine(b, time.Now(), 1, fmt.Appendf(nil, "line %d", i), false)
	}
	return b
}

func TestDirNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range []string{
		"virt.virtd", "virt_dev.vm@web1", "virt.virtd/vm.4711", "virt.virtd/leftover.9", "virt.virtd/vm@web1", "virt.virtd/vm", "virt.vm@web1/job@a-b", "virt.vm@web1/successor.2",
		"virt.qemu-img~4711", "virt.hook.configure~9",
	} {
		u := unit(t, s)
		name := logfile.DirName(u)
		if strings.ContainsAny(name, "/~@") || seen[name] {
			t.Errorf("name of %s is %q", s, name)
		}
		seen[name] = true
		if back, err := logfile.ParseDirName(name); err != nil || back != u {
			t.Errorf("%q is %v, %v; want %s", name, back, err, s)
		}
	}
	for _, name := range []string{"", "..", "lost+found", "virt.virtd@x", "virt.virtd/vm.1", "virt.qemu~1"} {
		if u, err := logfile.ParseDirName(name); err == nil {
			t.Errorf("%q is %v", name, u)
		}
	}
}

func TestLinesAreKeptByteByByte(t *testing.T) {
	t.Parallel()
	dir, u := t.TempDir(), unit(t, "virt.virtd")
	now := time.Date(2026, 11, 24, 0, 14, 9, 120, time.FixedZone("", 3600))
	want := []supervise.LogLine{
		{Time: now.UTC(), Unit: u, PID: 4711, Text: "plain"},
		{Time: now.UTC(), Unit: u, PID: 4711, Text: ""},
		{Time: now.UTC(), Unit: u, PID: 1, Text: "nul \x00 and \xff\xfe, and 4711+ "},
		{Time: now.UTC(), Unit: u, PID: 2, Text: strings.Repeat("x", logfile.MaxText)},
	}
	w := logfile.NewWriter(dir, u, logfile.Limits{})
	for i, l := range want {
		w.Write(logfile.AppendLine(nil, now, l.PID, []byte(l.Text), i%2 == 1))
	}
	w.Close()
	got, end := read(t, dir, -1, u), supervise.LogPlace{Segment: 1}
	for i := range got {
		if got[i].Place.Segment != 1 || got[i].Place.End <= end.End {
			t.Errorf("line %d ends at %v, the one before at %v", i, got[i].Place, end)
		}
		end, got[i].Place = got[i].Place, supervise.LogPlace{}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	data, err := os.ReadFile(filepath.Join(dir, "virt.virtd", "00000001.log"))
	if err != nil || !bytes.HasPrefix(data, []byte("2026-11-23T23:14:09.000000120Z 4711 plain\n2026-11-23T23:14:09.000000120Z 4711+ \n")) {
		t.Errorf("the file begins with %.90q, %v", data, err)
	}
}

func TestSegmentsStayWithinTheLimits(t *testing.T) {
	t.Parallel()
	dir, u := t.TempDir(), unit(t, "virt.virtd")
	limits := logfile.Limits{Segment: 4 << 10, Total: 16 << 10}
	highest := 0
	for round := range 20 { // A new writer each time, as after the end of a holder.
		w := logfile.NewWriter(dir, u, limits)
		for i := range 10 {
			w.Write(numbered(round*1000+i*100, round*1000+i*100+20))
		}
		w.Close()
		total, newest := usage(t, filepath.Join(dir, "virt.virtd"))
		if total > limits.Total+1024 {
			t.Fatalf("%d bytes in round %d", total, round)
		}
		if newest < highest {
			t.Fatalf("segment %d after %d", newest, highest)
		}
		highest = newest
	}
	if highest < 20 {
		t.Errorf("newest segment is %d", highest)
	}
	lines := texts(read(t, dir, -1, u))
	if last := lines[len(lines)-1]; last != "line 19919" || len(lines) < 200 {
		t.Errorf("%d lines, last %q", len(lines), last)
	}
}

func usage(t *testing.T, dir string) (total int64, newest int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
		if _, err := fmt.Sscanf(e.Name(), "%d.log", &newest); err != nil {
			t.Fatal(err)
		}
	}
	return total, newest
}

func TestAnUnfinishedLineIsEnded(t *testing.T) {
	t.Parallel()
	dir, u := t.TempDir(), unit(t, "virt.virtd")
	w := logfile.NewWriter(dir, u, logfile.Limits{})
	w.Write(numbered(0, 1))
	w.Close()
	f, err := os.OpenFile(filepath.Join(dir, "virt.virtd", "00000001.log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("2026-11-2"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if diff := cmp.Diff([]string{"line 0"}, texts(read(t, dir, -1, u))); diff != "" {
		t.Errorf("before: %s", diff)
	}
	w.Write(numbered(1, 2))
	w.Close()
	if diff := cmp.Diff([]string{"line 0", "2026-11-2", "line 1"}, texts(read(t, dir, -1, u))); diff != "" {
		t.Errorf("after: %s", diff)
	}
}

func TestAFullDiskDropsLinesAndSaysSo(t *testing.T) {
	t.Parallel()
	dir, u := t.TempDir(), unit(t, "virt.virtd")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 32<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	w := logfile.NewWriter(dir, u, logfile.Limits{})
	const total = 2000
	for i := range total / 10 {
		w.Write(numbered(10*i, 10*i+10))
	}
	if w.Dropped() == 0 {
		t.Fatal("nothing was dropped")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	dropped := w.Dropped()
	w.Write(numbered(total, total+1))
	w.Close()
	lines := texts(read(t, dir, -1, u))
	want := strings.Split(strings.TrimSuffix(string(numberedText(total-dropped)), "\n"), "\n")
	want = append(want, fmt.Sprintf("[%d lines dropped: no space left on device]", dropped), fmt.Sprintf("line %d", total))
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}

func numberedText(n int) []byte {
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, "line %d\n", i)
	}
	return b
}

// TestLastLines compares with the simple way: read all, sort, cut.
func TestLastLines(t *testing.T) {
	t.Parallel()
	units := []tenure.UnitID{unit(t, "a.a"), unit(t, "b.b"), unit(t, "c.c/w.1")}
	base := t.TempDir()
	count := 0
	rapid.Check(t, func(rt *rapid.T) {
		count++
		dir := filepath.Join(base, fmt.Sprint(count))
		var writers []*logfile.Writer
		for _, u := range units {
			w := logfile.NewWriter(dir, u, logfile.Limits{Segment: rapid.Int64Range(1, 4000).Draw(rt, "segment"), Total: 1 << 40})
			defer w.Close()
			writers = append(writers, w)
		}
		var all []string
		start := time.Now()
		for i, which := range rapid.SliceOfN(rapid.IntRange(0, 2), 0, 60).Draw(rt, "lines") {
			size := rapid.SampledFrom([]int{0, 1, 10, 3000, logfile.MaxText - 10}).Draw(rt, "size")
			text := fmt.Sprintf("%08d%s", i, strings.Repeat("x", size))
			all = append(all, text)
			writers[which].Write(logfile.AppendLine(nil, start.Add(time.Duration(i)), 1, []byte(text), false))
		}
		n := rapid.IntRange(-1, 70).Draw(rt, "n")
		want := all
		if n >= 0 {
			want = all[max(0, len(all)-n):]
		}
		if diff := cmp.Diff(want, append([]string{}, texts(read(t, dir, n, units...))...), cmp.Comparer(equalEmpty)); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func equalEmpty(a, b []string) bool {
	return len(a) == len(b) && strings.Join(a, "\n") == strings.Join(b, "\n")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-11-24T00:14:09.123456789Z 4711+ text\n"))
	f.Add([]byte("\x00\n\n \n2026-11-24T00:14:09Z -1 x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		u := unit(t, "a.a")
		if err := os.MkdirAll(filepath.Join(dir, "a.a"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "a.a", "00000001.log"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, want := len(read(t, dir, -1, u)), bytes.Count(data, []byte{'\n'}); got != want && len(data) < 90<<10 {
			t.Errorf("%d lines, want %d", got, want)
		}
		if got, want := len(read(t, dir, 2, u)), min(2, bytes.Count(data, []byte{'\n'})); got != want {
			t.Errorf("%d last lines, want %d", got, want)
		}
	})
}
