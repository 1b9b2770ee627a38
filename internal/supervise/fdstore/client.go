package fdstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
)

// Config says which holder a client talks to.
type Config struct {
	// Socket is the path of the holder's socket.
	Socket string
	// Spawn starts a holder and returns when it listens; see Spawner. It may be called
	// when there is a holder: that is how a holder is replaced by a newer program.
	Spawn func(ctx context.Context) error
	// Log is where the client tells that it had to replace a holder; nil is nowhere.
	Log *slog.Logger
}

// Client talks to the holder, and starts one when there is none. It has duplicates of all that
// is held, and fills the next holder with them as soon as one has died.
type Client struct {
	cfg      Config
	requests chan *call
	closed   chan struct{}
	ctx      context.Context //nolint:containedctx // The life of the client: ends connecting when it is closed.
	cancel   context.CancelCauseFunc
}

// call is a request on its way to the goroutine that owns the connection.
type call struct {
	frame frame
	fd    descriptor
	// known, if set, is asked of the duplicates instead: it selects some of them.
	known func(Item) bool
	reply chan result
}

// result is what came of a call. The receiver owns the descriptors in frames.
type result struct {
	frames []received
	err    error
}

// New connects to the holder, or starts one.
func New(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	c := &Client{
		cfg: cfg, requests: make(chan *call), closed: make(chan struct{}),
		ctx: life, cancel: cancel,
	}
	b := &book{cfg: cfg}
	if err := b.connect(ctx); err != nil {
		cancel(err)
		return nil, err
	}
	go c.run(b)
	return c, nil
}

// Close disconnects. The holder keeps what it holds.
func (c *Client) Close() error {
	c.cancel(ErrClosed)
	<-c.closed
	return nil
}

// Put makes the holder keep f, which stays the caller's. Names of Stored may be
// used several times; for the other kinds a second one replaces the first.
func (c *Client) Put(ctx context.Context, unit tenure.UnitID, kind Kind, name string, f *os.File) error {
	item := Item{Unit: unit, Kind: kind, Name: name}
	if err := item.check(); err != nil {
		return err
	}
	fd, err := dupOf(f)
	if err != nil {
		return err
	}
	if _, err := c.call(ctx, frame{Op: opPut, Meta: meta{Unit: unit, Kind: kind, Name: name}}, fd); err != nil {
		return fmt.Errorf("keep %s %s of %s: %w", kind, name, unit, err)
	}
	return nil
}

// Get returns what is kept for a unit, in the order in which it was put. The files belong to
// the caller; the holder goes on keeping them.
func (c *Client) Get(ctx context.Context, unit tenure.UnitID) ([]Kept, error) {
	frames, err := c.call(ctx, frame{Op: opGet, Meta: meta{Unit: unit}}, none)
	if err != nil {
		return nil, fmt.Errorf("get kept descriptors of %s: %w", unit, err)
	}
	var kept []Kept
	for _, r := range frames {
		if r.Op == opItem && r.fd != none {
			kept = append(kept, Kept{Item: r.item(), File: r.fd.file(r.Meta.Name)})
		}
	}
	return kept, nil
}

// Known returns everything of one kind that is kept, by unit, as far as this client knows: what
// was there when it connected, and what it has done since. The files belong to the caller. It is
// for who has just connected and wants all of them, without asking for each unit.
func (c *Client) Known(ctx context.Context, kind Kind) (map[tenure.UnitID][]Kept, error) {
	frames, err := c.send(ctx, &call{known: func(i Item) bool { return i.Kind == kind }, fd: none, reply: make(chan result, 1)})
	if err != nil {
		return nil, fmt.Errorf("get kept descriptors: %w", err)
	}
	kept := make(map[tenure.UnitID][]Kept)
	for _, r := range frames {
		kept[r.Meta.Unit] = append(kept[r.Meta.Unit], Kept{Item: r.item(), File: r.fd.file(r.Meta.Name)})
	}
	return kept, nil
}

// Remove makes the holder close the descriptors of a unit that have that kind and one of the
// names; without names all of the kind. What is not there is no error.
func (c *Client) Remove(ctx context.Context, unit tenure.UnitID, kind Kind, names ...string) error {
	if _, err := c.call(ctx, frame{Op: opRemove, Meta: meta{Unit: unit, Kind: kind, Names: names}}, none); err != nil {
		return fmt.Errorf("remove kept descriptors of %s: %w", unit, err)
	}
	return nil
}

// Forget makes the holder close all kept descriptors of a unit. Its log goes on while it has
// writers.
func (c *Client) Forget(ctx context.Context, unit tenure.UnitID) error {
	return c.Remove(ctx, unit, "")
}

// DropLogs deletes the logs of all units of a snap.
func (c *Client) DropLogs(ctx context.Context, snap tenure.Instance) error {
	if _, err := c.call(ctx, frame{Op: opDropLogs, Meta: meta{Snap: snap}}, none); err != nil {
		return fmt.Errorf("drop logs of %s: %w", snap, err)
	}
	return nil
}

// DropLog deletes the log of one unit.
func (c *Client) DropLog(ctx context.Context, unit tenure.UnitID) error {
	if unit.IsZero() {
		return fmt.Errorf("drop log: %w: no unit", ErrName)
	}
	if _, err := c.call(ctx, frame{Op: opDropLogs, Meta: meta{Unit: unit}}, none); err != nil {
		return fmt.Errorf("drop log of %s: %w", unit, err)
	}
	return nil
}

// List names everything that is held, including open logs (of kind Log).
func (c *Client) List(ctx context.Context) ([]Item, error) {
	frames, err := c.call(ctx, frame{Op: opList}, none)
	if err != nil {
		return nil, fmt.Errorf("list kept descriptors: %w", err)
	}
	var items []Item
	for _, r := range frames {
		if r.Op == opItem || r.Op == opStream {
			items = append(items, r.item())
		}
	}
	return items, nil
}

// Log opens the log of a unit for one more run of it. The result is a blocking stream socket for
// the standard output and error of the processes; it is to be closed by the caller
// once they have it. The log ends when the last process has closed it.
func (c *Client) Log(ctx context.Context, unit tenure.UnitID) (*os.File, error) {
	if unit.IsZero() {
		return nil, fmt.Errorf("open log: %w: no unit", ErrName)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", unit, err)
	}
	reader, writer := descriptor(pair[0]), descriptor(pair[1])
	if err := prepareReader(reader); err != nil {
		reader.close()
		writer.close()
		return nil, fmt.Errorf("open log of %s: %w", unit, err)
	}
	if _, err := c.call(ctx, frame{Op: opLog, Meta: meta{Unit: unit, Stream: rand.Text()}}, reader); err != nil {
		writer.close()
		return nil, fmt.Errorf("open log of %s: %w", unit, err)
	}
	return writer.file("log of " + unit.String()), nil
}

// Replace starts another holder, to which the one that runs hands everything over. It is how
// the program of the holder is updated.
func (c *Client) Replace(ctx context.Context) error {
	if err := c.cfg.Spawn(ctx); err != nil {
		return fmt.Errorf("replace holder: %w", err)
	}
	_, err := c.call(ctx, frame{Op: opHello}, none)
	return err
}

// call sends a request to the owner of the connection, which takes over fd. When ctx ends first
// the request may still be carried out.
func (c *Client) call(ctx context.Context, f frame, fd descriptor) ([]received, error) {
	return c.send(ctx, &call{frame: f, fd: fd, reply: make(chan result, 1)})
}

// send is call.
func (c *Client) send(ctx context.Context, q *call) ([]received, error) {
	select {
	case c.requests <- q:
	case <-ctx.Done():
		q.fd.close()
		return nil, context.Cause(ctx)
	case <-c.ctx.Done():
		q.fd.close()
		return nil, ErrClosed
	}
	select {
	case r := <-q.reply:
		return r.frames, r.err
	case <-ctx.Done():
		go discard(q.reply)
		return nil, context.Cause(ctx)
	}
}

// discard closes what comes for a caller that has gone.
func discard(reply <-chan result) {
	for _, r := range (<-reply).frames {
		r.fd.close()
	}
}

// run owns the connection and the duplicates until the client is closed.
func (c *Client) run(b *book) {
	defer close(c.closed)
	defer b.close()
	var again <-chan time.Time
	delay := firstDelay
	for {
		if b.link == nil && again == nil {
			if err := b.connect(c.ctx); err != nil {
				c.cfg.Log.Error("no holder", slog.Any("error", err), slog.Duration("again_in", delay))
				again = time.After(delay)
				delay = min(2*delay, maxDelay)
			} else {
				delay = firstDelay
			}
		}
		select {
		case q := <-c.requests:
			if q.known != nil {
				q.reply <- b.known(q.known)
				continue
			}
			again = nil
			q.reply <- b.do(c.ctx, q.frame, q.fd)
		case r, ok := <-b.incoming():
			b.note(r, ok)
		case <-again:
			again = nil
		case <-c.ctx.Done():
			return
		}
	}
}

// A holder that cannot be started is tried again after a while, and at every request.
const (
	firstDelay = time.Second
	maxDelay   = time.Minute
)

// errLost is that the connection ended before the answer.
var errLost = errors.New("lost the holder")

// Understood is nil if this program can talk to the holder that listens at socket, or there is none.
func Understood(socket string) error {
	c, err := dial(socket)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reach holder: %w", err)
	}
	defer c.conn.Close() //nolint:errcheck // Nothing is asked of it.
	if err := c.send(frame{Op: opHello}, none); err != nil {
		return fmt.Errorf("talk to the holder: %w", err)
	}
	answer, fd, err := c.receive()
	fd.close()
	if err == nil && answer.Op != opOK {
		err = fmt.Errorf("%w: %s", errFrame, answer.Op)
	}
	if err != nil {
		return fmt.Errorf("talk to the holder: %w", err)
	}
	return nil
}
