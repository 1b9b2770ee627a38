package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Serve answers HTTP on listeners until ctx ends, and then until everything that it
// has accepted is answered: see the package comment for the order. It says READY=1
// when it accepts and STOPPING=1 when it stops, and returns when no connection is
// open; nil if ctx was why.
//
// Connections on which a client waits without asking anything are open for as long
// as server.IdleTimeout lets them: choose one that is shorter than drain-timeout.
// Connections that a handler has taken over (http.Hijacker) are its own business.
// The server must be used for nothing else, before and after.
func Serve(ctx context.Context, server *http.Server, listeners ...net.Listener) error {
	if len(listeners) == 0 {
		return errors.New("serve: no listener was given")
	}
	d := newDrain(server)
	barriers := make([]*barrier, 0, len(listeners))
	for _, listener := range listeners {
		b, err := newBarrier(listener)
		if err != nil {
			return fmt.Errorf("serve: %w", err)
		}
		barriers = append(barriers, b)
	}
	loops := make(chan error, len(barriers))
	for _, b := range barriers {
		go func() { loops <- server.Serve(b) }()
	}
	running, cause := len(barriers), Notify(ctx, "READY=1")
	if cause == nil {
		select {
		case <-ctx.Done():
		case cause = <-loops:
			running--
		}
	}
	ctx = context.WithoutCancel(ctx)
	d.begin()
	// That nobody hears of it keeps nothing from being answered.
	errs := []error{cause, Notify(ctx, "STOPPING=1")}
	for _, b := range barriers {
		errs = append(errs, b.stop())
	}
	for ; running > 0; running-- {
		errs = append(errs, <-loops)
	}
	d.wait()
	errs = append(errs, server.Shutdown(ctx))
	if err := errors.Join(slices.DeleteFunc(errs, isBarrier)...); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// errBarrier ends an accept loop. It is not a time that was over to net/http, which
// would try again.
var errBarrier = errors.New("accepting has ended")

func isBarrier(err error) bool { return errors.Is(err, errBarrier) }

// barrier is a listener that can be told to accept no more without being closed: a
// connection is either accepted before, and returned, or stays in the queue.
type barrier struct {
	net.Listener

	deadline func(time.Time) error
}

func newBarrier(listener net.Listener) (*barrier, error) {
	l, ok := listener.(interface{ SetDeadline(t time.Time) error })
	if !ok {
		return nil, fmt.Errorf("a listener of type %T knows no deadline: %w", listener, errors.ErrUnsupported)
	}
	return &barrier{listener, l.SetDeadline}, nil
}

// stop makes the accept loop end. One that has ended already has closed the listener.
func (b *barrier) stop() error {
	if err := b.deadline(time.Unix(1, 0)); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Accept implements net.Listener.
func (b *barrier) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return nil, errBarrier
	}
	return conn, err
}

// drain counts the open connections of a server, and makes its answers the last ones
// on them.
type drain struct {
	mu      sync.Mutex
	open    map[net.Conn]struct{}
	closing bool
	// empty is closed when no connection is open after closing was set.
	empty chan struct{}
}

// newDrain puts itself between a server and its handler.
func newDrain(server *http.Server) *drain {
	d := &drain{open: make(map[net.Conn]struct{}), empty: make(chan struct{})}
	handler, state := server.Handler, server.ConnState
	if handler == nil {
		handler = http.DefaultServeMux //nolint:forbidigo // What net/http does without one.
	}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.isClosing() {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
	server.ConnState = func(conn net.Conn, now http.ConnState) {
		d.note(conn, now)
		if state != nil {
			state(conn, now)
		}
	}
	return d
}

func (d *drain) isClosing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closing
}

func (d *drain) note(conn net.Conn, now http.ConnState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch now {
	case http.StateNew, http.StateActive, http.StateIdle:
		d.open[conn] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(d.open, conn)
	}
	d.tell()
}

// tell closes empty where there is nothing to wait for. A connection that is accepted
// after that would be: nobody waits before the accept loops have ended.
func (d *drain) tell() {
	if !d.closing || len(d.open) > 0 {
		return
	}
	select {
	case <-d.empty:
	default:
		close(d.empty)
	}
}

// begin makes every answer from now on the last one on its connection.
func (d *drain) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closing = true
}

// wait returns when no connection is open. The accept loops have ended.
func (d *drain) wait() {
	d.mu.Lock()
	d.empty = make(chan struct{})
	d.tell()
	empty := d.empty
	d.mu.Unlock()
	<-empty
}
