package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
	"tenure/internal/supervise/supervisetest"
	"tenure/test/nspawn"
)

// TestMain makes this binary everything that the tests run: the packaged programs, and what
// systemd starts for their units. The tests themselves run in a machine that has booted with systemd.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "unit" {
		err := Main(os.Args[2:])
		if errors.Is(err, ErrNobody) {
			err = StopAlone(os.Args[2:])
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(ExitStatus(err))
		}
		os.Exit(0)
	}
	if code, ran := supervisetest.RunProgram(os.Args); ran {
		os.Exit(code)
	}
	os.Exit(nspawn.Main(m))
}

var roots atomic.Int64

// root is a supervisor's surroundings in a directory of the test's own.
type root struct {
	dir, prefix string
	holder      *fdstore.Client
	record      supervisetest.Record
	// arbiter says on which terms units end.
	arbiter supervisetest.Arbiter
}

func newRoot(t *testing.T) *root {
	t.Helper()
	dir := supervisetest.ShortDir(t)
	return &root{dir: dir, prefix: fmt.Sprintf("t%dx%d", os.Getpid(), roots.Add(1)), holder: supervisetest.Hold(t, dir)}
}

func (r *root) path(name string) string { return filepath.Join(r.dir, name) }

// run starts a supervisor, and gives what ends it and waits for it.
func (r *root) run(t *testing.T) (s *Supervisor, end func()) {
	t.Helper()
	s, err := New(Config{
		Prefix: r.prefix, UnitDir: "/run/systemd/system", SpecDir: r.path("specs"),
		StateDir: r.path("units"), RuntimeDir: r.path("u"), Program: []string{supervisetest.Executable(t), "unit"},
		Holder: r.holder, Settle: time.Hour, Record: r.record.Add, Terms: r.arbiter.Terms,
		Logger: slog.New(slog.NewTextHandler(supervisetest.LogWriter(t), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, supervisetest.Begin(t, s)
}

// supervisor is one that ends with the test, after it has ended and forgotten all units.
func (r *root) supervisor(t *testing.T) *Supervisor {
	t.Helper()
	s, end := r.run(t)
	t.Cleanup(func() {
		r.clear(t, s)
		end()
		r.sweep(t)
	})
	return s
}

// clear ends everything.
func (r *root) clear(t *testing.T, s *Supervisor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), supervisetest.ClearBound) //nolint:usetesting // Runs after the test's own context.
	defer cancel()
	supervisetest.Clear(ctx, t, s)
}

// sweep reports every process and every file that is left.
func (r *root) sweep(t *testing.T) {
	t.Helper()
	hierarchy, err := proc.OpenHierarchy(r.prefix + slice)
	if err != nil {
		t.Error(err)
		return
	}
	infos, err := proc.GroupAt(hierarchy.Path()).Processes()
	if err != nil {
		t.Error(err)
	}
	infos = slices.DeleteFunc(infos, func(i proc.Info) bool { return filepath.Base(i.Group) == ".control" })
	for _, info := range infos {
		if info.State != 'Z' {
			t.Errorf("process %d is left in %q: %s", info.PID, info.Group, info.CommandLine())
		}
	}
	settle(t, r.prefix+"*")
	for _, pattern := range []string{"/run/systemd/system/" + r.prefix + "*", "/run/systemd/system/*/" + r.prefix + "*", r.path("specs/*.json")} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("files are left: %v, %v", left, err)
		}
	}
}

// settle waits until systemd is through with units that have ended.
func settle(t *testing.T, pattern string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) //nolint:usetesting // Runs after the test's own context.
	defer cancel()
	b := &bus{life: ctx}
	defer b.close()
	conn, _, err := b.get()
	if err != nil {
		t.Fatal(err)
	}
	units, err := conn.ListUnitsByPatternsContext(ctx, []string{"active", "deactivating", "activating"}, []string{pattern})
	if err != nil {
		t.Fatal(err)
	}
	for _, unit := range units {
		if err := b.cancel(ctx, unit.Name); err != nil && !notLoaded(err) {
			t.Error(err)
		}
	}
}

func newHarness(t *testing.T) supervisetest.Harness {
	t.Helper()
	r := newRoot(t)
	return supervisetest.Harness{
		Supervisor: r.supervisor(t),
		Exe:        supervisetest.Executable(t),
		Recorded:   r.record.All,
		Heed:       r.arbiter.Heed,
		Spawn:      supervisetest.SpawnOutside,
		Connect:    supervisetest.Connect,
		Socket: func(_ *testing.T, name string) supervise.Socket {
			return supervise.Socket{Name: name, Network: "unix", Address: r.path(name + ".sock")}
		},
	}
}

func TestLaw(t *testing.T) {
	t.Parallel()
	supervisetest.Run(t, newHarness)
}
