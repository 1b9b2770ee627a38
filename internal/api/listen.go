package api

import (
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// maxConnections is how many connections a user other than root has at a time, and
// maxAllConnections how many all of them have: what is left is root's.
const maxConnections, maxAllConnections = 64, 512

// fair is a listener at which no user takes the room of others.
type fair struct {
	*net.UnixListener

	mu  sync.Mutex
	all int
	of  map[uint32]int
}

// Accept waits for a connection of one who has not too many of them.
func (f *fair) Accept() (net.Conn, error) {
	for {
		conn, err := f.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := uidOf(conn)
		if err == nil && f.take(uid) {
			return &counted{UnixConn: conn, end: sync.OnceFunc(func() { f.give(uid) })}, nil
		}
		_ = conn.Close()
	}
}

func (f *fair) take(uid uint32) bool {
	if uid == 0 {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of[uid] == maxConnections || f.all == maxAllConnections {
		return false
	}
	f.all++
	f.of[uid]++
	return true
}

func (f *fair) give(uid uint32) {
	if uid == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all--
	if f.of[uid]--; f.of[uid] == 0 {
		delete(f.of, uid)
	}
}

// counted is a connection that counts until it is closed.
type counted struct {
	*net.UnixConn

	end func()
}

func (c *counted) Close() error {
	defer c.end()
	return c.UnixConn.Close()
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
