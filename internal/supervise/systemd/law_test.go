package systemd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tenure"
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
		if err := Main(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
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

func newRoot(t *testing.T) *root {
	t.Helper()
	dir, err := os.MkdirTemp("", "systemd-") //nolint:usetesting // Sockets need a short path.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &root{dir: dir, prefix: fmt.Sprintf("t%dx%d", os.Getpid(), roots.Add(1))}
	r.serve(t)
	return r
}

func (r *root) path(name string) string { return filepath.Join(r.dir, name) }

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

func executable(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
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
	s, err := New(Config{
		Prefix: r.prefix, UnitDir: "/run/systemd/system", SpecDir: r.path("specs"),
		StateDir: r.path("units"), RuntimeDir: r.path("u"), Program: []string{executable(t), "unit"},
		Holder: r.holder, Settle: time.Hour, Record: r.record.Add, Terms: r.terms,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	})
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
		r.sweep(t)
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
		if err := b.stop(ctx, unit.Name); err != nil {
			t.Error(err)
		}
	}
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
	dir, err := os.MkdirTemp("", "systemd-") //nolint:usetesting // Sockets need a short path.
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
