package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"tenure/internal/relay"
)

// againError is that a request has waited, and done nothing, when nobody was to wait any more: another program answers it.
type againError struct {
	// uri is what is asked then, if it is not what was.
	uri string
}

func (*againError) Error() string { return "another tenured answers" }

// elsewhere is that ctx, by whileServing, has ended because nobody is to wait any more; nil if it has not.
func elsewhere(ctx context.Context) error {
	if again, is := errors.AsType[*againError](context.Cause(ctx)); is {
		return again
	}
	return nil
}

// again passes a request on to the program that comes next, as if it had not been read yet, and reports whether it has. Of its body
// nothing must have been read.
func (s *server) again(w http.ResponseWriter, r *http.Request, err error) bool {
	again, is := errors.AsType[*againError](err)
	p, known := r.Context().Value(peerKey{}).(peer)
	if !is || !known || !s.cfg.Box.Takes() {
		return false
	}
	head := headOf(r, again.uri)
	passed := false
	s.drain.pass(func() {
		conn, rest, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // The other program has it, or nobody.
		behind, err := rest.Peek(rest.Reader.Buffered())
		passed = err == nil && s.cfg.Box.Asked(p.conn.Conn, relay.Passed{Door: p.conn.door, Said: append(head, behind...)})
	})
	return passed
}

// headOf is what a request began with, to be read once more.
func headOf(r *http.Request, uri string) []byte {
	if uri == "" {
		uri = r.RequestURI
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s %s\r\nHost: %s\r\n", r.Method, uri, r.Proto, r.Host)
	for _, coding := range r.TransferEncoding {
		fmt.Fprintf(&head, "Transfer-Encoding: %s\r\n", coding)
	}
	_ = r.Header.Write(&head) // Memory.
	head.WriteString("\r\n")
	return head.Bytes()
}
