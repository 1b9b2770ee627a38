package bench

import (
	"os"
	"strconv"
	"testing"
	"time"

	"tenure/examples/clients/snaps"
	"tenure/test/rig"
)

// fullRefreshes is how many refreshes a run needs for its numbers to be held
// against the targets.
const fullRefreshes = 50

// BenchmarkTenure measures everything once and prints one table; with TENURE_SUPERVISOR=systemd
// what is different there. BENCH_N is the number of refreshes; other numbers of samples follow it.
//
// A run with fewer refreshes than fullRefreshes shows that the benchmark works,
// and says nothing of the product: the machine may be busy with other things. In a
// full run a target that is missed by far fails; by little, the table alone says so.
func BenchmarkTenure(b *testing.B) {
	n, err := strconv.Atoi(os.Getenv("BENCH_N"))
	if os.Getenv("BENCH_N") == "" {
		n, err = fullRefreshes, nil
	}
	if err != nil || n < 1 {
		b.Fatalf("BENCH_N=%q: want a number of refreshes, such as %d", os.Getenv("BENCH_N"), fullRefreshes)
	}
	t := &table{}
	if bySystemd() {
		b.Run("systemd", func(b *testing.B) { benchBelowSystemd(b, t, n) })
		t.end(b, n)
		return
	}
	b.Run("decide", func(b *testing.B) { benchDecide(b, t, n) })
	b.Run("copy", func(b *testing.B) { benchCopy(b, t, filesOfData(b, n)) })
	b.Run("refresh", func(b *testing.B) { benchRefresh(b, t, n) })
	b.Run("together", func(b *testing.B) { benchTogether(b, t, max(3, n/5)) })
	b.Run("serve", func(b *testing.B) { benchServe(b, t, max(3, n/5)) })
	b.Run("births", func(b *testing.B) { benchBirths(b, t, 40*n) })
	b.Run("install", func(b *testing.B) { benchInstall(b, t, max(3, n/5)) })
	b.Run("run", func(b *testing.B) { benchRun(b, t, 4*n) })
	b.Run("command", func(b *testing.B) { benchCommand(b, t, n) })
	many := fewSnaps
	if n >= fullRefreshes {
		many = manySnaps
	}
	b.Run("many", func(b *testing.B) { benchMany(b, t, max(3, n/5), many) })
	t.end(b, n)
}

// filesOfData is how many files of data are copied: BENCH_FILES, or by how long the run is.
func filesOfData(b *testing.B, refreshes int) int {
	b.Helper()
	const few, many = 200, 10_000
	asked := os.Getenv("BENCH_FILES")
	switch {
	case asked == "" && refreshes < fullRefreshes:
		return few
	case asked == "":
		return many
	}
	files, err := strconv.Atoi(asked)
	if err != nil || files < changedPart {
		b.Fatalf("BENCH_FILES=%q: want a number of files of %d KiB, %d at least", asked, sizeOfData/kib, changedPart)
	}
	return files
}

// snap is the file of hello in a version.
func snap(b *testing.B, version int) string {
	b.Helper()
	file, err := snaps.Build(b.Context(), "hello", strconv.Itoa(version))
	if err != nil {
		b.Fatal(err)
	}
	return file
}

// runRoom is the size of run/ of an instance, in bytes.
const runRoom = 64 * mib

// newInstance is an instance as machines have it: on the disk, but for run/, which is in memory.
func newInstance(b *testing.B) *rig.Instance {
	b.Helper()
	if bySystemd() {
		return rig.New(b, rig.Config{Disk: true})
	}
	return rig.New(b, rig.Config{Disk: true, RunSize: runRoom})
}

// timed runs the command line, and returns how long that took.
func timed(i *rig.Instance, args ...string) time.Duration {
	start := time.Now()
	i.Tenure(args...)
	return time.Since(start)
}

// benchInstall is a first install of hello as a whole, from the command to its
// end; it is removed in between.
func benchInstall(b *testing.B, t *table, n int) {
	i := newInstance(b)
	file := snap(b, 1)
	var installs, removes series
	for range n {
		installs.add(timed(i, "install", "--dangerous", file))
		removes.add(timed(i, "remove", "--purge", "hello"))
	}
	t.row("install hello, whole command", installs)
	t.aimTime("install of a small local snap, median", installs.median(), commandTarget)
	t.row("remove --purge hello, whole command", removes)
}
