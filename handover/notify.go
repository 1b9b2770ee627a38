package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Notify tells the supervisor of this process a state, such as "READY=1" or
// "EXTEND_TIMEOUT_USEC=60000000", by the protocol of sd_notify(3). Where nobody wants
// to know it does nothing.
func Notify(ctx context.Context, state string) error { return send(ctx, supervisor(), state, nil) }

// Keep gives the supervisor a copy of a descriptor, which it passes to every later
// generation by this name (Inheritance.Files), until it is told "FDSTOREREMOVE=1"
// with the name. Descriptors of one file are kept once.
func Keep(ctx context.Context, name string, file *os.File) error {
	return send(ctx, supervisor(), "FDSTORE=1\nFDNAME="+name, file)
}

// Barrier returns when the supervisor has read all that it was told before, or ctx ends (sd_notify_barrier(3)): whoever
// ends at once may not be known to it any more when it reads.
func Barrier(ctx context.Context) error { return pass(ctx, supervisor()) }

// supervisor is the address of who wants to know, or empty.
func supervisor() string { return os.Getenv("NOTIFY_SOCKET") } //nolint:forbidigo // The environment is the protocol.

// pass sends a descriptor behind all that was sent to an address, and waits until it is closed there.
func pass(ctx context.Context, address string) error {
	read, sent, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("notify the supervisor: %w", err)
	}
	defer read.Close() //nolint:errcheck // Nothing is written to it.
	defer context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Unix(1, 0)) })()
	if err := errors.Join(send(ctx, address, "BARRIER=1", sent), sent.Close()); err != nil {
		return err
	}
	if _, err := read.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for the supervisor: %w", errors.Join(err, context.Cause(ctx)))
	}
	return nil
}

// send sends one datagram to an address, unless that is empty, with a descriptor if there is one.
func send(ctx context.Context, address, state string, file *os.File) error {
	if address == "" {
		return nil
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixgram", address)
	if err != nil {
		return fmt.Errorf("notify the supervisor: %w", err)
	}
	defer conn.Close() //nolint:errcheck // A datagram is sent or not.
	if file == nil {
		_, err = conn.Write([]byte(state))
	} else {
		err = sendFile(conn, state, file)
	}
	if err != nil {
		return fmt.Errorf("notify the supervisor: %w", err)
	}
	return nil
}

// sendFile sends a datagram with a descriptor. [net.UnixConn.WriteMsgUnix] sends none where the socket is connected,
// and a socket that is not cannot wait for room.
func sendFile(conn net.Conn, state string, file *os.File) error {
	from, err := file.SyscallConn()
	if err != nil {
		return err
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return net.UnknownNetworkError(conn.LocalAddr().Network())
	}
	to, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent, waited error
	held := from.Control(func(fd uintptr) {
		waited = to.Write(func(to uintptr) bool {
			sent = syscall.Sendmsg(int(to), []byte(state), syscall.UnixRights(int(fd)), nil, syscall.MSG_NOSIGNAL)
			return !errors.Is(sent, syscall.EAGAIN) && !errors.Is(sent, syscall.EINTR)
		})
	})
	return errors.Join(held, waited, sent)
}
