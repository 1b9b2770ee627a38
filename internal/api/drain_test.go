package api

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"tenure/internal/relay"
)

// A connection that the program before has left is as idle as any other, though the server has answered nothing on it yet: whoever
// ends does not wait for what nobody asks. What was begun to be asked is answered.
func TestTheEndDoesNotWaitForWhatWasPassedOn(t *testing.T) {
	t.Parallel()
	for _, said := range []string{"", "GET / HTTP/1.1\r\nHo"} {
		listener, there, accepted := connected(t)
		file, err := accepted.File()
		if err = errors.Join(err, accepted.Close()); err != nil {
			t.Fatal(err)
		}
		server := &http.Server{ReadHeaderTimeout: headPatience, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
		open, known := newDrain(server, nil), make(chan struct{})
		note := server.ConnState
		server.ConnState = func(conn net.Conn, now http.ConnState) {
			note(conn, now)
			if now == http.StateNew {
				close(known)
			}
		}
		left := newInherited([]relay.Passed{{File: file, Door: DoorAPI, Said: []byte(said)}}, []*fair{newFair(listener, DoorAPI, slog.New(slog.DiscardHandler))})
		defer left.close()
		go func() { _ = server.Serve(left) }() // It ends with the test.
		<-known
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			open.end(t.Context())
		}()
		rest := ""
		if said != "" {
			rest = "st: localhost\r\n\r\n"
		}
		if _, err := there.Write([]byte(rest)); err != nil {
			t.Fatal(err)
		}
		heard, err := io.ReadAll(there)
		if answered := strings.HasPrefix(string(heard), "HTTP/1.1 200"); err != nil || answered != (said != "") {
			t.Errorf("after %q it hears %q, %v", said, heard, err)
		}
		<-ended
		if got := open.left(); got != 0 {
			t.Errorf("after %q %d are left", said, got)
		}
	}
}
