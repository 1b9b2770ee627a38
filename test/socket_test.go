package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"tenure/examples/clients/unixdial"
	"tenure/test/rig"
)

// askers connect to the declared sockets of a service, again and again.
type askers struct {
	asking sync.WaitGroup

	mu sync.Mutex
	// moved is closed, and made anew, with every answer and every failure.
	moved chan struct{}
	// answers counts them by revision.
	answers  map[string]int
	failures []error
	slowest  time.Duration
}

type dial func(context.Context) (net.Conn, error)

// startAskers starts as many clients of each socket. They end with the test, or
// when they are refused.
func startAskers(t *testing.T, each int, sockets ...dial) *askers {
	t.Helper()
	a := &askers{moved: make(chan struct{}), answers: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); a.asking.Wait() })
	for _, connect := range sockets {
		for range each {
			a.asking.Go(func() {
				at := time.NewTicker(pace)
				defer at.Stop()
				for ctx.Err() == nil {
					<-at.C
					begun := time.Now()
					revision, err := ask(ctx, connect)
					if ctx.Err() != nil {
						return
					}
					a.note(revision, err, time.Since(begun))
					if err != nil {
						return
					}
				}
			})
		}
	}
	return a
}

// ask is one connection and its answer.
func ask(ctx context.Context, connect dial) (revision string, err error) {
	conn, err := connect(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	var pid int
	if _, err := fmt.Sscanf(string(answer), "%s %d\n", &revision, &pid); err != nil {
		return "", fmt.Errorf("answer %q: %w", answer, err)
	}
	return revision, nil
}

func (a *askers) note(revision string, err error, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.failures = append(a.failures, err)
	} else {
		a.answers[revision]++
		a.slowest = max(a.slowest, took)
	}
	close(a.moved)
	a.moved = make(chan struct{})
}

// until waits until what was noted is enough.
func (a *askers) until(t *testing.T, what string, enough func() bool) {
	t.Helper()
	timeout := time.After(rig.Patience)
	for {
		a.mu.Lock()
		done, moved := enough(), a.moved
		a.mu.Unlock()
		if done {
			return
		}
		select {
		case <-moved:
		case <-timeout:
			a.report(t)
			t.Fatalf("%s: not in %s", what, rig.Patience)
		}
	}
}

// report says what was noted, and fails the test over clients that were not
// answered.
func (a *askers) report(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, err := range a.failures {
		t.Errorf("a client was not answered: %v", err)
	}
	t.Logf("answers by revision: %v; the slowest took %s", a.answers, a.slowest)
}

// TestDeclaredSocketsRefuseNobody is case 6: clients connect all the time while
// the service that declares the sockets is refreshed. They wait in the gap; each is
// answered.
func TestDeclaredSocketsRefuseNobody(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	address := freeAddress(t)
	pack := careless{
		Command: "serve",
		App: "    plugs: [network-bind]\n    sockets:\n      local:\n        listen-stream: $SNAP_COMMON/careless.sock\n" +
			"      tcp:\n        listen-stream: " + address + "\n",
	}.packer(t, i)
	i.Tenure("install", "--dangerous", pack("x1"))
	path := i.Common("careless") + "/careless.sock"
	first := inode(t, path)
	var tcp net.Dialer
	a := startAskers(t, 3,
		func(ctx context.Context) (net.Conn, error) { return unixdial.Dial(ctx, path) },
		func(ctx context.Context) (net.Conn, error) { return tcp.DialContext(ctx, "tcp", address) },
	)
	const each = 100
	for n := range 10 {
		revision := fmt.Sprintf("x%d", n+1)
		a.until(t, "answers of "+revision, func() bool { return a.answers[revision] >= each || len(a.failures) > 0 })
		i.Tenure("refresh", "--dangerous", pack(fmt.Sprintf("x%d", n+2)))
	}
	a.until(t, "answers of x11", func() bool { return a.answers["x11"] >= each || len(a.failures) > 0 })
	a.report(t)
	if now := inode(t, path); now != first {
		t.Errorf("the socket is inode %d, and was %d", now, first)
	}

	// The clients do notice: who stops the service closes its sockets.
	i.Tenure("stop", "careless")
	a.until(t, "failures of all clients", func() bool { return len(a.failures) == 6 })
	for _, err := range a.failures {
		refused := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrNotExist)
		if !refused && !errors.Is(err, io.EOF) { // systemd takes who waits while it closes, and lets go of them.
			t.Errorf("a client of a stopped service: %v", err)
		}
	}
	i.Tenure("remove", "careless")
	gone(t, i)
}

// freeAddress is an address of this machine that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}
