package fdstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
)

const (
	replyTimeout = 45 * time.Second // Longer than a hand-over.
	attempts     = 5
)

// received is a frame and the descriptor that came with it.
type received struct {
	frame
	fd descriptor
}

func (r received) item() Item {
	if r.Op == opStream {
		return Item{Unit: r.Meta.Unit, Kind: Log, Name: r.Meta.Stream}
	}
	return Item{Unit: r.Meta.Unit, Kind: r.Meta.Kind, Name: r.Meta.Name}
}

// keptStream is the duplicate of the reading end of a log.
type keptStream struct {
	unit tenure.UnitID
	fd   descriptor
}

// book is a connection to a holder and a duplicate of all that it holds. One goroutine owns it.
type book struct {
	cfg     Config
	link    *link
	name    string // Of the store that the duplicates are of.
	store   store
	streams map[string]keptStream
}

// link is a connection whose frames arrive on a channel, which is closed at the end.
type link struct {
	*packetConn
	frames chan received
	stop   chan struct{}
}

func newLink(c *packetConn) *link {
	l := &link{packetConn: c, frames: make(chan received), stop: make(chan struct{})}
	go l.read()
	return l
}

func (l *link) read() {
	defer close(l.frames)
	defer l.discard()
	for {
		f, fd, err := l.receive()
		if err != nil {
			return
		}
		select {
		case l.frames <- received{frame: f, fd: fd}:
		case <-l.stop:
			fd.close()
			return
		}
	}
}

// close ends the connection and waits for its reader.
func (l *link) close() {
	close(l.stop)
	_ = l.conn.Close()
	for r := range l.frames {
		r.fd.close()
	}
}

// incoming are the frames of the connection; nil when there is none.
func (b *book) incoming() <-chan received {
	if b.link == nil {
		return nil
	}
	return b.link.frames
}

// note takes a frame that is no answer; without one the connection is lost.
func (b *book) note(r received, ok bool) {
	if !ok {
		b.hangUp()
		return
	}
	r.fd.close()
	if r.Op == opEnded {
		b.streams[r.Meta.Stream].close()
		delete(b.streams, r.Meta.Stream)
	}
}

func (s keptStream) close() {
	if !s.unit.IsZero() {
		s.fd.close()
	}
}

func (b *book) hangUp() {
	if b.link != nil {
		b.link.close()
		b.link = nil
	}
}

// close gives up the connection and the duplicates.
func (b *book) close() {
	b.hangUp()
	b.clear()
}

func (b *book) clear() {
	b.store.close()
	for _, s := range b.streams {
		s.close()
	}
	b.streams = map[string]keptStream{}
}

// do carries out a request, with a new holder if need be. It takes over fd.
func (b *book) do(ctx context.Context, f frame, fd descriptor) result {
	var r result
	for range attempts {
		if b.link == nil {
			if err := b.connect(ctx); err != nil {
				fd.close()
				return result{err: err}
			}
		}
		r.frames, r.err = b.ask(ctx, f, fd)
		if !errors.Is(r.err, errLost) {
			break
		}
		b.hangUp()
	}
	if r.err != nil {
		fd.close()
		return r
	}
	return result{frames: r.frames, err: b.record(f, fd)}
}

// known are duplicates of the duplicates that wanted selects.
func (b *book) known(wanted func(Item) bool) result {
	var r result
	for _, k := range b.store.items {
		if !wanted(k.Item) {
			continue
		}
		fd, err := k.fd.dup()
		if err != nil {
			for _, r := range r.frames {
				r.fd.close()
			}
			return result{err: err}
		}
		r.frames = append(r.frames, received{frame: frame{Op: opItem, Meta: meta{Unit: k.Unit, Kind: k.Kind, Name: k.Name}}, fd: fd})
	}
	return r
}

// record repeats on the duplicates what the holder did. It takes over fd.
func (b *book) record(f frame, fd descriptor) error {
	switch f.Op { //nolint:exhaustive // The others change nothing.
	case opPut:
		return b.store.put(Item{Unit: f.Meta.Unit, Kind: f.Meta.Kind, Name: f.Meta.Name}, fd)
	case opLog:
		b.streams[f.Meta.Stream].close()
		b.streams[f.Meta.Stream] = keptStream{unit: f.Meta.Unit, fd: fd}
	case opRemove:
		b.store.remove(f.Meta.Unit, f.Meta.Kind, f.Meta.Names)
	}
	return nil
}

// ask sends one request and collects the frames of its answer. Its error is of kind errLost when
// the connection is of no more use.
func (b *book) ask(ctx context.Context, f frame, fd descriptor) ([]received, error) {
	if err := b.link.send(f, fd); err != nil {
		if errors.Is(err, errFrame) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	timeout := time.NewTimer(replyTimeout)
	defer timeout.Stop()
	var frames []received
	for {
		var err error
		select {
		case r, ok := <-b.link.frames:
			switch {
			case !ok:
				err = errLost
			case r.Op == opOK, r.Op == opEnd:
				return append(frames, r), nil
			case r.Op == opError:
				err = errors.New(r.Meta.Error)
			case r.Op == opItem, r.Op == opStream:
				frames = append(frames, r)
			default:
				b.note(r, true)
			}
		case <-timeout.C:
			err = fmt.Errorf("%w: no answer to %s", errLost, f.Op)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			for _, r := range frames {
				r.fd.close()
			}
			return nil, err
		}
	}
}

// connect finds a holder or starts one, fills it if it does not know what this client knows, and
// then learns what it holds.
func (b *book) connect(ctx context.Context) error {
	var err error
	for range attempts {
		if err = b.reach(ctx); err == nil {
			if err = b.agree(ctx); err == nil {
				return nil
			}
			b.hangUp()
		}
		if !errors.Is(err, errLost) {
			break
		}
	}
	return fmt.Errorf("reach holder: %w", err)
}

// reach connects, to a holder that is started where there is none.
func (b *book) reach(ctx context.Context) error {
	c, err := dial(b.cfg.Socket)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		if err := b.cfg.Spawn(ctx); err != nil {
			return fmt.Errorf("start holder: %w", err)
		}
		c, err = dial(b.cfg.Socket)
	}
	if err != nil {
		return err
	}
	b.link = newLink(c)
	return nil
}

// agree makes the holder and the duplicates equal.
func (b *book) agree(ctx context.Context) error {
	hello, err := b.ask(ctx, frame{Op: opHello}, none)
	if err != nil {
		return err
	}
	name := hello[len(hello)-1].Meta.Store
	if b.name != "" && b.name != name {
		b.cfg.Log.Warn("holder died; filling the next", slog.Int("descriptors", len(b.store.items)), slog.Int("logs", len(b.streams)))
		if err := b.fill(ctx); err != nil {
			return err
		}
	}
	b.name = name
	frames, err := b.ask(ctx, frame{Op: opSync, Meta: meta{Bundles: true}}, none)
	if err != nil {
		return err
	}
	b.clear()
	for _, r := range frames {
		switch {
		case r.fd == none:
		case r.Op == opItem:
			b.store.items = append(b.store.items, keptItem{r.item(), r.fd})
		case r.Op == opStream:
			b.streams[r.Meta.Stream] = keptStream{unit: r.Meta.Unit, fd: r.fd}
		default:
			r.fd.close()
		}
	}
	return nil
}

// fill puts all duplicates into a fresh holder.
func (b *book) fill(ctx context.Context) error {
	for _, k := range b.store.items {
		if _, err := b.ask(ctx, frame{Op: opPut, Meta: meta{Unit: k.Unit, Kind: k.Kind, Name: k.Name}}, k.fd); err != nil {
			return err
		}
	}
	for id, s := range maps.Clone(b.streams) {
		if _, err := b.ask(ctx, frame{Op: opLog, Meta: meta{Unit: s.unit, Stream: id}}, s.fd); err != nil {
			return err
		}
	}
	return nil
}
