package native

import (
	"context"

	"golang.org/x/sys/unix"
)

// hearOne carries out what was said, and takes it out of the socket then: a supervisor that
// dies in between leaves it to the next one, to which it says the same.
func (u *unit) hearOne(ctx context.Context, socket *notifySocket, heard datagram) {
	u.notified(ctx, heard)
	if !heard.taken {
		socket.take()
	}
}

// take drops the datagram that was looked at.
func (n *notifySocket) take() {
	_ = n.raw.Control(func(fd uintptr) {
		_, _, _, _, _ = unix.Recvmsg(int(fd), nil, nil, unix.MSG_DONTWAIT) // It has been read.
	})
}

// senderOf is the pid of who has sent a datagram, as the kernel tells; 0 if it does not.
func senderOf(control []byte) int {
	messages, _ := unix.ParseSocketControlMessage(control)
	for i := range messages {
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			return int(cred.Pid)
		}
	}
	return 0
}
