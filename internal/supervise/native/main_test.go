package native

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
	"tenure/internal/supervise/fdstore/logfile"
	"tenure/internal/supervise/supervisetest"
)

// TestMain makes this binary everything that the tests run: the packaged
// programs, the helper that sets LISTEN_PID, the forker, and a daemon that is killed.
func TestMain(m *testing.M) {
	if code, ran := supervisetest.RunProgram(os.Args); ran {
		os.Exit(code)
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "exec-listen":
			fmt.Fprintln(os.Stderr, ExecListen(os.Args[2:]))
			os.Exit(1)
		case "daemon":
			os.Exit(daemon(os.Args[2]))
		case "forker":
			os.Exit(forker(os.Args[0]))
		}
	}
	os.Exit(m.Run())
}

// root is a supervisor's surroundings in a directory of the test's own.
type root struct {
	dir       string
	hierarchy *proc.Hierarchy
	holder    *fdstore.Client
	// settle is Config.Settle: where it is not what a test is about nothing is set
	// apart before its service stops.
	settle time.Duration
	record supervisetest.Record
	// witness, if set, sees what is recorded while it is.
	witness supervise.Recorder
	// arbiter says on which terms units end.
	arbiter supervisetest.Arbiter
}

var hierarchies atomic.Int64

// newRoot makes the surroundings, and checks at the end that nothing is left:
// no process, no group, no file that a unit had.
func newRoot(t *testing.T) *root {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests need root, for control groups")
	}
	dir := supervisetest.ShortDir(t)
	h, err := proc.OpenHierarchy(fmt.Sprintf("tenure-native-%d-%d", os.Getpid(), hierarchies.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	r := &root{dir: dir, hierarchy: h, settle: time.Hour}
	t.Cleanup(func() { r.sweep(t) })
	r.holder = supervisetest.Hold(t, dir)
	return r
}

func (r *root) path(name string) string { return filepath.Join(r.dir, name) }

// sweep reports every process that is left and ends it, and removes the groups.
func (r *root) sweep(t *testing.T) {
	t.Helper()
	all := proc.GroupAt(r.hierarchy.Path())
	infos, err := all.Processes()
	if err != nil {
		t.Error(err)
	}
	for _, info := range infos {
		if info.State != 'Z' {
			t.Errorf("process %d is left in %q: %s", info.PID, info.Group, info.CommandLine())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) //nolint:usetesting // Runs after the test's own context.
	defer cancel()
	if err := errors.Join(all.Thaw(), all.Kill(), all.AwaitEmpty(ctx)); err != nil {
		t.Error(err)
	}
	if groups, err := r.hierarchy.Groups(); err == nil && !t.Failed() {
		for _, group := range groups {
			t.Errorf("group %s is left", group.Path())
		}
	}
	if err := r.hierarchy.Remove(); err != nil {
		t.Error(err)
	}
}

func (r *root) config(t *testing.T) Config {
	t.Helper()
	return Config{
		StateDir: r.path("units"), RuntimeDir: r.path("u"), Hierarchy: r.hierarchy, Holder: r.holder,
		Settle: r.settle, Terms: r.arbiter.Terms, Record: func(e supervise.Event) {
			r.record.Add(e)
			if r.witness != nil {
				r.witness(e)
			}
		},
		Logs: logfile.NewReader(r.path("logs")), Logger: slog.New(slog.NewTextHandler(supervisetest.LogWriter(t), nil)),
	}
}

// run starts a supervisor, and gives what ends it and waits for it.
func (r *root) run(t *testing.T) (s *Supervisor, end func()) {
	t.Helper()
	s, err := New(r.config(t))
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
		if names, err := filepath.Glob(r.path("u*/*")); err == nil && len(names) > 0 && !t.Failed() {
			t.Errorf("files are left: %v", names)
		}
	})
	return s
}

// clear ends everything.
func (r *root) clear(t *testing.T, s *Supervisor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), supervisetest.ClearBound) //nolint:usetesting // Runs after the test's own context.
	defer cancel()
	supervisetest.Clear(ctx, t, s)
	groups, err := r.hierarchy.Groups()
	for _, group := range groups {
		// The background is behind by a moment.
		err = errors.Join(err, group.AwaitEmpty(ctx))
		for errors.Is(group.Remove(), proc.ErrPopulated) && ctx.Err() == nil {
			err = errors.Join(err, group.AwaitEmpty(ctx))
		}
	}
	if err != nil {
		t.Error(err)
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

// daemon is a supervisor that is a process of its own, to be killed. Its
// surroundings are in dir, its holder another process.
func daemon(dir string) int {
	text, err := os.ReadFile(filepath.Join(dir, "hierarchy"))
	if err != nil {
		return 1
	}
	hierarchy, err := proc.OpenHierarchy(string(text))
	if err != nil {
		return 1
	}
	ctx := context.Background()
	holder, err := fdstore.New(ctx, fdstore.Config{
		Socket: filepath.Join(dir, "holder"), Spawn: func(context.Context) error { return fs.ErrNotExist },
	})
	if err != nil {
		return 1
	}
	s, err := New(Config{
		StateDir: filepath.Join(dir, "units"), RuntimeDir: filepath.Join(dir, "u"), Hierarchy: hierarchy, Holder: holder,
		Logs: logfile.NewReader(filepath.Join(dir, "logs")), Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return 1
	}
	go func() { _ = s.Run(ctx) }()
	<-s.Ready()
	return obey(ctx, s)
}

// obey carries out the orders on standard input: JSON of Specs to start, or the
// name of a unit to stop. It answers each on standard output.
func obey(ctx context.Context, s *Supervisor) int {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		order, argument, _ := strings.Cut(lines.Text(), " ")
		go func() {
			var err error
			switch order {
			case "start":
				err = startJSON(ctx, s, argument)
			case "stop":
				id, parseErr := tenure.ParseUnit(argument)
				if err = parseErr; err == nil {
					_, err = s.Stop(ctx, supervise.StopRequest{Units: []tenure.UnitID{id}, Reason: tenure.ReasonStop})
				}
			}
			fmt.Println(order, strconv.Quote(fmt.Sprint(err)))
		}()
	}
	return 0
}
