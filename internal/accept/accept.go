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
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return fail(err)
	}
	defer dir.Close() //nolint:errcheck // Only looked at.
	name, begun := filepath.Base(path), "."+filepath.Base(path)+".new"
	if err := dir.Remove(begun); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	way, err := dir.Open(".")
	if err != nil {
		return fail(err)
	}
	defer way.Close() //nolint:errcheck // Only looked at.
	// The path may be longer than a socket address has room for.
	short := fmt.Sprintf("/proc/self/fd/%d/%s", way.Fd(), begun)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return fail(err)
	}
	listener.SetUnlinkOnClose(false)
	err = dir.Chmod(begun, 0o666)
	if err == nil {
		err = dir.Rename(begun, name)
	}
	if err != nil {
		return fail(errors.Join(err, dir.Remove(begun), listener.Close()))
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
