package native

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
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
	// arbiter, if set, says on which terms units end.
	arbiter atomic.Pointer[supervise.Arbiter]
}

// heed has an arbiter asked from now on.
func (r *root) heed(arbiter supervise.Arbiter) { r.arbiter.Store(&arbiter) }

func (r *root) terms(ctx context.Context, unit tenure.UnitID) (supervise.Terms, error) {
	if arbiter := r.arbiter.Load(); arbiter != nil {
		return (*arbiter)(ctx, unit)
	}
	return supervise.Terms{}, nil
}

var hierarchies atomic.Int64

// newRoot makes the surroundings, and checks at the end that nothing is left:
// no process, no group, no file that a unit had.
func newRoot(t *testing.T) *root {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests need root, for control groups")
	}
	dir, err := os.MkdirTemp("", "native-") //nolint:usetesting // Sockets need a short path.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h, err := proc.OpenHierarchy(fmt.Sprintf("tenure-native-%d-%d", os.Getpid(), hierarchies.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	r := &root{dir: dir, hierarchy: h, settle: time.Hour}
	t.Cleanup(func() { r.sweep(t) })
	r.serve(t)
	return r
}

// serve runs a holder in this process.
func (r *root) serve(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // It outlives the test's own context.
	done := make(chan struct{})
	spawn := func(context.Context) error {
		read, write, err := os.Pipe()
		if err != nil {
			return err
		}
		go func() {
			defer close(done)
			_ = fdstore.Serve(ctx, fdstore.ServeConfig{Socket: r.path("holder"), Logs: r.path("logs"), Ready: write})
			_ = write.Close()
		}()
		defer read.Close()
		line, err := bufio.NewReader(read).ReadString('\n')
		if line != "ready\n" {
			return errors.Join(err, errors.New(line))
		}
		return nil
	}
	client, err := fdstore.New(ctx, fdstore.Config{Socket: r.path("holder"), Spawn: spawn})
	if err != nil {
		t.Fatal(err)
	}
	r.holder = client
	t.Cleanup(func() {
		_ = client.Close()
		cancel()
		<-done
	})
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
		Settle: r.settle, Terms: r.terms, Record: func(e supervise.Event) {
			r.record.Add(e)
			if r.witness != nil {
				r.witness(e)
			}
		},
		Logs: logfile.NewReader(r.path("logs")), Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
}

// testWriter puts what the supervisor logs where the test's output is.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// run starts a supervisor, and gives what ends it and waits for it.
func (r *root) run(t *testing.T) (s *Supervisor, end func()) {
	t.Helper()
	s, err := New(r.config(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // Ended by the caller.
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		cancel()
		t.Fatalf("run: %v", err)
	}
	return s, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
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
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) //nolint:usetesting // Runs after the test's own context.
	defer cancel()
	for range 3 { // What a stop leaves is stopped by the next.
		units, err := s.Units(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		req := supervise.StopRequest{Kill: true}
		for _, u := range units {
			req.Units = append(req.Units, u.Unit)
		}
		if _, err := s.Stop(ctx, req); err != nil {
			t.Error(err)
		}
		if err := s.Forget(ctx, req.Units...); err != nil {
			t.Error(err)
		}
	}
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

func executable(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func newHarness(t *testing.T) supervisetest.Harness {
	t.Helper()
	r := newRoot(t)
	return supervisetest.Harness{
		Supervisor: r.supervisor(t),
		Exe:        executable(t),
		Recorded:   r.record.All,
		Heed:       r.heed,
		Spawn:      spawnOutside,
		Connect:    connect,
		Socket: func(_ *testing.T, name string) supervise.Socket {
			return supervise.Socket{Name: name, Network: "unix", Address: r.path(name + ".sock")}
		},
	}
}

// spawnOutside starts a program that nobody supervises, and returns when it is ready.
func spawnOutside(t *testing.T, p supervisetest.Program) tenure.Process {
	t.Helper()
	dir, err := os.MkdirTemp("", "native-") //nolint:usetesting // Sockets need a short path.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	argv := p.Command(executable(t)).Argv
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"NOTIFY_SOCKET=" + filepath.Join(dir, "n")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-reaped
	})
	if _, err := ready.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	info, err := proc.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return info.Process
}

// connect opens a connection and gives what is answered.
func connect(_ *testing.T, socket supervise.Socket) <-chan string {
	answer := make(chan string, 1)
	conn, err := net.Dial("unix", socket.Address)
	if err != nil {
		close(answer)
		return answer
	}
	go func() {
		defer close(answer)
		defer conn.Close()
		if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
			answer <- strings.TrimSpace(line)
		}
	}()
	return answer
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
