// Package web asks the service of the example package web who it is.
//
// Nothing is tried again: a connection that cannot be opened, or that ends before its
// answer, is an error. A Client is for one caller at a time.
package web

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"tenure/examples/clients/unixdial"
)

// Address is where the service listens on TCP, and Socket the name of its other
// socket in $SNAP_COMMON.
const (
	Address = "127.0.0.1:18480"
	Socket  = "web.sock"
)

// Answer is what the service says about itself.
type Answer struct {
	// Revision is its $SNAP_REVISION, Version what its revision's file "version" says.
	Revision, Version string
	PID               int
}

// String is the line that the service sends.
func (a Answer) String() string { return fmt.Sprintf("%s %s %d\n", a.Revision, a.Version, a.PID) }

// Client asks on one connection after another.
type Client struct {
	// Socket is the path of a socket; without one it is asked on TCP, at Address or
	// Addr.
	Socket string
	Addr   string
	// Keep is that it goes on with a connection until the service closes it.
	Keep bool
	// Opened is how many connections it has opened.
	Opened int

	conn net.Conn
	in   *bufio.Reader
}

// Ask asks for a path, such as "/", and reads the answer.
func (c *Client) Ask(ctx context.Context, path string) (Answer, error) {
	rest, err := c.Begin(ctx, path)
	if err != nil {
		return Answer{}, err
	}
	return rest()
}

// Get asks for a path, and gives whatever is answered with status 200.
func (c *Client) Get(ctx context.Context, path string) (string, error) {
	rest, err := c.begin(ctx, path)
	if err != nil {
		return "", err
	}
	return rest()
}

// Begin asks for a path, and returns when the service has begun to answer. What it
// gives reads the rest.
func (c *Client) Begin(ctx context.Context, path string) (rest func() (Answer, error), err error) {
	body, err := c.begin(ctx, path)
	if err != nil {
		return nil, err
	}
	return func() (Answer, error) {
		text, err := body()
		if err != nil {
			return Answer{}, err
		}
		var answer Answer
		if _, err := fmt.Sscanf(text, "%s %s %d\n", &answer.Revision, &answer.Version, &answer.PID); err != nil {
			return Answer{}, fmt.Errorf("ask web: %q: %w", text, err)
		}
		return answer, nil
	}, nil
}

func (c *Client) begin(ctx context.Context, path string) (rest func() (string, error), err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ask web: %w", err)
			c.Close()
		}
	}()
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.in, nil) //nolint:bodyclose // Whoever reads the rest closes it.
	if err != nil {
		return nil, err
	}
	return func() (string, error) {
		defer resp.Body.Close() //nolint:errcheck // Read to its end.
		body, err := io.ReadAll(resp.Body)
		if resp.Close || !c.Keep || err != nil {
			c.Close()
		}
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s, %q", resp.Status, body) //nolint:err113 // For people.
		}
		if err != nil {
			return "", fmt.Errorf("ask web: %w", err)
		}
		return string(body), nil
	}, nil
}

func (c *Client) open(ctx context.Context) (err error) {
	if c.conn != nil {
		return nil
	}
	if c.Socket != "" {
		c.conn, err = unixdial.Dial(ctx, c.Socket)
	} else {
		var dialer net.Dialer
		c.conn, err = dialer.DialContext(ctx, "tcp", cmp.Or(c.Addr, Address))
	}
	if err != nil {
		c.conn = nil
		return err
	}
	c.in = bufio.NewReader(c.conn)
	c.Opened++
	return nil
}

// Close closes the connection, if there is one.
func (c *Client) Close() {
	if c.conn != nil {
		_ = c.conn.Close() // What was to be read was read.
		c.conn = nil
	}
}
