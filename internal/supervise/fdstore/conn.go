package fdstore

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	network     = "unixpacket"
	sendTimeout = 10 * time.Second
	listenQueue = 64
	socketMode  = 0o600
	excessFDs   = 3 // Room for more than are allowed, so that excess is seen and closed.
)

// packetConn carries frames. Reading and writing may be done concurrently, each by one
// goroutine.
type packetConn struct {
	conn   *net.UnixConn
	packet []byte
	oob    []byte
	// passes is how many descriptors one packet may have: more than one for who understands bundles.
	passes int
	// unpacked are the frames of a bundle that were not received yet.
	unpacked []received
}

func newPacketConn(c *net.UnixConn, passes int) *packetConn {
	return &packetConn{conn: c, passes: passes, packet: make([]byte, maxFrame+1), oob: make([]byte, unix.CmsgSpace(4*(passes+excessFDs)))}
}

// send writes one frame, with fd when it is not none. The descriptor stays the caller's.
func (c *packetConn) send(f frame, fd descriptor) error {
	if fd == none {
		return c.pass(f)
	}
	return c.pass(f, int(fd))
}

// sendBundle writes frames that have descriptors and no data, in one packet.
func (c *packetConn) sendBundle(frames []outgoing) error {
	f, fds := frame{Op: opBundle}, make([]int, 0, len(frames))
	for _, o := range frames {
		f.Meta.Bundle = append(f.Meta.Bundle, bundled{o.frame.Op, o.frame.Meta})
		fds = append(fds, int(o.fd))
	}
	return c.pass(f, fds...)
}

// pass writes one packet.
func (c *packetConn) pass(f frame, fds ...int) error {
	packet, err := f.encode()
	if err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return fmt.Errorf("send %s: %w", f.Op, err)
	}
	if _, _, err := c.conn.WriteMsgUnix(packet, oob, nil); err != nil {
		return fmt.Errorf("send %s: %w", f.Op, err)
	}
	return nil
}

// receive reads one frame and the descriptor that came with it, or none. The descriptor
// is the caller's.
func (c *packetConn) receive() (frame, descriptor, error) {
	if len(c.unpacked) > 0 {
		next := c.unpacked[0]
		c.unpacked = c.unpacked[1:]
		return next.frame, next.fd, nil
	}
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(c.packet, c.oob)
	if err != nil {
		return frame{}, none, fmt.Errorf("receive: %w", err)
	}
	fds, err := c.passed(c.oob[:oobn], flags)
	if err != nil {
		return frame{}, none, err
	}
	f, err := decode(c.packet[:n])
	switch {
	case err != nil:
	case f.Op == opBundle && c.passes > 1 && len(fds) > 0 && len(f.Meta.Bundle) == len(fds):
		for i, b := range f.Meta.Bundle {
			c.unpacked = append(c.unpacked, received{frame: frame{Op: b.Op, Meta: b.Meta}, fd: descriptor(fds[i])})
		}
		return c.receive()
	case f.Op == opBundle || len(fds) > 1:
		err = fmt.Errorf("%w: %s of %d frames with %d descriptors", errFrame, f.Op, len(f.Meta.Bundle), len(fds))
	case len(fds) == 1:
		return f, descriptor(fds[0]), nil
	}
	closeNumbers(fds)
	return f, none, err
}

func closeNumbers(fds []int) {
	for _, fd := range fds {
		descriptor(fd).close()
	}
}

// discard closes what was passed and nobody has received.
func (c *packetConn) discard() {
	for _, r := range c.unpacked {
		r.fd.close()
	}
	c.unpacked = nil
}

// passed takes the descriptors out of control messages. It closes all when there are more
// than are allowed.
func (c *packetConn) passed(oob []byte, flags int) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: control message: %w", errFrame, err)
	}
	var fds []int
	for i := range messages {
		if rights, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, rights...)
		}
	}
	if len(fds) > c.passes || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeNumbers(fds)
		return nil, fmt.Errorf("%w: truncated, or %d descriptors (want at most %d)", errFrame, len(fds), c.passes)
	}
	return fds, nil
}

// inDirectory calls use with a path for the file in its directory that fits into
// a socket address (108 bytes) however long path is.
func inDirectory(path string, use func(short string) error) error {
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err //nolint:wrapcheck // Names operation and path; callers add theirs.
	}
	defer func() { _ = dir.Close() }()
	return use("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path))
}

// dial connects to the holder behind path.
func dial(path string) (*packetConn, error) {
	var conn *net.UnixConn
	err := inDirectory(path, func(short string) (err error) {
		conn, err = net.DialUnix(network, nil, &net.UnixAddr{Net: network, Name: short})
		return err //nolint:wrapcheck // Wrapped below.
	})
	if err != nil {
		return nil, fmt.Errorf("connect to holder %s: %w", path, err)
	}
	if err := checkPeer(conn); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to holder %s: %w", path, err)
	}
	return newPacketConn(conn, maxBundle), nil
}

// listen makes the socket file of a holder, which must not exist.
func listen(path string) (*net.UnixListener, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make holder socket: %w", err)
	}
	defer descriptor(fd).close()
	// The mode of the socket is that of the file from the moment that it exists.
	if err := unix.Fchmod(fd, socketMode); err != nil {
		return nil, fmt.Errorf("make holder socket: %w", err)
	}
	err = inDirectory(path, func(short string) error {
		return unix.Bind(fd, &unix.SockaddrUnix{Name: short}) //nolint:wrapcheck // Wrapped below.
	})
	if err != nil {
		return nil, fmt.Errorf("bind holder socket %s: %w", path, err)
	}
	if err := unix.Listen(fd, listenQueue); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return listenerOf(descriptor(fd))
}

// listenerOf makes a listener of d, which stays the caller's.
func listenerOf(d descriptor) (*net.UnixListener, error) {
	own, err := d.dup()
	if err != nil {
		return nil, err
	}
	f := own.file("holder socket")
	defer func() { _ = f.Close() }()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%w: listener is %T", errFrame, l), l.Close())
	}
	return ul, nil
}

// checkPeer refuses processes of other users, except root's.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("read credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, credErr); err != nil {
		return fmt.Errorf("read credentials: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: pid %d of user %d", ErrRefused, cred.Pid, cred.Uid)
	}
	return nil
}
