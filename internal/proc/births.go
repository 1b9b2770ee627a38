package proc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// BirthKind tells how a process came to be what it is.
type BirthKind uint8

// The kinds.
const (
	// Forked is a new process, still with its parent's command line.
	Forked BirthKind = iota + 1
	// Executed is a process that has become another program.
	Executed
	// Missed is that some births were lost, since nobody took them in time. The
	// reader should look at what it cares about as a whole.
	Missed
)

// Birth is one process that has been forked, or has executed a program.
type Birth struct {
	Kind BirthKind
	PID  int
	// Parent is who forked it.
	Parent int
}

// The parts of the process connector's protocol that are used here, from
// linux/connector.h and linux/cn_proc.h.
const (
	cnIdxProc, cnValProc = 1, 1
	procCnMcastListen    = 1
	procCnMcastIgnore    = 2

	procEventAck  = 0
	procEventFork = 1
	procEventExec = 2

	// A message is a netlink header, a connector header, and an event: what,
	// processor, time, and what depends on the event.
	cnOffset   = unix.SizeofNlMsghdr
	whatOffset = cnOffset + 20
	dataOffset = whatOffset + 16
	birthSize  = dataOffset + 16
)

// ackPatience is how long the kernel may take to say whether it lets us listen.
// It does not answer where it never will.
const ackPatience = time.Second

// Births are the forks and execs of all processes on the machine, or in the caller's
// pid namespace, from now on: in order, within a fraction of a millisecond. They end
// with ctx. New threads are none. With kinds given the others stay in the kernel, and
// nobody is woken for them.
//
// The kernel's process connector tells them, which is for root in the first pid, user
// and network namespaces, and elsewhere its events for perf(1), which are for whoever
// has CAP_PERFMON or CAP_SYS_ADMIN. Where neither does, the error is of kind ErrNoBirths.
func Births(ctx context.Context, kinds ...BirthKind) (iter.Seq[Birth], error) {
	from, err := listenBirths(kinds)
	if err != nil {
		return nil, fmt.Errorf("listen to births of processes: %w", err)
	}
	return told(ctx, from), nil
}

// told is what from tells until ctx ends.
func told(ctx context.Context, from births) iter.Seq[Birth] {
	return func(yield func(Birth) bool) {
		defer from.silence()
		stop := context.AfterFunc(ctx, from.interrupt)
		defer stop()
		for {
			birth, known, err := from.receive()
			switch {
			case errors.Is(err, unix.ENOBUFS):
				birth, known = Birth{Kind: Missed}, true
			case err != nil:
				return
			}
			if known && !yield(birth) {
				return
			}
		}
	}
}

// births is who tells of them.
type births interface {
	// receive waits for what comes next, which need not be a birth.
	receive() (birth Birth, known bool, err error)
	// interrupt makes receive fail, also one that waits.
	interrupt()
	silence()
}

func listenBirths(kinds []BirthKind) (births, error) {
	c, err := listenConnector(kinds)
	if err == nil {
		return c, nil
	}
	p, perfErr := listenPerf(kinds)
	if perfErr == nil {
		return p, nil
	}
	return nil, errors.Join(ErrNoBirths, err, perfErr)
}

// connector hears of births from the process connector.
type connector struct{ conn *os.File }

func listenConnector(kinds []BirthKind) (connector, error) {
	conn, err := subscribe(kinds)
	if err != nil {
		return connector{}, fmt.Errorf("process connector: %w", err)
	}
	return connector{conn}, nil
}

func (c connector) receive() (Birth, bool, error) { return receiveBirth(c.conn) }

func (c connector) interrupt() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) }

// silence tells the connector that nobody listens any more, or older kernels go on
// writing events, and closes the socket.
func (c connector) silence() {
	_, _ = c.conn.Write(connectorMessage(procCnMcastIgnore))
	_ = c.conn.Close()
}

// subscribe asks the connector for its events, and waits for its word.
func subscribe(kinds []BirthKind) (conn *os.File, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, err
	}
	conn = os.NewFile(uintptr(fd), "process connector") //nolint:gosec // A descriptor is no number to overflow.
	defer func() {
		if err != nil {
			_ = conn.Close()
			conn = nil
		}
	}()
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, birthFilter(kinds)),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnIdxProc}),
		unix.Sendto(fd, connectorMessage(procCnMcastListen), 0, kernel),
	)
	if err != nil {
		return conn, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(ackPatience)); err != nil {
		return conn, err
	}
	for {
		what, message, err := receiveEvent(conn)
		if err != nil {
			return conn, err
		}
		if what != procEventAck {
			continue
		}
		if code := binary.NativeEndian.Uint32(message[dataOffset:]); code != 0 {
			return conn, unix.Errno(code)
		}
		return conn, conn.SetReadDeadline(time.Time{})
	}
}

// connectorMessage asks the connector for its events, or for no more of them.
func connectorMessage(op uint32) []byte {
	const size = cnOffset + 20 + 4
	native := binary.NativeEndian
	message := make([]byte, size)
	native.PutUint32(message[0:], size)
	native.PutUint16(message[4:], unix.NLMSG_DONE)
	native.PutUint32(message[cnOffset:], cnIdxProc)
	native.PutUint32(message[cnOffset+4:], cnValProc)
	native.PutUint16(message[cnOffset+16:], 4)
	native.PutUint32(message[cnOffset+20:], op)
	return message
}

// birthFilter keeps everything but the wanted kinds (all when there are none) and
// the acknowledgement in the kernel, so that nobody is woken for it.
func birthFilter(kinds []BirthKind) *unix.SockFprog {
	var program []unix.SockFilter
	add := func(code uint16, k uint32, yes uint8) {
		program = append(program, unix.SockFilter{Code: code, Jt: yes, K: k})
	}
	add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, whatOffset, 0)
	wanted := []uint32{procEventAck}
	if wants(kinds, Forked) {
		wanted = append(wanted, procEventFork)
	}
	if wants(kinds, Executed) {
		wanted = append(wanted, procEventExec)
	}
	for i, what := range wanted {
		var bytes [4]byte
		binary.NativeEndian.PutUint32(bytes[:], what)
		// The filter reads numbers as the network has them.
		add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, binary.BigEndian.Uint32(bytes[:]), uint8(len(wanted)-i)) //nolint:gosec // Three at the most.
	}
	add(unix.BPF_RET|unix.BPF_K, 0, 0)
	add(unix.BPF_RET|unix.BPF_K, 0xffff, 0)
	return &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]} //nolint:gosec // Six at the most.
}

func wants(kinds []BirthKind, kind BirthKind) bool {
	return len(kinds) == 0 || slices.Contains(kinds, kind)
}

// receiveBirth gives the next event if it is the birth of a process.
func receiveBirth(conn *os.File) (Birth, bool, error) {
	what, message, err := receiveEvent(conn)
	if err != nil || len(message) < birthSize {
		return Birth{}, false, err
	}
	word := func(n int) int { return int(binary.NativeEndian.Uint32(message[dataOffset+4*n:])) }
	switch what {
	case procEventFork:
		pid, group := word(2), word(3)
		return Birth{Kind: Forked, PID: group, Parent: word(1)}, pid == group, nil
	case procEventExec:
		return Birth{Kind: Executed, PID: word(1)}, true, nil
	}
	return Birth{}, false, nil
}

// receiveEvent gives the next message of the kernel's.
func receiveEvent(conn *os.File) (what uint32, message []byte, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	buf := make([]byte, 256)
	for {
		var n int
		var from unix.Sockaddr
		var failure error
		err := raw.Read(func(fd uintptr) bool {
			n, from, failure = unix.Recvfrom(int(fd), buf, 0) //nolint:gosec // A descriptor is no number to overflow.
			return failure != unix.EAGAIN && failure != unix.EINTR
		})
		if err := errors.Join(err, failure); err != nil {
			return 0, nil, err
		}
		if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid == 0 && n >= dataOffset+4 {
			return binary.NativeEndian.Uint32(buf[whatOffset:]), buf[:n], nil
		}
	}
}
