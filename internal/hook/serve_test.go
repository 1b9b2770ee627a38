package hook_test

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tenure"
	"tenure/internal/hook"
	"tenure/internal/proc"
)

// asked is a host that is asked for its version.
type asked struct {
	hook.Host

	version string
	// first is how many calls are of one unit; the others are of another.
	first atomic.Int64
}

func (a *asked) Version() string { return a.version }

func (a *asked) UnitOf(*proc.Handle) (tenure.UnitID, error) {
	if a.first.Add(-1) >= 0 {
		return tenure.ServiceUnit("virt", "first"), nil
	}
	return tenure.ServiceUnit("virt", "other"), nil
}

// served is a socket at which host is served until stop, which waits for the end.
func served(t *testing.T, host hook.Host) (socket string, stop func()) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "snapctl.sock")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- hook.Serve(ctx, hook.ServeConfig{Socket: socket, Host: host}) }()
	stop = func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(8 * time.Second):
			t.Error("it serves on")
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return socket, stop
}

func connect(t *testing.T, socket string) net.Conn {
	t.Helper()
	for { // It may not listen yet.
		conn, err := new(net.Dialer).DialContext(t.Context(), "unix", socket)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

func send(t *testing.T, conn net.Conn, args ...string) {
	t.Helper()
	if err := json.NewEncoder(conn).Encode(hook.Call{Args: args}); err != nil {
		t.Fatal(err)
	}
}

func replyOf(t *testing.T, conn net.Conn) (reply hook.Reply) {
	t.Helper()
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		t.Fatal(err)
	}
	return reply
}

func TestServeEndsWhileACallerDoesNotRead(t *testing.T) {
	t.Parallel()
	socket, stop := served(t, &asked{version: strings.Repeat("1", 8<<20)})
	silent, deaf := connect(t, socket), connect(t, socket)
	send(t, deaf, "version")
	if _, err := deaf.Read(make([]byte, 1)); err != nil { // The rest does not fit.
		t.Fatal(err)
	}
	stop()
	if n, err := silent.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes for one who has said nothing", n)
	}
}

func TestAUnitDoesNotTakeTheCallsOfOthers(t *testing.T) {
	t.Parallel()
	const enough = 32
	host := &asked{version: "1"}
	host.first.Store(enough + 1)
	socket, _ := served(t, host)
	refused := make(chan hook.Reply)
	for range enough + 1 {
		conn := connect(t, socket)
		go func() {
			var reply hook.Reply
			if json.NewDecoder(conn).Decode(&reply) == nil {
				refused <- reply
			}
		}()
	}
	if reply := <-refused; reply.Status != 1 || !strings.Contains(reply.Stderr, "too many calls") {
		t.Errorf("one call more: %+v", reply)
	}
	other := connect(t, socket)
	send(t, other, "version")
	if reply := replyOf(t, other); reply.Stdout != "tenure 1\n" {
		t.Errorf("another unit: %+v", reply)
	}
}

// waiting is a host that waits for the end of a call.
type waiting struct {
	asked

	begun, ended chan struct{}
}

func (w *waiting) Services(ctx context.Context, _ hook.Caller, _ []string) ([]hook.Service, error) {
	w.begun <- struct{}{}
	<-ctx.Done()
	w.ended <- struct{}{}
	return nil, context.Cause(ctx)
}

func TestACallEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	host := &waiting{begun: make(chan struct{}), ended: make(chan struct{})}
	socket, _ := served(t, host)
	gone, stays := connect(t, socket), connect(t, socket)
	for _, conn := range []net.Conn{gone, stays} {
		send(t, conn, "services")
		<-host.begun
	}
	select {
	case <-host.ended:
		t.Fatal("a call ends while its caller waits")
	default:
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	<-host.ended
	select {
	case <-host.ended:
		t.Error("the call of another has ended too")
	default:
	}
	if err := stays.Close(); err != nil {
		t.Fatal(err)
	}
	<-host.ended
}

func TestAComplaintDoesNotRepeatEverything(t *testing.T) {
	t.Parallel()
	socket, _ := served(t, &asked{})
	conn := connect(t, socket)
	send(t, conn, strings.Repeat("é", 200_000))
	reply := replyOf(t, conn)
	if reply.Status != 1 || len(reply.Stderr) > 5000 || !strings.HasPrefix(reply.Stderr, `error: there is no command "éé`) {
		t.Errorf("status %d, %d bytes: %.80s", reply.Status, len(reply.Stderr), reply.Stderr)
	}
}
