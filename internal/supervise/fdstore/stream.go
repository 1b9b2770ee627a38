package fdstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/supervise/fdstore/logfile"
)

const (
	// maxWorkers bounds the memory that reading and writing takes.
	maxWorkers = 8
	// maxOut is how many bytes of lines are written at once.
	maxOut = 64 << 10
)

// worker reads from streams that have something to read, and writes it to their logs. Idle streams
// need none of its memory: neither its buffers nor its stack.
type worker struct {
	in  [64 << 10]byte
	oob [32]byte // One SCM_CREDENTIALS exactly: descriptors that a service sends are dropped by the kernel.
	out []byte
}

// work gives each stream that comes in one turn, until quit is closed.
func work(streams <-chan *stream, quit <-chan struct{}) {
	w := &worker{out: make([]byte, 0, maxOut+logfile.MaxText)}
	for {
		select {
		case s := <-streams:
			s.turn <- w.serve(s)
		case <-quit:
			return
		}
	}
}

// serve reads once from s and writes the lines. It reports whether there may be more.
func (w *worker) serve(s *stream) bool {
	n, oobn, err := w.receive(s.raw)
	if errors.Is(err, unix.EAGAIN) {
		return true
	}
	if err != nil || n == 0 {
		s.finish()
		return false
	}
	w.lines(s, w.in[:n], writerPID(w.oob[:oobn], s.pid))
	return true
}

func (w *worker) receive(raw syscall.RawConn) (n, oobn int, err error) {
	controlErr := raw.Control(func(fd uintptr) {
		for {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), w.in[:], w.oob[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	return n, oobn, errors.Join(controlErr, err)
}

// stream is the reading end of a log, and what was read and is not yet a line. Its pump
// goroutine owns it until done is closed, and lends it to a worker for each turn.
type stream struct {
	id   string
	unit tenure.UnitID
	file *os.File
	raw  syscall.RawConn
	log  *unitLog

	rest []byte // The unfinished line.
	pid  int    // Who wrote it.

	turn chan bool     // The answer of the worker.
	done chan struct{} // Closed when the pump has stopped.
	eof  bool          // Why it stopped: no writer is left, or it was paused.
}

// newStream takes over d, which must be a non-blocking stream socket.
func newStream(id string, unit tenure.UnitID, d descriptor, log *unitLog) (*stream, error) {
	if err := prepareReader(d); err != nil {
		return nil, err
	}
	s := &stream{id: id, unit: unit, file: d.file("log of " + unit.String()), log: log, turn: make(chan bool, 1)}
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

// pump has what can be read written to the log until no writer is left or pause is called.
func (s *stream) pump(workers chan<- *stream, quit <-chan struct{}) {
	defer close(s.done)
	for more := true; more; {
		if err := s.raw.Read(readable); err != nil {
			return // Paused, or closed at the end of the holder.
		}
		select {
		case workers <- s:
			more = <-s.turn
		case <-quit:
			return
		}
	}
}

// readable reports whether reading would not block.
func readable(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // A descriptor is an int32.
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil
}

// finish records a last line that no newline ended.
func (s *stream) finish() {
	s.eof = true
	if len(s.rest) > 0 {
		s.log.Write(logfile.AppendLine(nil, time.Now(), s.pid, s.rest, true))
		s.rest = nil
	}
}

// lines cuts data into lines and writes them; the last, unfinished one is kept.
func (w *worker) lines(s *stream, data []byte, pid int) {
	now := time.Now()
	out := w.out[:0]
	add := func(text []byte, cut bool) {
		if len(out)+len(text) > maxOut {
			s.log.Write(out)
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
		s.log.Write(out)
	}
}

// pause makes the pump stop soon; done is closed then.
func (s *stream) pause() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }

// start runs the pump of s again, or for the first time. Afterwards the holder is told
// if no writer is left.
func (h *holder) start(s *stream) {
	s.done = make(chan struct{})
	_ = s.file.SetReadDeadline(time.Time{})
	h.running.Go(func() {
		s.pump(h.readable, h.quit)
		if !s.eof {
			return
		}
		select {
		case h.ended <- s:
		case <-h.quit:
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
