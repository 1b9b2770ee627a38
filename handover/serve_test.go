package handover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// socket is a listening socket of its own, and how to open a connection to it.
type socket struct {
	file *os.File
	dial func() (net.Conn, error)
}

func sockets(t *testing.T) map[string]socket {
	t.Helper()
	all := map[string]socket{}
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		listener, err := net.Listen(network, address) //nolint:noctx // Binding does not wait.
		if err != nil {
			t.Fatal(err)
		}
		filer, ok := listener.(interface{ File() (*os.File, error) })
		if !ok {
			t.Fatalf("%T has no file", listener)
		}
		file, err := filer.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = file.Close(), listener.Close() })
		to := listener.Addr()
		all[network] = socket{file, func() (net.Conn, error) { return net.Dial(to.Network(), to.String()) }} //nolint:noctx // The accept queue answers.
	}
	return all
}

// generation is a server on sockets that others have too.
type generation struct {
	end  context.CancelFunc
	done chan error
}

func start(t *testing.T, handler http.Handler, sockets map[string]socket) generation {
	t.Helper()
	var listeners []net.Listener
	for _, s := range sockets {
		listener, err := net.FileListener(s.file)
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, listener)
	}
	ctx, cancel := context.WithCancel(t.Context())
	g := generation{cancel, make(chan error, 1)}
	go func() {
		g.done <- Serve(ctx, &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}, listeners...)
	}()
	return g
}

// ended tells it to end and waits until it has.
func (g generation) ended(t *testing.T) {
	t.Helper()
	g.end()
	if err := <-g.done; err != nil {
		t.Error(err)
	}
}

// client asks without ever trying again: every connection that breaks is an error.
type client struct {
	socket socket
	keep   bool
	conn   net.Conn
	in     *bufio.Reader
}

func (c *client) ask() (string, error) {
	if c.conn == nil {
		conn, err := c.socket.dial()
		if err != nil {
			return "", err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	if _, err := io.WriteString(c.conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return "", fmt.Errorf("ask: %w", err)
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return "", fmt.Errorf("read answer: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // Read to its end.
	body, err := io.ReadAll(resp.Body)
	if resp.Close || !c.keep {
		c.close()
	}
	return string(body), err
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// TestNothingIsLost has generations follow each other as fast as they can, under
// clients that keep their connections and clients that do not.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	shared := sockets(t)
	var asked, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, s := range shared {
		for _, keep := range []bool{true, false, true, false} {
			wg.Go(func() {
				c := &client{socket: s, keep: keep}
				defer c.close()
				for {
					select {
					case <-stop:
						return
					default:
					}
					asked.Add(1)
					if _, err := c.ask(); err != nil {
						t.Error(err)
						failed.Add(1)
						c.close()
					}
				}
			})
		}
	}
	const generations = 40
	served := make([]atomic.Int64, generations)
	handler := func(n int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			served[n].Add(1)
			_, _ = io.WriteString(w, strconv.Itoa(n))
		})
	}
	current := start(t, handler(0), shared)
	for n := 1; n < generations; n++ {
		for seen := asked.Load(); asked.Load() < seen+50; {
			<-time.After(time.Millisecond)
		}
		next := start(t, handler(n), shared)
		current.ended(t)
		current = next
	}
	close(stop)
	wg.Wait()
	current.ended(t)
	idle := 0
	for n := range served {
		if served[n].Load() == 0 {
			idle++
		}
	}
	if idle > 0 {
		t.Errorf("%d of %d generations answered nothing", idle, generations)
	}
	t.Logf("%d requests over %d generations, %d failed", asked.Load(), generations, failed.Load())
}

// TestWhatIsAskedIsAnswered has a request in progress, a connection that has asked
// nothing yet and one that is kept, when the server is told to end.
func TestWhatIsAskedIsAnswered(t *testing.T) {
	t.Parallel()
	shared := sockets(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if first.CompareAndSwap(false, true) {
			close(arrived)
			<-release
		}
		_, _ = io.WriteString(w, "answer")
	})
	old := start(t, slow, shared)
	answers := make(chan error, 1)
	go func() {
		_, err := (&client{socket: shared["tcp"]}).ask()
		answers <- err
	}()
	<-arrived
	kept := &client{socket: shared["unix"], keep: true}
	if _, err := kept.ask(); err != nil {
		t.Fatal(err)
	}
	old.end()
	// What comes now stays in the queue, or is answered; the server does not end.
	last, err := kept.ask()
	for err == nil && kept.conn != nil {
		last, err = kept.ask() // Until the server has heard that it is to end.
	}
	if err != nil || last != "answer" {
		t.Errorf("the last answer on a kept connection: %q, %v", last, err)
	}
	select {
	case err := <-old.done:
		t.Fatalf("the server has ended with a request in progress: %v", err)
	default:
	}
	queued := make(chan string, 1)
	go func() {
		answer, err := (&client{socket: shared["tcp"]}).ask()
		queued <- fmt.Sprint(answer, err)
	}()
	close(release)
	if err := <-answers; err != nil {
		t.Errorf("the request in progress: %v", err)
	}
	if err := <-old.done; err != nil {
		t.Error(err)
	}
	next := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "next") }), shared)
	if answer := <-queued; answer != "next<nil>" && answer != "answer<nil>" {
		t.Errorf("who waited in the queue got %s", answer)
	}
	next.ended(t)
}

// A loop that cannot accept any more ends the server, which answers what it has.
func TestServeFails(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // Binding does not wait.
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}, listener); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v, want that the listener is closed", err)
	}
}

func TestPassed(t *testing.T) {
	t.Parallel()
	env := func(values map[string]string) func(string) string {
		return func(name string) string { return values[name] }
	}
	for name, test := range map[string]struct {
		env  map[string]string
		want []string
	}{
		"nothing":        {nil, nil},
		"another's":      {map[string]string{"LISTEN_PID": "8", "LISTEN_FDS": "1"}, nil},
		"no number":      {map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "many"}, nil},
		"without names":  {map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "2"}, []string{"unknown", "unknown"}},
		"with too few":   {map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http"}, []string{"http", "unknown"}},
		"with all names": {map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:cache"}, []string{"http", "cache"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, passed(env(test.env), 7)); diff != "" {
				t.Errorf("want - got +\n%s", diff)
			}
		})
	}
}

func TestSorted(t *testing.T) {
	t.Parallel()
	plain, err := os.Create(filepath.Join(t.TempDir(), "plain"))
	if err != nil {
		t.Fatal(err)
	}
	files := []*os.File{plain}
	for name, s := range sockets(t) {
		fd, err := syscall.Dup(int(s.file.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, os.NewFile(uintptr(fd), name)) //nolint:gosec // A descriptor.
	}
	in, err := sorted(files)
	if err != nil {
		t.Fatal(err)
	}
	if in.Listeners["tcp"] == nil || in.Listeners["unix"] == nil || len(in.All()) != 2 || len(in.Files[plain.Name()]) != 1 {
		t.Errorf("inherited %+v", in)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}
