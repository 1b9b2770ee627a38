package supervisetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
)

// Arbiter asks the one that it was given last. The zero value knows no other terms than
// the protocols.
type Arbiter struct {
	current atomic.Pointer[supervise.Arbiter]
}

// Heed has an arbiter asked from now on: it is for Harness.Heed.
func (a *Arbiter) Heed(arbiter supervise.Arbiter) { a.current.Store(&arbiter) }

// Terms is a supervise.Arbiter.
func (a *Arbiter) Terms(ctx context.Context, unit tenure.UnitID) (supervise.Terms, error) {
	if arbiter := a.current.Load(); arbiter != nil {
		return (*arbiter)(ctx, unit)
	}
	return supervise.Terms{}, nil
}

// Executable is the test's own program, which carries out Programs (RunProgram).
func Executable(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// ShortDir is a directory of the test's own whose path is short enough for sockets.
func ShortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "unit-") //nolint:usetesting // Sockets need a short path.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// LogWriter puts what a supervisor logs where the test's output is.
func LogWriter(t *testing.T) io.Writer {
	t.Helper()
	return logWriter{t}
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// Hold runs a holder in this process, with its socket "holder" and its "logs" in dir.
func Hold(t *testing.T, dir string) *fdstore.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // It outlives the test's own context.
	socket, done := filepath.Join(dir, "holder"), make(chan struct{})
	spawn := func(context.Context) error {
		read, write, err := os.Pipe()
		if err != nil {
			return err
		}
		go func() {
			defer close(done)
			_ = fdstore.Serve(ctx, fdstore.ServeConfig{Socket: socket, Logs: filepath.Join(dir, "logs"), Ready: write})
			_ = write.Close()
		}()
		defer read.Close() //nolint:errcheck // It has been read.
		line, err := bufio.NewReader(read).ReadString('\n')
		if line != "ready\n" {
			return errors.Join(err, errors.New(line))
		}
		return nil
	}
	client, err := fdstore.New(ctx, fdstore.Config{Socket: socket, Spawn: spawn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		cancel()
		<-done
	})
	return client
}

// Runner is what a supervisor is until it is ready.
type Runner interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{}
}

// Begin runs a supervisor, and gives what ends it and waits for it.
func Begin(t *testing.T, s Runner) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // Ended by the caller.
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		cancel()
		t.Fatalf("run: %v", err)
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

// Clear ends and forgets everything that a supervisor knows.
func Clear(ctx context.Context, t *testing.T, s supervise.Supervisor) {
	t.Helper()
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

// ClearBound is how long Clear may take.
const ClearBound = 20 * time.Second

// SpawnOutside starts a program that nobody supervises, and returns when it is ready: it
// is for Harness.Spawn.
func SpawnOutside(t *testing.T, p Program) tenure.Process {
	t.Helper()
	socket := filepath.Join(ShortDir(t), "n")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close() //nolint:errcheck // It has been read.
	argv := p.Command(Executable(t)).Argv
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:gosec,noctx // It is the test's own program, and is killed at its end.
	cmd.Env = []string{"NOTIFY_SOCKET=" + socket}
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

// Connect opens a connection and gives what is answered: it is for Harness.Connect.
func Connect(_ *testing.T, socket supervise.Socket) <-chan string {
	answer := make(chan string, 1)
	conn, err := net.Dial("unix", socket.Address) //nolint:noctx // It ends with who answers.
	if err != nil {
		close(answer)
		return answer
	}
	go func() {
		defer close(answer)
		defer conn.Close() //nolint:errcheck // It has been read.
		if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
			answer <- strings.TrimSpace(line)
		}
	}()
	return answer
}
