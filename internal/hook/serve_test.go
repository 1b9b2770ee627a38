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
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/proc"
	"tenure/internal/relay"
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

// busy is a host on which another change has to end before anything is done to services.
type busy struct {
	asked

	awaited chan struct{}
	over    atomic.Bool
	done    atomic.Int64
}

func (b *busy) Control(context.Context, hook.Caller, hook.Control) (change.ID, error) {
	if !b.over.Load() {
		return 0, &hook.BusyError{Change: 7}
	}
	return change.ID(b.done.Add(1)), nil
}

func (b *busy) AwaitEnd(ctx context.Context, _ change.ID) error {
	b.awaited <- struct{}{}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (*busy) Await(context.Context, change.ID) error { return nil }

// A call that waits for another change, and has begun nothing, does not keep the program waiting that another one takes the place of:
// that one is called in its place.
func TestACallThatHasToWaitIsPassedOn(t *testing.T) {
	t.Parallel()
	host := &busy{awaited: make(chan struct{})}
	socket, quiet, box := filepath.Join(t.TempDir(), "snapctl.sock"), make(chan struct{}), &relay.Box{}
	box.Open()
	ended := make(chan error, 1)
	go func() {
		ended <- hook.Serve(t.Context(), hook.ServeConfig{Socket: socket, Host: host, Quiesce: quiet, Box: box})
	}()
	conn := connect(t, socket)
	send(t, conn, "start", "virt.virtd")
	<-host.awaited
	close(quiet)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	left := box.Kept()
	if len(left) != 1 || left[0].Change != 0 {
		t.Fatalf("what is passed on is %+v", left)
	}
	host.over.Store(true)
	kept := make(chan relay.Passed, 1)
	kept <- left[0]
	close(kept)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- hook.Serve(ctx, hook.ServeConfig{Socket: filepath.Join(t.TempDir(), "snapctl.sock"), Host: host, Kept: kept})
	}()
	if reply := replyOf(t, conn); reply.Status != 0 || host.done.Load() != 1 {
		t.Errorf("it is done %d times, and the reply is %+v", host.done.Load(), reply)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
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
