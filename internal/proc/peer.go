package proc

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// soPeerPIDFD is SO_PEERPIDFD (unix(7), since Linux 6.5).
const soPeerPIDFD = 77

// Peer is who has connected to a unix socket, as the kernel tells.
type Peer struct {
	UID, GID uint32
	// Handle is the process that connected, which may have given the connection to
	// others since. It is the caller's to close.
	Handle *Handle
}

// PeerOf is who is at the other end of conn. One that has ended is an error of kind
// ErrGone.
func PeerOf(conn *net.UnixConn) (Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("see the peer: %w", err)
	}
	var cred *unix.Ucred
	pidfd, failure := -1, error(nil)
	err = raw.Control(func(fd uintptr) {
		if cred, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); failure == nil {
			pidfd, failure = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, soPeerPIDFD)
		}
		if errors.Is(failure, unix.ENOPROTOOPT) {
			// The pid may be another process's only if the peer did not wait.
			pidfd, failure = unix.PidfdOpen(int(cred.Pid), 0)
		}
	})
	if err = errors.Join(err, failure); err != nil {
		return Peer{}, fmt.Errorf("see the peer: %w", goneProcess(err))
	}
	handle, err := FromPIDFD(os.NewFile(uintptr(pidfd), "peer")) //nolint:gosec // An open descriptor.
	if err != nil {
		return Peer{}, fmt.Errorf("see the peer: %w", err)
	}
	return Peer{UID: cred.Uid, GID: cred.Gid, Handle: handle}, nil
}
