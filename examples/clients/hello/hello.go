// Package hello asks the service of the example package hello who it is.
//
// Every answer was given by the process it names, after the question. Calls
// are independent of each other.
package hello

import (
	"context"
	"fmt"
	"io"
	"time"

	"tenure/examples/clients/unixdial"
)

// Socket is the name of the service's socket in $SNAP_COMMON, unless
// HELLO_SOCKET in its environment is the path of another.
const Socket = "hello.sock"

// Answer is what the service says about itself.
type Answer struct {
	// Revision is its $SNAP_REVISION.
	Revision string
	// Version is what the file "version" of its revision says now.
	Version string
	PID     int
}

// String is the line that the service sends.
func (a Answer) String() string {
	return fmt.Sprintf("%s %s %d\n", a.Revision, a.Version, a.PID)
}

// Ask connects to the service's socket, wherever it is seen from here, and
// reads its answer.
func Ask(ctx context.Context, socket string) (Answer, error) {
	conn, err := unixdial.Dial(ctx, socket)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close() //nolint:errcheck // Nothing was written to it.
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return Answer{}, fmt.Errorf("ask hello: %w", err)
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // A closed connection needs no deadline.
	defer stop()
	line, err := io.ReadAll(io.LimitReader(conn, 4096))
	if err != nil {
		return Answer{}, fmt.Errorf("ask hello: %w", err)
	}
	var answer Answer
	if _, err := fmt.Sscanf(string(line), "%s %s %d\n", &answer.Revision, &answer.Version, &answer.PID); err != nil {
		return Answer{}, fmt.Errorf("ask hello: answer %q: %w", line, err)
	}
	return answer, nil
}
