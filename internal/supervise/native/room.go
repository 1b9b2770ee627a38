package native

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// How long a datagram with descriptors waits until there is room for one, and how often that is looked at.
const (
	roomPatience = 5 * time.Second
	roomAgain    = 100 * time.Millisecond
)

// errNoRoom is that a datagram was left in its socket, for it has descriptors.
var errNoRoom = errors.New("there is no room for a descriptor")

// room reports whether one more descriptor can be open.
func room(fd uintptr) bool {
	other, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	return unix.Close(other) == nil
}

// receive waits for one datagram, and reads it. Where there is no room for descriptors it waits for
// that too, as long as words can.
func (n *notifySocket) receive(mayBeHeard func(pid int) bool) (heard datagram, err error) {
	for patience := roomPatience; ; patience -= roomAgain {
		heard, err = n.receiveOnce(mayBeHeard, patience > 0)
		if !errors.Is(err, errNoRoom) {
			return heard, err
		}
		<-time.After(roomAgain)
	}
}
