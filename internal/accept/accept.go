// Package accept makes public sockets, and takes their connections, also on a machine that is short of something.
//
// A shortage ends nobody's serving: who calls meanwhile waits in the queue of the socket.
package accept

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Listen makes a socket that everybody may connect to, in place of one that nobody listens at any more. It is there from one
// instant on, with nothing left to do.
func Listen(path string) (*net.UnixListener, error) {
	fail := func(err error) (*net.UnixListener, error) { return nil, fmt.Errorf("listen at %s: %w", path, err) }
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fail(err)
	}
	defer dir.Close() //nolint:errcheck // Only looked at.
	begun := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(begun); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	// The path may be longer than a socket address has room for.
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(begun))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return fail(err)
	}
	listener.SetUnlinkOnClose(false)
	err = os.Chmod(begun, 0o666) //nolint:gosec // Everybody may connect.
	if err == nil {
		err = os.Rename(begun, path)
	}
	if err != nil {
		return fail(errors.Join(err, os.Remove(begun), listener.Close()))
	}
	return listener, nil
}

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
