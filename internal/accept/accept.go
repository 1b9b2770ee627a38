// Package accept takes the connections of a socket, also on a machine that is short of something.
//
// A shortage ends nobody's serving: who calls meanwhile waits in the queue of the socket.
package accept

import (
	"errors"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// again is how long it takes until the next look for room; the kernel tells of none.
const again = 100 * time.Millisecond

// Next waits for the next connection. Where the machine has no room for one now, it calls short with the
// error once, unless that is nil, and tries again until there is. An error is the end of the listener, or its
// deadline.
func Next(listener *net.UnixListener, short func(error)) (*net.UnixConn, error) {
	for {
		conn, err := listener.AcceptUnix()
		if !isShort(err) {
			return conn, err
		}
		if short != nil {
			short(err)
			short = nil
		}
		<-time.After(again)
	}
}

// isShort reports whether an error of accept(2) is over when there is room again.
func isShort(err error) bool {
	return slices.ContainsFunc(
		[]error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED},
		func(short error) bool { return errors.Is(err, short) },
	)
}
