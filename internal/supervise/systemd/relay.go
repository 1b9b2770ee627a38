package systemd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// notifySocket is where systemd is spoken to by sd_notify(3).
const notifySocket = "/run/systemd/notify"

// relay says words to systemd as a process of a service, as root may.
func relay(pid int, words string) error {
	if pid <= 0 {
		return nil
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	sender := unix.UnixCredentials(&unix.Ucred{Pid: int32(pid), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}) //nolint:gosec // Numbers of the kernel's.
	err = unix.Sendmsg(socket, []byte(words), sender, &unix.SockaddrUnix{Name: notifySocket}, unix.MSG_NOSIGNAL)
	if err = errors.Join(err, unix.Close(socket)); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	return nil
}
