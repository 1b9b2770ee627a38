package bench

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"tenure/examples/clients/snaps"
	"tenure/test/rig"
)

// The load of benchMany, and what it may cost.
const (
	manyServices = 10
	// fewSnaps are enough to see that it works, manySnaps are what the targets are for.
	fewSnaps, manySnaps = 20, 100
	kib                 = 1 << 10
	mib                 = 1 << 20
	daemonTarget        = 40 * mib
	bothTarget          = 48 * mib
	listTarget          = 15 * time.Millisecond
	treeTarget          = 40 * time.Millisecond
	adoptTarget         = 300 * time.Millisecond
	restTarget          = 20 * mib
	// rest is how long the daemon is left alone before memory "at rest" is read:
	// it gives memory back a while after its last change, and does not say so.
	rest = 5 * time.Second
)

// benchMany runs services, ten in each snap, and looks at what the daemon and its
// holder need for that, and how long what people do all day takes.
func benchMany(b *testing.B, t *table, n, count int) {
	services := fmt.Sprintf("%d services", count*manyServices)
	i := newInstance(b)
	time.Sleep(rest)
	nothing := residents(b, i.PID())
	t.size("tenured, nothing installed", nothing)
	files := packMany(b, i, b.TempDir(), count, manyServices)
	for _, file := range files {
		i.Tenure("install", "--dangerous", file)
	}
	want := mainProcesses(b, i, count)
	busy := residents(b, i.PID())
	holder := residents(b, i.Holder())
	t.size("tenured, just after the installs", busy)
	t.size("its holder", holder)
	time.Sleep(rest)
	quiet := residents(b, i.PID())
	t.size("tenured, at rest", quiet)
	holder = residents(b, i.Holder())
	t.size("its holder, at rest", holder)

	var lists, trees, tables series
	for range n {
		lists.add(timed(i, "list"))
		tables.add(timed(i, "services"))
		trees.add(timed(i, "ps"))
	}
	used := residents(b, i.PID())
	t.size("tenured, after many requests", used)
	i.Tenure("refresh", "--dangerous", files[0])
	refreshed := residents(b, i.PID())
	t.size("tenured, after a refresh", refreshed)

	adoptions := adopt(b, i, n, files[0], want, count)
	t.row(fmt.Sprintf("list, %d snaps with %s", count, services), lists)
	t.row("services, "+services, tables)
	t.row(fmt.Sprintf("ps, %d units", count*manyServices), trees)
	t.row("daemon starts and adopts "+services, adoptions)
	most := max(busy.all, quiet.all, used.all, refreshed.all)
	if count < manySnaps {
		t.holdSize("tenured with "+services+", the most of these moments", most, daemonTarget)
		return
	}
	t.aimTime("list, median", lists.median(), listTarget)
	t.aimTime("ps, median", trees.median(), treeTarget)
	t.aimTime("daemon starts and adopts, median", adoptions.median(), adoptTarget)
	t.holdSize("tenured at rest, nothing installed", nothing.all, restTarget)
	t.aimSize("tenured and holder with "+services+" at rest", quiet.all+holder.all, bothTarget)
	benchWakeUps(b, t, i)
}

// restWatched is how long it is watched whether anything wakes the daemon up.
const restWatched = time.Minute

// benchWakeUps counts how often the daemon and its holder are given a processor while
// nothing happens.
func benchWakeUps(b *testing.B, t *table, i *rig.Instance) {
	b.Helper()
	time.Sleep(rest)
	daemon, holder := switches(b, i.PID()), switches(b, i.Holder())
	time.Sleep(restWatched)
	t.aimCount("tenured, wake-ups in a minute at rest", switches(b, i.PID())-daemon)
	t.aimCount("its holder, wake-ups in a minute at rest", switches(b, i.Holder())-holder)
}

// switches is how often the threads of a process have got a processor.
func switches(b *testing.B, pid int) (n int) {
	b.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		b.Fatalf("threads of process %d: %v", pid, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); strings.HasSuffix(name, "ctxt_switches") {
				count, _ := strconv.Atoi(strings.TrimSpace(value))
				n += count
			}
		}
	}
	return n
}

// adopt kills the daemon and starts it again, and checks that no process was lost
// but those of the snap that was refreshed.
func adopt(b *testing.B, i *rig.Instance, n int, refreshed string, want map[string]int, count int) (took series) {
	b.Helper()
	snap, _, _ := strings.Cut(filepath.Base(refreshed), "_")
	for range n {
		i.Kill()
		start := time.Now()
		i.Start()
		took.add(time.Since(start))
	}
	for unit, pid := range mainProcesses(b, i, count) {
		if want[unit] != pid && !strings.HasPrefix(unit, snap+".") {
			b.Errorf("%s is process %d, and was %d", unit, pid, want[unit])
		}
	}
	return took
}

// mainProcesses are those of all services, which must all run.
func mainProcesses(b *testing.B, i *rig.Instance, count int) map[string]int {
	b.Helper()
	pids := make(map[string]int)
	for name, unit := range i.Units() {
		for _, p := range unit.Processes {
			if p.Main {
				pids[name] = p.PID
			}
		}
	}
	if len(pids) != count*manyServices {
		b.Fatalf("%d services run, want %d", len(pids), count*manyServices)
	}
	return pids
}

// packMany makes the snap files. Their services are hellod, told where to listen, and compressed as it is: to take it out of xz is
// 60 ms of a processor for each.
func packMany(b *testing.B, i *rig.Instance, dir string, count, services int) []string {
	b.Helper()
	tree, err := snaps.Tree(b.Context(), "hello")
	if err != nil {
		b.Fatal(err)
	}
	var packing errgroup.Group
	files := make([]string, count)
	for k := range files {
		name := fmt.Sprintf("many%02d", k)
		files[k] = filepath.Join(dir, name+"_1.snap")
		packing.Go(func() error { return packOne(i, filepath.Join(dir, name), name, tree, files[k], services) })
	}
	if err := packing.Wait(); err != nil {
		b.Fatal(err)
	}
	return files
}

// packOne makes a snap of so many services.
func packOne(i *rig.Instance, dir, name, tree, file string, services int) error {
	var text strings.Builder
	fmt.Fprintf(&text, "name: %s\nversion: '1'\nsummary: Small services\ndescription: For the benchmark.\nbase: bare\napps:\n", name)
	for k := range services {
		fmt.Fprintf(&text, "  s%d:\n    command: bin/hellod\n    daemon: notify\n    environment:\n      HELLO_SOCKET: $SNAP_COMMON/s%d.sock\n", k, k)
	}
	program, err := os.ReadFile(filepath.Join(tree, "bin/hellod"))
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Join(dir, "bin"), 0o755), os.MkdirAll(filepath.Join(dir, "meta"), 0o755))
	}
	if err == nil {
		err = errors.Join(
			os.WriteFile(filepath.Join(dir, "bin/hellod"), program, 0o755), //nolint:gosec // A program.
			os.WriteFile(filepath.Join(dir, "meta/snap.yaml"), []byte(text.String()), 0o600),
			os.WriteFile(filepath.Join(dir, "version"), []byte("1\n"), 0o600),
		)
	}
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if result := i.Try("pack", "--compression", "zstd", dir, file); result.Status != 0 {
		return fmt.Errorf("pack %s: exit status %d: %s", name, result.Status, result.Stderr)
	}
	return nil
}

// resident is the memory of a process, in bytes: all of it, what is its own, and
// the most that it ever had.
type resident struct{ all, own, most int }

func residents(b *testing.B, pid int) (r resident) {
	b.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // Only read.
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		size, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch name {
		case "VmRSS":
			r.all = size * kib
		case "RssAnon":
			r.own = size * kib
		case "VmHWM":
			r.most = size * kib
		}
	}
	if r.all == 0 {
		b.Fatalf("process %d says nothing of its memory: %v", pid, lines.Err())
	}
	return r
}
