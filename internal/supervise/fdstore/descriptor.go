package fdstore

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// descriptor is an open file descriptor that this package owns. It is not an
// os.File, since that would watch it: each connection to a kept listening socket would
// then wake the holder.
type descriptor int

// none is no descriptor.
const none descriptor = -1

// close gives the descriptor back. Nothing can be done about an error.
func (d descriptor) close() {
	if d >= 0 {
		_ = unix.Close(int(d))
	}
}

// drop gives back a descriptor that a service has made. Its end may take time, which is nobody's
// here: that of a socket that lingers takes as long as the service has said.
func (d descriptor) drop() {
	_ = unix.SetsockoptLinger(int(d), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}) // It may be no socket.
	go d.close()
}

// dup is another descriptor of the same open file.
func (d descriptor) dup() (descriptor, error) {
	fd, err := unix.FcntlInt(uintptr(d), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return none, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return descriptor(fd), nil
}

// file makes an os.File that owns d.
func (d descriptor) file(name string) *os.File { return os.NewFile(uintptr(d), name) }

// same reports whether both refer to one open file. Where the kernel cannot tell,
// they do not.
func (d descriptor) same(other descriptor) bool {
	same, err := unix.FcntlInt(uintptr(d), unix.F_DUPFD_QUERY, int(other))
	if err == nil {
		return same == 1
	}
	pid := uintptr(os.Getpid())
	const kcmpFile = 0
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(d), uintptr(other), 0)
	return errno == 0 && order == 0
}

// dupOf duplicates the descriptor of f without changing its flags, which
// os.File.Fd may do.
func dupOf(f syscall.Conn) (descriptor, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return none, fmt.Errorf("duplicate descriptor: %w", err)
	}
	d := none
	var dupErr error
	err = raw.Control(func(fd uintptr) { d, dupErr = descriptor(fd).dup() })
	if err = errors.Join(err, dupErr); err != nil {
		d.close()
		return none, err
	}
	return d, nil
}
