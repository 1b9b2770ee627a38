// Package relay passes connections of one program to the next one, so that whoever is at the other end does not notice.
//
// What has come on a connection is read by exactly one program: what was read, and not answered, is passed
// with it. All methods may be called concurrently.
//
// Who asks waits for the answer before it asks again: a second question that has come with the first one, as in HTTP's pipelining, which
// no client of the daemon's uses, is not seen to be one, and is lost.
package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"tenure"
)

// Conn is a connection that may be passed on.
type Conn struct {
	*net.UnixConn

	mu sync.Mutex
	// said is to be read before what comes.
	said []byte
	// asked is that something was read since something was last written: a question.
	asked  bool
	passed bool
}

// New is a connection of which said has been read already, and is to be read again.
func New(conn *net.UnixConn, said []byte) *Conn { return &Conn{UnixConn: conn, said: said} }

// Read implements net.Conn. Of a connection that was passed on nothing is read.
func (c *Conn) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failure error
	err = raw.Read(func(fd uintptr) (done bool) {
		n, failure = c.readNow(int(fd), b) //nolint:gosec // A descriptor.
		return !errors.Is(failure, syscall.EAGAIN)
	})
	switch {
	case err != nil:
		return 0, err
	case errors.Is(failure, io.EOF), failure == nil:
		return n, failure
	}
	return n, &net.OpError{Op: "read", Net: "unix", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", failure)}
}

func (c *Conn) readNow(fd int, b []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.passed:
		return 0, io.EOF
	case len(c.said) > 0:
		n = copy(b, c.said)
		if c.said = c.said[n:]; len(c.said) == 0 {
			c.said = nil
		}
	default:
		for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
			n, err = syscall.Read(fd, b)
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
	}
	c.asked = c.asked || n > 0
	return max(n, 0), err
}

// Again reports whether what is read next has been read before.
func (c *Conn) Again() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.said) > 0
}

// Asked reports whether something was read that nothing was written after, or is to be read again.
func (c *Conn) Asked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asks()
}

func (c *Conn) asks() bool { return c.asked || len(c.said) > 0 }

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (n int, err error) {
	c.mu.Lock()
	c.asked = false
	c.mu.Unlock()
	return c.UnixConn.Write(b)
}

// Passed is a connection on its way.
type Passed struct {
	File *os.File `json:"-"`
	// Door is the name of the socket that it came in at.
	Door string `json:"door"`
	// Said is what was read from it, and is to be read again.
	Said []byte `json:"said,omitempty"`
	// Change, if not 0, is what is waited for: what was asked is being done.
	Change uint64 `json:"change,omitempty"`
	// Known, if not zero, is who asks, and was found to be allowed to.
	Known tenure.Process `json:"known,omitzero"`
}

// Conn is the connection in the next program. The file goes.
func (p Passed) Conn() (*Conn, error) {
	defer p.File.Close() //nolint:errcheck // There is another one.
	conn, err := net.FileConn(p.File)
	if err != nil {
		return nil, err
	}
	socket, is := conn.(*net.UnixConn)
	if !is {
		return nil, errors.Join(net.UnknownNetworkError(conn.LocalAddr().Network()), conn.Close())
	}
	return New(socket, p.Said), nil
}

// Box collects connections for the next program. Its zero value is closed: there is none that takes any.
type Box struct {
	mu   sync.Mutex
	open bool
	kept []Passed
	// said is the sum of what was read from them.
	said int
}

// maxSaid bounds, in bytes, what is kept of all questions together: anybody may ask.
const maxSaid = 4 << 20

// Open has the box take connections.
func (b *Box) Open() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = true
}

// Takes reports whether the box takes connections. Nil takes none.
func (b *Box) Takes() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// Quiet takes a connection on which nothing is asked, and reports whether it has. It is the caller's to close all the same.
func (b *Box) Quiet(c *Conn, door string) bool {
	return b.put(c, Passed{Door: door}, func() bool { return !c.asks() })
}

// Asked takes a connection whatever is asked, with what is in p but for the file, if there is room for that. Nobody may read it any more.
func (b *Box) Asked(c *Conn, p Passed) bool { return b.put(c, p, func() bool { return true }) }

func (b *Box) put(c *Conn, p Passed, may func() bool) bool {
	if !b.Takes() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passed || !may() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	said := b.said + len(p.Said) + len(c.said)
	if said > maxSaid {
		return false
	}
	var err error
	if p.File, err = c.File(); err != nil {
		return false
	}
	c.passed = true
	p.Said = append(p.Said, c.said...)
	b.kept, b.said = append(b.kept, p), said
	return true
}

// Kept are the connections in the box.
func (b *Box) Kept() []Passed {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept
}
