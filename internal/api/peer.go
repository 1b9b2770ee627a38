package api

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os/user"
	"slices"
	"strconv"

	"tenure"
	"tenure/internal/proc"
)

// peer is who is at the other end, as the kernel tells.
type peer struct {
	uid    uint32
	gid    uint32
	groups []string
	// process is the one that connected.
	process tenure.Process
	// snapd is that it came in at the socket for snapd's clients.
	snapd bool
	conn  *counted
}

type peerKey struct{}

// withPeer notes the credentials of a connection. A connection without any is
// nobody's.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	socket, ok := conn.(*counted)
	if !ok {
		return ctx
	}
	kernel, err := proc.PeerOf(socket.UnixConn)
	if err != nil {
		return ctx
	}
	defer kernel.Handle.Close()
	p := peer{uid: kernel.UID, gid: kernel.GID, process: kernel.Handle.Process(), snapd: socket.door == DoorSnapd, conn: socket}
	if known, err := user.LookupId(strconv.FormatUint(uint64(p.uid), 10)); err == nil {
		p.groups, _ = known.GroupIds()
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// homeOf is the home directory of a user, empty where that is not known.
func homeOf(uid uint32) string {
	known, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return ""
	}
	return known.HomeDir
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

// userOf is the user of the peer of r; -1 where that is not known.
func userOf(r *http.Request) int {
	p, ok := r.Context().Value(peerKey{}).(peer)
	if !ok {
		return -1
	}
	return int(p.uid)
}

// cString is b up to its first NUL.
func cString(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return string(text)
}
