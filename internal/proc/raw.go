package proc

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// The files of /proc and of control groups are read by plain system calls: they never
// make anybody wait, and an os.File would be given to the runtime's poller for each,
// which costs more than the reading where a thousand groups are listed.

// buffers are what is read into; most of what is read fits into one.
//
//nolint:gochecknoglobals // What is in it means nothing.
var buffers = sync.Pool{New: func() any { return new([4096]byte) }}

// openAt opens what is at name below an open directory, or anywhere with AT_FDCWD.
func openAt(dir int, name string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// readAt calls use with what a file has, at most limit bytes of it. It is use's only until it
// returns.
func readAt(dir int, name string, limit int, use func([]byte) error) error {
	fd, err := openAt(dir, name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // Nothing was written.
	pooled, _ := buffers.Get().(*[4096]byte)
	defer buffers.Put(pooled)
	text, filled := pooled[:], 0
	for filled < limit {
		if filled == len(text) {
			text = append(text, make([]byte, len(text))...)
		}
		n, err := unix.Read(fd, text[filled:min(len(text), limit)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		filled += n
	}
	return use(text[:filled])
}
