package fdstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/supervise/fdstore/logfile"
)

// batch is what one readable event needs. Idle streams have none.
type batch struct {
	in  [64 << 10]byte
	oob [32]byte // One SCM_CREDENTIALS exactly: descriptors that a service sends are dropped by the kernel.
	out []byte
}

// batches lends a fixed number of batches to streams that have something to read: memory does
// not grow with what services write.
type batches chan *batch

func newBatches() batches {
	b := make(batches, maxBatches)
	for range maxBatches {
		b <- nil // Made when it is first needed.
	}
	return b
}

func (b batches) get() *batch {
	if got := <-b; got != nil {
		return got
	}
	return &batch{out: make([]byte, 0, maxOut+logfile.MaxText)}
}

func (b batches) put(got *batch) { b <- got }

const (
	maxBatches = 8
	// maxOut is how many bytes of lines are written at once.
	maxOut = 64 << 10
)

// stream is the reading end of a log, and what was read and is not yet a line. Its pump
// goroutine owns it until done is closed.
type stream struct {
	id     string
	unit   tenure.UnitID
	file   *os.File
	raw    syscall.RawConn
	writer *logfile.Writer

	rest []byte // The unfinished line.
	pid  int    // Who wrote it.

	done chan struct{} // Closed when the pump has stopped.
	eof  bool          // Why it stopped: no writer is left, or it was paused.
}

// newStream takes over d, which must be a non-blocking stream socket.
func newStream(id string, unit tenure.UnitID, d descriptor, w *logfile.Writer) (*stream, error) {
	if err := prepareReader(d); err != nil {
		return nil, err
	}
	s := &stream{id: id, unit: unit, file: d.file("log of " + unit.String()), writer: w}
	raw, err := s.file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	s.raw = raw
	return s, nil
}

// prepareReader makes d the reading end of a log, whoever made it.
func prepareReader(d descriptor) error {
	if err := unix.SetNonblock(int(d), true); err != nil {
		return os.NewSyscallError("make log non-blocking", err)
	}
	if err := unix.SetsockoptInt(int(d), unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return os.NewSyscallError("ask for credentials of log", err)
	}
	if err := unix.Shutdown(int(d), unix.SHUT_WR); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return os.NewSyscallError("shut down log", err)
	}
	return nil
}

// descriptor is the reading end, which stays the stream's.
func (s *stream) descriptor() descriptor {
	d := none
	_ = s.raw.Control(func(fd uintptr) { d = descriptor(fd) })
	return d
}

// pump writes what is read to the log until no writer is left or pause is called.
func (s *stream) pump(pool batches) {
	defer close(s.done)
	for {
		b, n, oobn, err := s.read(pool)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil || n == 0 {
			s.finish()
			if b != nil {
				pool.put(b)
			}
			return
		}
		s.lines(b, b.in[:n], writerPID(b.oob[:oobn], s.pid))
		pool.put(b)
	}
}

// finish records a last line that no newline ended.
func (s *stream) finish() {
	s.eof = true
	if len(s.rest) > 0 {
		s.writer.Write(logfile.AppendLine(nil, time.Now(), s.pid, s.rest, true))
		s.rest = nil
	}
}

// read waits until something can be read. It borrows a batch only then.
func (s *stream) read(pool batches) (b *batch, n, oobn int, err error) {
	var readErr error
	err = s.raw.Read(func(fd uintptr) bool {
		b = pool.get()
		for {
			n, oobn, _, _, readErr = unix.Recvmsg(int(fd), b.in[:], b.oob[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if !errors.Is(readErr, unix.EINTR) {
				break
			}
		}
		if errors.Is(readErr, unix.EAGAIN) {
			pool.put(b)
			b = nil
			return false
		}
		return true
	})
	return b, n, oobn, errors.Join(err, readErr)
}

// lines cuts data into lines and writes them; the last, unfinished one is kept.
func (s *stream) lines(b *batch, data []byte, pid int) {
	now := time.Now()
	out := b.out[:0]
	add := func(text []byte, cut bool) {
		if len(out)+len(text) > maxOut {
			s.writer.Write(out)
			out = out[:0]
		}
		out = logfile.AppendLine(out, now, s.pid, text, cut)
	}
	if pid != s.pid && len(s.rest) > 0 {
		add(s.rest, true)
		s.rest = nil
	}
	s.pid = pid
	for len(data) > 0 {
		text, after, ended := bytes.Cut(data, []byte{'\n'})
		if room := logfile.MaxText - len(s.rest); len(text) > room {
			text, after, ended = data[:room], data[room:], false
		} else if !ended {
			s.rest = append(s.rest, text...)
			break
		}
		if len(s.rest) > 0 {
			text = append(s.rest, text...)
			s.rest = nil
		}
		add(text, !ended)
		data = after
	}
	if len(out) > 0 {
		s.writer.Write(out)
	}
}

// pause makes the pump stop soon; done is closed then.
func (s *stream) pause() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }

// start runs the pump again, or for the first time. Afterwards it is told to ended
// if no writer is left, unless quit is closed.
func (s *stream) start(pool batches, ended chan<- *stream, quit <-chan struct{}, running *sync.WaitGroup) {
	s.done = make(chan struct{})
	_ = s.file.SetReadDeadline(time.Time{})
	running.Go(func() {
		s.pump(pool)
		if !s.eof {
			return
		}
		select {
		case ended <- s:
		case <-quit:
		}
	})
}

// writerPID is the pid in SCM_CREDENTIALS, or otherwise when there is none.
func writerPID(oob []byte, otherwise int) int {
	header, data, _, err := unix.ParseOneSocketControlMessage(oob)
	if err != nil || header.Level != unix.SOL_SOCKET || header.Type != unix.SCM_CREDENTIALS || len(data) < unix.SizeofUcred {
		return otherwise
	}
	return int(int32(binary.NativeEndian.Uint32(data))) //nolint:gosec // pid_t is an int32.
}
