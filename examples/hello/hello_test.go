// Package hello_test holds the example package hello to what the bench needs:
// a service that is there at once and gone at once.
package hello_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure/examples/clients/hello"
	"tenure/examples/clients/snaps"
	"tenure/examples/internal/ready"
)

const patience = 30 * time.Second

// scene is a revision of hello, outside of any namespace: it has no base.
type scene struct {
	snap, common string
	notify       *ready.Socket
}

func newScene(ctx context.Context, tb testing.TB) scene {
	tb.Helper()
	tree, err := snaps.Tree(ctx, "hello")
	if err != nil {
		tb.Fatal(err)
	}
	snap := tb.TempDir()
	if err := os.Symlink(filepath.Join(tree, "bin"), filepath.Join(snap, "bin")); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(snap, "version"), []byte("7\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	notify, err := ready.Listen(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := notify.Close(); err != nil {
			tb.Error(err)
		}
	})
	return scene{snap: snap, common: tb.TempDir(), notify: notify}
}

func (s scene) socket() string { return filepath.Join(s.common, hello.Socket) }

func (s scene) start(ctx context.Context, tb testing.TB) *exec.Cmd {
	tb.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(s.snap, "bin/hellod"))
	cmd.Stderr = os.Stderr
	cmd.Env = []string{"SNAP=" + s.snap, "SNAP_REVISION=x3", "SNAP_COMMON=" + s.common, "NOTIFY_SOCKET=" + s.notify.Path}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	return cmd
}

func stop(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		tb.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		tb.Errorf("hellod after SIGTERM: %v", err)
	}
}

func TestHellodAnswersWhenItIsReady(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	s := newScene(ctx, t)
	// Each but the first finds the socket of the one before it, and an open
	// connection that says nothing must not keep it from ending.
	for range 3 {
		cmd := s.start(ctx, t)
		if err := s.notify.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		answer, err := hello.Ask(ctx, s.socket())
		if err != nil {
			t.Fatal(err)
		}
		want := hello.Answer{Revision: "x3", Version: "7", PID: cmd.Process.Pid}
		if diff := cmp.Diff(want, answer); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		var dialer net.Dialer
		idle, err := dialer.DialContext(ctx, "unix", s.socket())
		if err != nil {
			t.Fatal(err)
		}
		stop(t, cmd)
		if err := idle.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := hello.Ask(ctx, s.socket()); err == nil {
		t.Error("hellod answers after its end")
	}
}

func TestHelloGreets(t *testing.T) {
	t.Parallel()
	s := newScene(t.Context(), t)
	cmd := exec.CommandContext(t.Context(), filepath.Join(s.snap, "bin/hello"), "again")
	cmd.Env = []string{"SNAP=/snap/hello/x3", "SNAP_REVISION=x3"}
	out, err := cmd.Output()
	if want := "Hello from revision x3 in /snap/hello/x3\nagain\n"; err != nil || string(out) != want {
		t.Errorf("hello: %v, %q, want %q", err, out, want)
	}
}

func TestAskTakesLongPaths(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // Only read.
	var listening net.ListenConfig
	listener, err := listening.Listen(t.Context(), "unix", fmt.Sprintf("/proc/self/fd/%d/%s", file.Fd(), hello.Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // The test ends with it.
	served := make(chan error, 1)
	want := hello.Answer{Revision: "x1", Version: "1", PID: 1}
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = conn.Write([]byte(want.String()))
			conn.Close() //nolint:errcheck // The client has read its answer.
		}
		served <- err
	}()
	got, err := hello.Ask(t.Context(), filepath.Join(dir, hello.Socket))
	if err != nil || got != want {
		t.Errorf("answer %+v, %v, want %+v", got, err, want)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// BenchmarkStartAndStop is one life of hellod: exec, ready, SIGTERM, gone.
func BenchmarkStartAndStop(b *testing.B) {
	ctx := context.WithoutCancel(b.Context())
	s := newScene(ctx, b)
	for b.Loop() {
		cmd := s.start(ctx, b)
		if err := s.notify.Wait(ctx); err != nil {
			b.Fatal(err)
		}
		stop(b, cmd)
	}
}
