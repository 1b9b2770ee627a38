package witness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tenure/examples/clients/unixdial"
)

// Question is what a served witness is asked to do.
type Question struct {
	// Do is one of the words of Answers.
	Do   string `json:"do"`
	Path string `json:"path,omitempty"`
	Text string `json:"text,omitempty"`
}

// Answer is what came of it.
type Answer struct {
	Report *Report `json:"report,omitempty"`
	// Text is what was read, or the names in a directory.
	Text string `json:"text,omitempty"`
	// Err is empty when it went well.
	Err string `json:"err,omitempty"`
}

// Ask puts a question to the witness that serves the socket.
func Ask(ctx context.Context, socket string, q Question) (Answer, error) {
	conn, err := unixdial.Dial(ctx, socket)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close() //nolint:errcheck // Everything has been read.
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return Answer{}, fmt.Errorf("ask witness: %w", err)
	}
	var a Answer
	if err := errors.Join(json.NewEncoder(conn).Encode(q), json.NewDecoder(conn).Decode(&a)); err != nil {
		return Answer{}, fmt.Errorf("ask witness to %s %s: %w", q.Do, q.Path, err)
	}
	return a, nil
}
