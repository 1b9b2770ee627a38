package api

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// drain ends the connections of a server that is to answer no more, and loses no request: net/http
// leaves unanswered what it has read when it was told to shut down.
type drain struct {
	mu   sync.Mutex
	open map[net.Conn]http.ConnState
	// closing is that every answer is the last one on its connection.
	closing bool
	// empty is closed when nothing is open any more and closing is set.
	empty chan struct{}
}

// newDrain puts itself between a server and its handler.
func newDrain(server *http.Server) *drain {
	d := &drain{open: map[net.Conn]http.ConnState{}, empty: make(chan struct{})}
	handler := server.Handler
	server.ConnState = d.note
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.isClosing() {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
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
	case http.StateNew, http.StateActive:
		d.open[conn] = now
	case http.StateIdle:
		d.open[conn] = now
		if d.closing {
			hangUp(conn) // It was answered before closing was set.
		}
	case http.StateClosed, http.StateHijacked:
		delete(d.open, conn)
	}
	d.tell()
}

// tell closes empty where there is nothing to wait for.
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

// end closes the connections on which nothing is asked, and waits until all others are answered, or
// ctx ends. Nobody is accepted any more.
func (d *drain) end(ctx context.Context) {
	d.mu.Lock()
	d.closing = true
	for conn, state := range d.open {
		if state == http.StateIdle {
			hangUp(conn)
		}
	}
	d.tell()
	d.mu.Unlock()
	select {
	case <-d.empty:
	case <-ctx.Done():
	}
}

// left is how many have not been answered.
func (d *drain) left() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.open)
}

// hangUp ends a connection on which nothing is asked. One on which a question has come that nobody has read yet stays, and is
// answered; who asks from now on sees that nothing is heard, and may ask again.
func hangUp(conn net.Conn) {
	if c, is := conn.(*counted); is {
		if c.unread() {
			return
		}
		_ = c.CloseRead() // What comes now would be lost without a word.
		if c.unread() {
			return
		}
	}
	_ = conn.Close() // The server sees it.
}
