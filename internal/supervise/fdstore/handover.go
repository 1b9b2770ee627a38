package fdstore

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// handOverTimeout is how long a successor may take. Services that write more than their
// sockets hold wait meanwhile.
const handOverTimeout = 30 * time.Second

// handOver gives everything to a successor, and reports whether that has taken it. Nothing is
// accepted, read, or written to a log from the first frame on until the successor has
// committed or failed; in the latter case all goes on here.
func (h *holder) handOver(to *serverConn) bool {
	h.pauseAccept()
	for _, s := range h.streams {
		s.pause()
	}
	for _, s := range h.streams {
		<-s.done
	}
	frames, err := h.estate()
	if err != nil {
		frames = []outgoing{{frame: frame{Op: opError, Meta: meta{Error: err.Error()}}, fd: none}}
	}
	h.send(to, frames...)
	if err == nil && h.committed(to) {
		return true
	}
	h.forget(to)
	for _, s := range h.streams {
		if !s.eof {
			h.start(s)
		}
	}
	h.accept()
	return false
}

// committed waits for the successor's last word. When time is up, the receiving side of the
// connection is closed first: a commit that was sent before is then still read, and one
// that is sent later fails, so that both sides always agree.
func (h *holder) committed(to *serverConn) bool {
	timeout := time.NewTimer(handOverTimeout)
	defer timeout.Stop()
	for {
		select {
		case r := <-h.requests:
			r.fd.close()
			if r.from == to {
				return r.frame.Op == opCommit
			}
			h.forget(r.from) // It will connect and ask again.
		case c := <-h.gone:
			h.forget(c)
			if c == to {
				return false
			}
		case <-timeout.C:
			_ = to.conn.CloseRead()
		}
	}
}

// estate are the frames for all that is held: the socket, descriptors, and streams
// with their unfinished lines.
func (h *holder) estate() ([]outgoing, error) {
	listener, err := dupOf(h.listener)
	if err != nil {
		return nil, err
	}
	frames := []outgoing{{frame: frame{Op: opListener, Meta: meta{Store: h.name}}, fd: listener}}
	items, err := h.items(func(keptItem) bool { return true }, true)
	if err != nil {
		closeAll(frames)
		return nil, err
	}
	frames = append(frames, items[:len(items)-1]...)
	reported := map[*unitLog]bool{}
	for _, s := range h.streams {
		m := meta{Unit: s.unit, Stream: s.id, PID: s.pid}
		if !reported[s.log] {
			m.Dropped = s.log.Dropped()
			reported[s.log] = true
		}
		if err := add(&frames, frame{Op: opStream, Meta: m, Data: slices.Clone(s.rest)}, s.descriptor(), true); err != nil {
			return nil, err
		}
	}
	return append(frames, outgoing{frame: frame{Op: opEnd}, fd: none}), nil
}

// takeOver gets everything from the holder that runs. When it fails, that one goes on.
func (h *holder) takeOver(old *packetConn) error {
	defer func() { _ = old.conn.Close() }()
	if err := old.conn.SetReadDeadline(time.Now().Add(handOverTimeout)); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	if err := old.send(frame{Op: opHandover}, none); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	for {
		f, fd, err := old.receive()
		if err != nil {
			return fmt.Errorf("take over: %w", err)
		}
		if f.Op == opEnd {
			fd.close()
			break
		}
		if err := h.inherit(f, fd); err != nil {
			return fmt.Errorf("take over: %w", err)
		}
	}
	if h.listener == nil {
		return fmt.Errorf("take over: %w: no socket", errFrame)
	}
	if err := old.send(frame{Op: opCommit}, none); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	return nil
}

// inherit takes over fd.
func (h *holder) inherit(f frame, fd descriptor) (err error) {
	switch f.Op { //nolint:exhaustive // All others are errors.
	case opListener:
		defer fd.close()
		h.name = f.Meta.Store
		h.listener, err = listenerOf(fd)
		return err
	case opItem:
		return h.put(f.Meta, fd)
	case opStream:
		s, err := h.addStream(f.Meta.Stream, f.Meta.Unit, fd)
		if err != nil {
			return err
		}
		s.rest, s.pid = f.Data, f.Meta.PID
		s.log.Drop(f.Meta.Dropped)
		return nil
	case opEnded: // Told to every client, before the estate was drawn up.
		fd.close()
		return nil
	case opError:
		fd.close()
		return errors.New(f.Meta.Error)
	}
	fd.close()
	return fmt.Errorf("%w: %s", errFrame, f.Op)
}
