package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tenure/internal/accept"
	"tenure/internal/quota"
	"tenure/internal/relay"
)

// ErrOccupied is that somebody listens at a socket.
var ErrOccupied = errors.New("another program listens there")

// Deserted is nil for a path where there is nothing, or a socket that nobody listens at.
func Deserted(ctx context.Context, socket string) error {
	info, err := os.Lstat(socket)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is not a socket", socket) //nolint:err113 // The sentence is the error.
	}
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // Only looked at.
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket)))
	switch {
	case err == nil:
		return errors.Join(ErrOccupied, conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return nil
	}
	return fmt.Errorf("%w (%w)", ErrOccupied, err)
}

// maxConnections is how many connections a user other than root has at a time, and
// maxAllConnections how many all of them have: what is left is root's.
const maxConnections, maxAllConnections = 64, 512

// fair is a listener at which no user takes the room of others.
type fair struct {
	*net.UnixListener

	// door is its name.
	door string
	open *quota.Quota[uint32]
	// short is told that callers have to wait because the machine has no room for one.
	short func(error)
}

func newFair(listener *net.UnixListener, door string, logger *slog.Logger) *fair {
	return &fair{
		UnixListener: listener, door: door, open: quota.New[uint32](maxConnections, maxAllConnections),
		short: func(err error) { logger.Warn("clients have to wait", slog.Any("error", err)) },
	}
}

// errQuiet ends accepting. It is no time that was over to net/http, which would try again.
var errQuiet = errors.New("accepting has ended")

// quiet ends accepting, and leaves whoever is not accepted yet in the queue of the socket.
func (f *fair) quiet() { _ = f.SetDeadline(time.Unix(1, 0)) } // One that is closed is quiet.

// Accept waits for a connection of one who has not too many of them.
func (f *fair) Accept() (net.Conn, error) {
	for {
		conn, err := accept.Next(f.UnixListener, f.short)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, errQuiet
		}
		if err != nil {
			return nil, err
		}
		if fairly := f.count(relay.New(conn, nil)); fairly != nil {
			return fairly, nil
		}
	}
}

// count takes a connection of one who has not too many of them; it ends others.
func (f *fair) count(conn *relay.Conn) *counted {
	uid, err := uidOf(conn.UnixConn)
	if err == nil && f.take(uid) {
		return &counted{Conn: conn, door: f.door, end: sync.OnceFunc(func() { f.give(uid) })}
	}
	_ = conn.Close()
	return nil
}

// inherited accepts the connections that the program before has left, as if they came in at the doors.
type inherited struct {
	*fair

	kept   []relay.Passed
	doors  map[string]*fair
	closed chan struct{}
	close  func()
}

func newInherited(kept []relay.Passed, doors []*fair) *inherited {
	i := &inherited{fair: doors[0], kept: kept, doors: map[string]*fair{}, closed: make(chan struct{})}
	i.close = sync.OnceFunc(func() { close(i.closed) })
	for _, door := range doors {
		i.doors[door.door] = door
	}
	return i
}

// Accept implements net.Listener, for one goroutine.
func (i *inherited) Accept() (net.Conn, error) {
	for len(i.kept) > 0 {
		next := i.kept[0]
		i.kept[0], i.kept = relay.Passed{}, i.kept[1:]
		conn, err := next.Conn()
		if err != nil {
			continue // There is nobody.
		}
		if door := i.doors[next.Door]; door != nil {
			if fairly := door.count(conn); fairly != nil {
				fairly.kept, fairly.grace = true, idlePatience-headPatience
				return fairly, nil
			}
			continue
		}
		_ = conn.Close() // There is no such door any more.
	}
	<-i.closed
	return nil, errQuiet
}

// Close implements net.Listener.
func (i *inherited) Close() error {
	i.close()
	return nil
}

// take counts a connection of a user. Root always has room.
func (f *fair) take(uid uint32) bool { return uid == 0 || f.open.Take(uid) }

func (f *fair) give(uid uint32) {
	if uid != 0 {
		f.open.Give(uid)
	}
}

// counted is a connection that counts until it is closed.
type counted struct {
	*relay.Conn

	// door is the name of the socket that it came in at.
	door string
	end  func()
	// kept is that the program before has left it: nothing is asked on it for as long as it is new to the server.
	kept bool
	// grace is what is added to the first time that the server waits for.
	grace time.Duration
}

// SetReadDeadline implements net.Conn, for the one goroutine of the server. A connection that was passed on is idle, and new to the server.
func (c *counted) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		t = t.Add(c.grace)
	}
	c.grace = 0
	return c.Conn.SetReadDeadline(t)
}

func (c *counted) Close() error {
	defer c.end()
	return c.Conn.Close()
}

// asks reports whether something has come that is not answered.
func (c *counted) asks() bool { return c.unread() || c.Asked() } // In this order: what is read between both was asked.

// unread reports whether something has come that was not read.
func (c *counted) unread() bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	waiting := 0
	err = raw.Control(func(fd uintptr) { waiting, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }) //nolint:gosec // A descriptor.
	return err == nil && waiting > 0
}

func uidOf(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failure error
	if err := raw.Control(func(fd uintptr) { cred, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failure != nil {
		return 0, failure
	}
	return cred.Uid, nil
}
