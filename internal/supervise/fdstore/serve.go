package fdstore

import (
	"errors"
	"log/slog"
	"net"
	"slices"

	"tenure/internal/supervise/fdstore/logfile"
)

// request is a frame of a client, with its descriptor, which the receiver takes over.
type request struct {
	from  *serverConn
	frame frame
	fd    descriptor
}

// outgoing is a frame to a client. The descriptor is closed when it has been sent.
type outgoing struct {
	frame frame
	fd    descriptor
}

// answer is what goes to a client together; in bundles if it understands them.
type answer struct {
	frames  []outgoing
	bundles bool
}

// queueLength is how many answers may wait for a client that does not read before it
// is disconnected. Each of its requests gets one.
const queueLength = 256

// serverConn is the holder's side of a connection. One goroutine reads from it and another
// writes, so that a slow client never makes the holder wait.
type serverConn struct {
	*packetConn
	queue chan answer
}

// welcome starts to serve a new connection.
func (h *holder) welcome(nc *net.UnixConn) {
	if err := checkPeer(nc); err != nil {
		h.cfg.Log.Warn("refuse client", slog.Any("error", err))
		_ = nc.Close()
		return
	}
	c := &serverConn{packetConn: newPacketConn(nc, 1), queue: make(chan answer, queueLength)}
	h.clients[c] = struct{}{}
	h.running.Go(func() { h.read(c) })
	h.running.Go(c.write)
}

// forget closes a connection.
func (h *holder) forget(c *serverConn) {
	if _, ok := h.clients[c]; ok {
		delete(h.clients, c)
		close(c.queue)
		_ = c.conn.Close()
	}
}

// read passes on requests until the client is gone or talks nonsense.
func (h *holder) read(c *serverConn) {
	for {
		f, fd, err := c.receive()
		if err != nil {
			if errors.Is(err, errFrame) {
				h.cfg.Log.Warn("disconnect client", slog.Any("error", err))
			}
			select {
			case h.gone <- c:
			case <-h.quit:
			}
			return
		}
		select {
		case h.requests <- request{from: c, frame: f, fd: fd}:
		case <-h.quit:
			fd.close()
			return
		}
	}
}

// write sends what is queued. When that fails the rest is dropped, and the reading side
// sees the end.
func (c *serverConn) write() {
	var failed error
	for a := range c.queue {
		for frames := a.frames; len(frames) > 0; {
			packet := frames[:1]
			if a.bundles {
				packet = frames[:bundle(frames)]
			}
			if failed == nil {
				failed = c.sendAll(packet)
			}
			closeAll(packet)
			frames = frames[len(packet):]
		}
		if failed != nil {
			_ = c.conn.Close()
		}
	}
}

// bundle is how many of the first frames go into one packet.
func bundle(frames []outgoing) int {
	n := slices.IndexFunc(frames, func(o outgoing) bool { return o.fd == none || len(o.frame.Data) > 0 })
	if n < 0 {
		n = len(frames)
	}
	return max(1, min(n, maxBundle))
}

// sendAll sends one frame as it is, and several as a bundle.
func (c *serverConn) sendAll(frames []outgoing) error {
	if len(frames) == 1 {
		return c.send(frames[0].frame, frames[0].fd)
	}
	return c.sendBundle(frames)
}

// send queues frames for a client, or disconnects one that does not read.
func (h *holder) send(c *serverConn, frames ...outgoing) { h.sendAnswer(c, answer{frames: frames}) }

// sendAnswer is send.
func (h *holder) sendAnswer(c *serverConn, a answer) {
	if _, ok := h.clients[c]; ok {
		select {
		case c.queue <- a:
			return
		default:
			h.cfg.Log.Warn("disconnect client that does not read")
			h.forget(c)
		}
	}
	closeAll(a.frames)
}

// answer carries out a request. It reports whether a successor has taken over.
func (h *holder) answer(r request) (handedOver bool) {
	fd := r.fd
	var frames []outgoing
	var err error
	switch r.frame.Op {
	case opHello:
		frames = []outgoing{{frame: frame{Op: opOK, Meta: meta{Store: h.name}}, fd: none}}
	case opPut:
		err, fd = h.put(r.frame.Meta, fd), none
	case opLog:
		err, fd = h.log(r.frame.Meta, fd), none
	case opRemove:
		h.store.remove(r.frame.Meta.Unit, r.frame.Meta.Kind, r.frame.Meta.Names)
	case opDropLogs:
		err = h.dropLogs(r.frame.Meta)
	case opGet:
		frames, err = h.items(func(k keptItem) bool { return k.Unit == r.frame.Meta.Unit }, true)
	case opList:
		frames, err = h.everything(false)
	case opSync:
		frames, err = h.everything(true)
	case opHandover:
		fd.close()
		return h.handOver(r.from)
	case opCommit, opOK, opError, opEnd, opItem, opStream, opListener, opEnded, opBundle:
		err = errFrame
	}
	fd.close()
	switch {
	case err != nil:
		frames = []outgoing{{frame: frame{Op: opError, Meta: meta{Error: err.Error()}}, fd: none}}
	case frames == nil:
		frames = []outgoing{{frame: frame{Op: opOK}, fd: none}}
	}
	h.sendAnswer(r.from, answer{frames: frames, bundles: r.frame.Meta.Bundles})
	return false
}

// put takes over fd.
func (h *holder) put(m meta, fd descriptor) error {
	if fd == none {
		return errNoDescriptor
	}
	return h.store.put(Item{Unit: m.Unit, Kind: m.Kind, Name: m.Name}, fd)
}

// log takes over fd.
func (h *holder) log(m meta, fd descriptor) error {
	if fd == none {
		return errNoDescriptor
	}
	if _, known := h.streams[m.Stream]; known {
		fd.close()
		return nil
	}
	s, err := h.addStream(m.Stream, m.Unit, fd)
	if err != nil {
		return err
	}
	h.start(s)
	return nil
}

// dropLogs deletes the logs of a snap's units, or of one unit. What is still written to them is read
// and goes nowhere; a unit that is started again has a new log.
func (h *holder) dropLogs(m meta) error {
	for unit, log := range h.writers {
		if unit.Snap == m.Snap || unit == m.Unit {
			log.Abandon()
			delete(h.writers, unit)
		}
	}
	if m.Snap == "" {
		return logfile.Remove(h.cfg.Logs, m.Unit)
	}
	return logfile.RemoveAll(h.cfg.Logs, m.Snap)
}

var errNoDescriptor = errors.New("no descriptor was passed")

// items are the frames for the kept descriptors that want selects, and end.
func (h *holder) items(want func(keptItem) bool, withFD bool) ([]outgoing, error) {
	var frames []outgoing
	for _, k := range h.store.items {
		if !want(k) {
			continue
		}
		f := frame{Op: opItem, Meta: meta{Unit: k.Unit, Kind: k.Kind, Name: k.Name}}
		if err := add(&frames, f, k.fd, withFD); err != nil {
			return nil, err
		}
	}
	return append(frames, outgoing{frame: frame{Op: opEnd}, fd: none}), nil
}

// everything is all that is held, and end.
func (h *holder) everything(withFD bool) ([]outgoing, error) {
	frames, err := h.items(func(keptItem) bool { return true }, withFD)
	if err != nil {
		return nil, err
	}
	end := len(frames) - 1
	var streams []outgoing
	for _, s := range h.streams {
		f := frame{Op: opStream, Meta: meta{Unit: s.unit, Stream: s.id}}
		if err := add(&streams, f, s.descriptor(), withFD); err != nil {
			closeAll(frames)
			return nil, err
		}
	}
	return slices.Insert(frames, end, streams...), nil
}

// add appends a frame with a duplicate of fd. When that fails all are closed.
func add(frames *[]outgoing, f frame, fd descriptor, withFD bool) error {
	own := none
	if withFD {
		var err error
		if own, err = fd.dup(); err != nil {
			closeAll(*frames)
			return err
		}
	}
	*frames = append(*frames, outgoing{frame: f, fd: own})
	return nil
}

func closeAll(frames []outgoing) {
	for _, o := range frames {
		o.fd.close()
	}
}
