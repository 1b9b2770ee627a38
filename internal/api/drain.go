package api

import (
	"context"
	"net"
	"net/http"
	"sync"

	"tenure/internal/relay"
)

// drain ends the connections of a server that is to answer no more, and loses no request: net/http
// leaves unanswered what it has read when it was told to shut down. Where another program goes on with them it gets those
// on which nothing is asked, and none is ended.
type drain struct {
	box *relay.Box

	mu   sync.Mutex
	open map[net.Conn]http.ConnState
	// passing is how many are being passed on that the server knows no more.
	passing int
	// closing is that every answer is the last one on its connection.
	closing bool
	// empty is closed when nothing is open any more and closing is set.
	empty chan struct{}
}

// newDrain puts itself between a server and its handler.
func newDrain(server *http.Server, box *relay.Box) *drain {
	d := &drain{box: box, open: map[net.Conn]http.ConnState{}, empty: make(chan struct{})}
	handler := server.Handler
	server.ConnState = d.note
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.isClosing() && !box.Takes() {
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
	case http.StateNew, http.StateActive, http.StateIdle:
		d.open[conn] = now
		if d.closing {
			d.leave(conn, now) // It was accepted, or answered, before closing was set.
		}
	case http.StateClosed, http.StateHijacked:
		delete(d.open, conn)
	}
	d.tell()
}

// leave gives up a connection on which nothing is asked.
func (d *drain) leave(conn net.Conn, now http.ConnState) {
	c, is := conn.(*counted)
	switch {
	case now == http.StateActive:
	case is && d.box.Takes():
		if d.box.Quiet(c.Conn, c.door) {
			_ = conn.Close() // The server sees it, and nobody else.
		}
	case is && now == http.StateIdle:
		hangUp(c, c.unread)
	case is && c.kept:
		hangUp(c, c.asks)
	case now == http.StateIdle:
		_ = conn.Close() // The server sees it.
	}
}

// pass is what is done by do with a connection that the server will know no more: it is waited for.
func (d *drain) pass(do func()) {
	d.mu.Lock()
	d.passing++
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.passing--
		d.tell()
	}()
	do()
}

// tell closes empty where there is nothing to wait for.
func (d *drain) tell() {
	if !d.closing || len(d.open) > 0 || d.passing > 0 {
		return
	}
	select {
	case <-d.empty:
	default:
		close(d.empty)
	}
}

// end gives up the connections on which nothing is asked, and waits until all others are answered, or
// ctx ends. Nobody is accepted any more.
func (d *drain) end(ctx context.Context) {
	d.mu.Lock()
	d.closing = true
	for conn, state := range d.open {
		d.leave(conn, state)
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

// hangUp ends a connection on which nothing is asked. One on which a question has come that the server does not know of yet stays, and is
// answered; who asks from now on sees that nothing is heard, and may ask again.
func hangUp(c *counted, asks func() bool) {
	if asks() {
		return
	}
	_ = c.CloseRead() // What comes now would be lost without a word.
	if asks() {
		return
	}
	_ = c.Close() // The server sees it.
}
