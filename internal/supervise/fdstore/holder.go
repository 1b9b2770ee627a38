package fdstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/accept"
	"tenure/internal/supervise/fdstore/logfile"
)

// ServeConfig says where a holder listens and writes.
type ServeConfig struct {
	// Socket is the path of the holder's socket. Its directory must exist and belong to the
	// holder's user alone. A lock file with the suffix ".lock" is beside it.
	Socket string
	// Logs is the directory of the units' logs; it is made when needed.
	Logs string
	// Limits bound the log of each unit.
	Limits logfile.Limits
	// Ready gets the line "ready" as soon as clients can connect, or else an error, and is
	// then made to refer to /dev/null: what is on the other side of a pipe sees its end. May be
	// nil.
	Ready *os.File
	// Patience is how long a holder waits for its first client before it exits because
	// it holds nothing; 0 is half a minute.
	Patience time.Duration
	// Rest, if set, is called when nothing was asked for RestAfter (2 s), and may take a moment.
	Rest      func()
	RestAfter time.Duration
	// Log is where the holder tells what it cannot tell a client; nil is nowhere.
	Log *slog.Logger
}

func (c ServeConfig) withDefaults() ServeConfig {
	if c.Patience <= 0 {
		c.Patience = 30 * time.Second
	}
	if c.RestAfter <= 0 {
		c.RestAfter = 2 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Serve is the holder. When there is one for the socket already, it first takes over
// all that it holds. It returns nil when it holds nothing any more and when a
// successor has taken over; when ctx ends it drops everything and returns ctx's
// cause, which no holder in earnest should do.
//
// It is to be the whole life of a process that is the leader of its own session
// and ignores the signals that would end it (see Spawner).
func Serve(ctx context.Context, cfg ServeConfig) error {
	cfg = cfg.withDefaults()
	h := &holder{
		cfg:     cfg,
		streams: map[string]*stream{}, writers: map[tenure.UnitID]*unitLog{}, clients: map[*serverConn]struct{}{},
		accepted: make(chan *net.UnixConn), requests: make(chan request), gone: make(chan *serverConn), ended: make(chan *stream),
		readable: make(chan *stream), quit: make(chan struct{}),
	}
	defer h.close()
	raiseLimit()
	if err := h.begin(ctx); err != nil {
		_ = announce(cfg.Ready, err.Error())
		return err
	}
	if err := announce(cfg.Ready, ready); err != nil {
		return err
	}
	return h.run(ctx)
}

// holder is the state of a holder, owned by the goroutine that runs Serve.
type holder struct {
	cfg      ServeConfig
	name     string // Of the store: see the protocol.
	listener *net.UnixListener
	store    store
	streams  map[string]*stream
	writers  map[tenure.UnitID]*unitLog
	clients  map[*serverConn]struct{}
	bored    bool // Patience is over, or a client has been here.

	accepted  chan *net.UnixConn
	accepting sync.WaitGroup
	requests  chan request
	gone      chan *serverConn
	readable  chan *stream // To the workers.
	ended     chan *stream
	quit      chan struct{}
	running   sync.WaitGroup
}

// unitLog is the log of a unit and the number of streams that go into it.
type unitLog struct {
	*logfile.Writer
	streams int
}

// begin makes h the holder: the successor of the one that runs, or the first.
func (h *holder) begin(ctx context.Context) error {
	lock, err := lockStart(h.cfg.Socket, true)
	if err != nil {
		return err
	}
	// From here to the return there is no other holder that starts or stops.
	defer lock.close()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start holder: %w", context.Cause(ctx))
	}
	old, err := dial(h.cfg.Socket)
	switch {
	case err == nil:
		return h.takeOver(old)
	case errors.Is(err, unix.ECONNREFUSED):
		if err := removeStale(h.cfg.Socket); err != nil {
			return err
		}
	case !errors.Is(err, unix.ENOENT):
		return fmt.Errorf("look for a running holder: %w", err)
	}
	h.name = rand.Text()
	h.listener, err = listen(h.cfg.Socket)
	return err
}

// removeStale removes a socket that nobody listens on, and nothing else.
func removeStale(socket string) error {
	info, err := os.Lstat(socket)
	if err == nil && info.Mode().Type() != os.ModeSocket {
		err = fmt.Errorf("%s is %s: %w", socket, info.Mode(), unix.ENOTSOCK)
	}
	if err == nil {
		err = os.Remove(socket)
	}
	if err != nil {
		return fmt.Errorf("remove stale holder socket: %w", err)
	}
	return nil
}

// run serves until there is nothing to hold or a successor has taken over.
func (h *holder) run(ctx context.Context) error {
	h.accept()
	for range maxWorkers {
		h.running.Go(func() { work(h.readable, h.quit) })
	}
	for _, s := range h.streams {
		h.start(s)
	}
	patience := time.NewTimer(h.cfg.Patience)
	defer patience.Stop()
	rest := time.NewTimer(h.cfg.RestAfter)
	defer rest.Stop()
	for {
		select {
		case c := <-h.accepted:
			h.bored = true
			h.welcome(c)
		case c := <-h.gone:
			h.forget(c)
		case s := <-h.ended:
			h.finish(s)
		case <-rest.C:
			if h.cfg.Rest != nil {
				h.cfg.Rest()
			}
			continue
		case r := <-h.requests:
			if handedOver := h.answer(r); handedOver {
				return nil
			}
		case <-patience.C:
			h.bored = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		rest.Reset(h.cfg.RestAfter)
		if h.idle() {
			stopped, err := h.stop()
			if stopped || err != nil {
				return err
			}
			patience.Reset(time.Second)
		}
	}
}

func (h *holder) idle() bool {
	return h.bored && len(h.store.items) == 0 && len(h.streams) == 0 && len(h.clients) == 0
}

// stop removes the socket, unless another holder is just starting: that one will ask for
// a hand-over.
func (h *holder) stop() (bool, error) {
	lock, err := lockStart(h.cfg.Socket, false)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.close()
	if err := os.Remove(h.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("remove holder socket: %w", err)
	}
	_ = h.listener.Close()
	return true, nil
}

// close gives up everything that is still held.
func (h *holder) close() {
	close(h.quit)
	if h.listener != nil {
		_ = h.listener.Close()
	}
	for c := range h.clients {
		h.forget(c)
	}
	for _, s := range h.streams {
		_ = s.file.Close()
	}
	h.accepting.Wait()
	h.running.Wait()
	for _, w := range h.writers {
		w.Close()
	}
	h.store.close()
}

// accept starts to accept clients, until pauseAccept or the end.
func (h *holder) accept() {
	_ = h.listener.SetDeadline(time.Time{})
	h.accepting.Go(func() {
		for {
			c, err := accept.Next(h.listener, func(err error) { h.cfg.Log.Warn("clients have to wait", slog.Any("error", err)) })
			if err != nil {
				return
			}
			select {
			case h.accepted <- c:
			case <-h.quit:
				_ = c.Close()
			}
		}
	})
}

// pauseAccept leaves further clients in the queue of the socket.
func (h *holder) pauseAccept() {
	_ = h.listener.SetDeadline(time.Unix(1, 0))
	stopped := make(chan struct{})
	go func() { h.accepting.Wait(); close(stopped) }()
	for {
		select {
		case c := <-h.accepted:
			h.welcome(c)
		case <-stopped:
			return
		}
	}
}

// addStream takes over d, also when it fails.
func (h *holder) addStream(id string, unit tenure.UnitID, d descriptor) (*stream, error) {
	if id == "" || len(id) > maxName || unit.IsZero() {
		d.close()
		return nil, fmt.Errorf("%w: log %q of %q", ErrName, id, unit)
	}
	if old, ok := h.streams[id]; ok {
		d.close()
		return old, nil
	}
	w := h.writers[unit]
	if w == nil {
		w = &unitLog{Writer: logfile.NewWriter(h.cfg.Logs, unit, h.cfg.Limits)}
	}
	s, err := newStream(id, unit, d, w)
	if err != nil {
		d.close()
		return nil, err
	}
	w.streams++
	h.writers[unit] = w
	h.streams[id] = s
	return s, nil
}

// finish forgets a log stream whose last writer is gone, and tells the clients.
func (h *holder) finish(s *stream) {
	if h.streams[s.id] != s {
		return
	}
	delete(h.streams, s.id)
	_ = s.file.Close()
	s.log.streams--
	if s.log.streams == 0 {
		s.log.Close()
		if h.writers[s.unit] == s.log {
			delete(h.writers, s.unit)
		}
	}
	for c := range h.clients {
		h.send(c, outgoing{frame: frame{Op: opEnded, Meta: meta{Stream: s.id}}, fd: none})
	}
}

// lockStart locks what is beside the socket: whoever has it starts or stops a holder. It
// is given up by closing it, or by the end of the process.
func lockStart(socket string, wait bool) (descriptor, error) {
	path := socket + ".lock"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, socketMode)
	if err != nil {
		return none, fmt.Errorf("open %s: %w", path, err)
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		err = unix.Flock(fd, how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		descriptor(fd).close()
		return none, fmt.Errorf("lock %s: %w", path, err)
	}
	return descriptor(fd), nil
}

// ready is what announces that clients can connect.
const ready = "ready"

// announce tells whoever started the holder that it is ready, or why not.
func announce(to *os.File, what string) error {
	if to == nil {
		return nil
	}
	if _, err := to.WriteString(what + "\n"); err != nil {
		return fmt.Errorf("announce holder: %w", err)
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("announce holder: %w", err)
	}
	defer descriptor(null).close()
	if err := unix.Dup3(null, int(to.Fd()), unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("announce holder: %w", err)
	}
	return nil
}

// raiseLimit allows as many open files as the kernel lets this user have.
func raiseLimit() {
	const wanted = 1 << 16
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Cur >= wanted {
		return
	}
	raised := unix.Rlimit{Cur: wanted, Max: max(limit.Max, wanted)}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) != nil {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
}
