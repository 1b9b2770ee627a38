package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/proc"
)

// peer is who is at the other end, as the kernel tells.
type peer struct {
	uid    uint32
	gid    uint32
	pid    int
	groups []string
}

type peerKey struct{}

// withPeer notes the credentials of a connection. A connection without any is
// nobody's.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	p, err := peerOf(conn)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, p)
}

func peerOf(conn net.Conn) (peer, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return peer{}, errors.New("not a unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *unix.Ucred
	var failure error
	if err := raw.Control(func(fd uintptr) {
		cred, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return peer{}, err
	}
	if failure != nil {
		return peer{}, fmt.Errorf("read peer credentials: %w", failure)
	}
	p := peer{uid: cred.Uid, gid: cred.Gid, pid: int(cred.Pid)}
	if known, err := user.LookupId(strconv.FormatUint(uint64(cred.Uid), 10)); err == nil {
		p.groups, _ = known.GroupIds()
	}
	return p, nil
}

func groupID(name string) int {
	group, err := user.LookupGroup(name)
	if err != nil {
		return -1
	}
	id, err := strconv.Atoi(group.Gid)
	if err != nil {
		return -1
	}
	return id
}

// admin reports whether the peer of r may change things.
func (s *server) admin(r *http.Request) bool {
	p, ok := r.Context().Value(peerKey{}).(peer)
	if !ok {
		return false
	}
	return p.uid == 0 || s.admins >= 0 && (int(p.gid) == s.admins || slices.Contains(p.groups, strconv.Itoa(s.admins)))
}

// process is the process at the other end.
func process(r *http.Request) (tenure.Process, error) {
	p, ok := r.Context().Value(peerKey{}).(peer)
	if !ok || p.pid <= 0 {
		return tenure.Process{}, errors.New("the calling process is not known")
	}
	info, err := proc.Read(p.pid)
	if err != nil {
		return tenure.Process{}, fmt.Errorf("see the calling process: %w", err)
	}
	return info.Process, nil
}

// cString is b up to its first NUL.
func cString(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return string(text)
}
