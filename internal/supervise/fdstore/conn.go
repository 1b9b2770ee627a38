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
	network      = "unixpacket"
	sendTimeout  = 10 * time.Second
	listenQueue  = 64
	socketMode   = 0o600
	maxPassedFDs = 4 // More than the one that is allowed, so that excess is seen and closed.
)

// packetConn carries frames. Reading and writing may be done concurrently, each by one
// goroutine.
type packetConn struct {
	conn   *net.UnixConn
	packet []byte
	oob    []byte
}

func newPacketConn(c *net.UnixConn) *packetConn {
	return &packetConn{conn: c, packet: make([]byte, maxFrame+1), oob: make([]byte, unix.CmsgSpace(4*maxPassedFDs))}
}

// send writes one frame, with fd when it is not none. The descriptor stays the caller's.
func (c *packetConn) send(f frame, fd descriptor) error {
	packet, err := f.encode()
	if err != nil {
		return err
	}
	var oob []byte
	if fd != none {
		oob = unix.UnixRights(int(fd))
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
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(c.packet, c.oob)
	if err != nil {
		return frame{}, none, fmt.Errorf("receive: %w", err)
	}
	fd, err := passed(c.oob[:oobn], flags)
	if err != nil {
		return frame{}, none, err
	}
	f, err := decode(c.packet[:n])
	if err != nil {
		fd.close()
		return frame{}, none, err
	}
	return f, fd, nil
}

// passed takes the one descriptor out of control messages. It closes all when there
// are more.
func passed(oob []byte, flags int) (descriptor, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return none, fmt.Errorf("%w: control message: %w", errFrame, err)
	}
	var fds []int
	for i := range messages {
		if rights, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, rights...)
		}
	}
	if len(fds) > 1 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		for _, fd := range fds {
			descriptor(fd).close()
		}
		return none, fmt.Errorf("%w: truncated, or %d descriptors (want at most 1)", errFrame, len(fds))
	}
	if len(fds) == 1 {
		return descriptor(fds[0]), nil
	}
	return none, nil
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
	return newPacketConn(conn), nil
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
