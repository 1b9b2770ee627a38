// Package qmp speaks QEMU's machine protocol, as QEMU's qmp-spec.txt has it,
// with one machine over one connection.
//
// A Client is usable until Done is closed, which happens when the machine's
// process ends or the client is closed. Its methods may be called from several
// goroutines; commands run one after the other.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tenure/examples/clients/unixdial"
)

// ErrClosed is the kind of errors of a connection that has ended.
var ErrClosed = errors.New("the machine closed the connection")

// Error is a command's refusal by QEMU.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error is QEMU's own sentence.
func (e *Error) Error() string { return e.Desc }

// Client is a connection to one machine.
type Client struct {
	conn net.Conn
	// turn holds one value while no command runs.
	turn    chan struct{}
	replies chan reply
	// migration has the states of a migration that nobody has seen yet.
	migration chan string
	done      chan struct{}
	// lastID is guarded by turn.
	lastID uint64
}

type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

type reply struct {
	ID     uint64          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
	Event  string          `json:"event"`
	Data   struct {
		Status string `json:"status"`
	} `json:"data"`
}

// migrationStates is more than a migration goes through, and one it fails in.
const migrationStates = 16

// Dial connects to the QMP socket at path and negotiates. QEMU serves one
// client of a socket at a time; others wait until ctx is done.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := unixdial.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	client, err := greet(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("negotiate with %s: %w", path, errors.Join(err, conn.Close()))
	}
	return client, nil
}

func greet(ctx context.Context, conn net.Conn) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // A closed connection needs no deadline.
	defer stop()
	reader := bufio.NewReader(conn)
	var greeting struct {
		QMP *json.RawMessage `json:"QMP"`
	}
	line, err := reader.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("read the greeting: %w", errors.Join(err, context.Cause(ctx)))
	}
	if err := json.Unmarshal(line, &greeting); err != nil || greeting.QMP == nil {
		return nil, fmt.Errorf("greeting %q is not QMP's", line)
	}
	client := &Client{conn: conn, turn: make(chan struct{}, 1), replies: make(chan reply), migration: make(chan string, migrationStates), done: make(chan struct{})}
	client.turn <- struct{}{}
	go client.read(reader)
	return client, client.Execute(ctx, "qmp_capabilities", nil, nil)
}

// read hands replies to the command that waits, until the connection ends.
// Of events it keeps those of a migration.
func (c *Client) read(reader *bufio.Reader) {
	defer close(c.done)
	decoder := json.NewDecoder(reader)
	for {
		var r reply
		if err := decoder.Decode(&r); err != nil {
			c.conn.Close() //nolint:errcheck // It has ended already.
			return
		}
		if r.Event == "MIGRATION" {
			select {
			case c.migration <- r.Data.Status:
			default: // Whoever has begun it does not look.
			}
		}
		if r.Event == "" {
			select {
			case c.replies <- r:
			case <-c.turn: // Nobody waits any more.
				c.turn <- struct{}{}
			}
		}
	}
}

// Execute runs a command and decodes its result into result unless that is
// nil. A refusal by QEMU is an *Error. A command that ctx ends may still be
// carried out.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	return c.executeWith(ctx, nil, command, arguments, result)
}

// executeWith is Execute with a file that goes with the command, if there is one.
func (c *Client) executeWith(ctx context.Context, file *os.File, command string, arguments, result any) error {
	select {
	case <-c.turn:
	case <-c.done:
		return fmt.Errorf("%s: %w", command, ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", command, context.Cause(ctx))
	}
	defer func() { c.turn <- struct{}{} }()
	raw, err := c.roundTrip(ctx, file, command, arguments)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("%s: result %s: %w", command, raw, err)
	}
	return nil
}

func (c *Client) roundTrip(ctx context.Context, file *os.File, command string, arguments any) (json.RawMessage, error) {
	c.lastID++
	line, err := json.Marshal(request{Execute: command, Arguments: arguments, ID: c.lastID})
	if err != nil {
		return nil, err
	}
	if err := c.write(append(line, '\n'), file); err != nil {
		return nil, errors.Join(ErrClosed, err)
	}
	for {
		select {
		case r := <-c.replies:
			switch {
			case r.ID != c.lastID: // The answer to a command that was given up.
			case r.Error != nil:
				return nil, r.Error
			default:
				return r.Return, nil
			}
		case <-c.done:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// write sends a line, and a file with it, if there is one.
func (c *Client) write(line []byte, file *os.File) error {
	if file == nil {
		_, err := c.conn.Write(line)
		return err
	}
	conn, isUnix := c.conn.(*net.UnixConn)
	if !isUnix {
		return errors.New("only a unix socket takes a file")
	}
	_, _, err := conn.WriteMsgUnix(line, unix.UnixRights(int(file.Fd())), nil)
	return err
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection and leaves the machine alone.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close the connection: %w", err)
	}
	return nil
}
