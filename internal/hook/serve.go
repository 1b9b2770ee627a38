package hook

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tenure"
	"tenure/internal/accept"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/quota"
	"tenure/internal/relay"
)

const (
	// maxCall bounds what one call sends, and callTime how long it may take to.
	maxCall  = 1 << 20
	callTime = 10 * time.Second
	// lastWord is how long an answer may take to be heard when the daemon ends.
	lastWord = time.Second
	// maxCalls is how many calls are served at a time, and maxCallsOf how many of one
	// unit; all who are of no unit are as one.
	maxCalls, maxCallsOf = 256, 32
	// maxComplaint bounds an error, which may repeat what the caller has said.
	maxComplaint = 4 << 10
)

// ServeConfig is what snapctl is served with.
type ServeConfig struct {
	// Socket is the path to listen at.
	Socket string
	// Listener, if set, listens there already.
	Listener *net.UnixListener
	Host     Host
	Logger   *slog.Logger
	// Quiesce, if set, is closed when others are to answer there: nobody is accepted any more, and
	// who was is answered.
	Quiesce <-chan struct{}
	// Kept, if set, are connections that the program before has left, and Box, if set, takes those that the next one
	// is to go on with.
	Kept <-chan relay.Passed
	Box  *relay.Box
}

// Door is the name of the socket.
const Door = "snapctl"

// Call is what snapctl sends: one of it, in JSON, on a connection of its own. Who closes
// that, or its writing end, waits for the answer no more.
type Call struct {
	Args []string `json:"args"`
}

// Serve answers snapctl until ctx ends. Who calls is known by the control group of
// the process that connected, which it cannot choose, and by nothing that it says.
func Serve(ctx context.Context, cfg ServeConfig) error {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	listener := cfg.Listener
	if listener == nil {
		var err error
		if listener, err = Listen(cfg.Socket); err != nil {
			return fmt.Errorf("serve snapctl: %w", err)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	go cfg.hush(ctx, listener)
	var calls sync.WaitGroup
	defer calls.Wait()
	free, held := make(chan struct{}, maxCalls), quota.New[tenure.UnitID](maxCallsOf, maxCalls)
	serve := func(conn *relay.Conn, waitsFor change.ID) {
		calls.Go(func() {
			defer func() { <-free }()
			defer conn.Close() //nolint:errcheck // The answer is written, or nobody hears it.
			if err := cfg.serve(ctx, conn, waitsFor, held); err != nil {
				cfg.Logger.Debug("call of snapctl failed", slog.Any("error", err))
			}
		})
	}
	if cfg.Kept != nil {
		calls.Go(func() {
			for kept := range cfg.Kept {
				free <- struct{}{}
				resume(kept, serve, func() { <-free })
			}
		})
	}
	for {
		select {
		case free <- struct{}{}:
		case <-cfg.Quiesce:
			return nil
		case <-ctx.Done():
			return nil
		}
		conn, err := accept.Next(listener, func(err error) { cfg.Logger.Warn("calls of snapctl have to wait", slog.Any("error", err)) })
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve snapctl: %w", err)
		}
		serve(relay.New(conn, nil), 0)
	}
}

// hush ends accepting when others are to answer. Who is not accepted yet stays in the queue.
func (cfg *ServeConfig) hush(ctx context.Context, listener *net.UnixListener) {
	select {
	case <-cfg.Quiesce:
		_ = listener.SetDeadline(time.Unix(1, 0)) // One that is closed is quiet.
	case <-ctx.Done():
	}
}

// resume goes on with one whom the program before has left, or gives its place to another.
func resume(kept relay.Passed, serve func(*relay.Conn, change.ID), leave func()) {
	conn, err := kept.Conn()
	if err != nil {
		leave() // There is nobody.
		return
	}
	serve(conn, change.ID(kept.Change))
}

// Listen makes the socket in place of one that nobody listens at any more. Every user of every unit may connect: the control group decides.
func Listen(socket string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	return accept.Listen(socket)
}

// serve reads nothing before it is known who calls. A call of no unit is read all the
// same: whoever closes before the other has written is not heard. One that waits for a change has been read before.
func (cfg *ServeConfig) serve(ctx context.Context, conn *relay.Conn, waitsFor change.ID, held *quota.Quota[tenure.UnitID]) error {
	caller, refused := cfg.caller(conn.UnixConn)
	if !held.Take(caller.Unit) {
		return answer(ctx, conn, complaint("there are too many calls of snapctl at a time"))
	}
	defer held.Give(caller.Unit)
	var call Call
	if waitsFor == 0 {
		var err error
		if call, err = cfg.read(ctx, conn); err != nil {
			return err
		}
		if refused != nil {
			return answer(ctx, conn, complaint(refused.Error()))
		}
	}
	heard, stop := listened(ctx, conn)
	defer stop()
	reply, left := cfg.reply(heard, caller, call, waitsFor)
	if left != nil && cfg.Box.Asked(conn, *left) {
		return nil
	}
	return answer(ctx, conn, reply)
}

// reply carries out a call, or waits for a change that does. left is how another program goes on with it, if that is to: with the call as
// if nobody had read it, where nothing was begun.
func (cfg *ServeConfig) reply(ctx context.Context, caller Caller, call Call, waitsFor change.ID) (reply Reply, left *relay.Passed) {
	var err error
	if waitsFor == 0 {
		awaitEnd := func(ctx context.Context, id change.ID) error { return cfg.await(ctx, id, cfg.Host.AwaitEnd) }
		reply, waitsFor, err = begin(ctx, cfg.Host, caller, call.Args, awaitEnd)
	}
	left = &relay.Passed{Door: Door, Change: uint64(waitsFor)}
	switch {
	case err != nil:
		left.Said, _ = json.Marshal(call) // Words.
	case waitsFor != 0:
		err = cfg.await(ctx, waitsFor, cfg.Host.Await)
	default:
		return reply, nil
	}
	if !errors.Is(err, errQuiet) {
		left = nil
	}
	return replyTo("", err), left
}

// errQuiet is that another program goes on with who waits.
var errQuiet = errors.New("another tenured answers")

// await waits for a change as wait does, for as long as it is here that it is waited for.
func (cfg *ServeConfig) await(ctx context.Context, id change.ID, wait func(context.Context, change.ID) error) error {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	go func() {
		select {
		case <-cfg.Quiesce:
			if cfg.Box.Takes() {
				leave(errQuiet)
			}
		case <-ctx.Done():
		}
	}()
	err := wait(ctx, id)
	if err != nil && errors.Is(context.Cause(ctx), errQuiet) {
		return errQuiet
	}
	return err
}

// listened is ctx for as long as the other end of conn listens, or until stop. Who has
// died while a call was waiting does not take the place of others until that is over.
func listened(ctx context.Context, conn *relay.Conn) (heard context.Context, stop func()) {
	heard, stop = context.WithCancel(ctx)
	if conn.SetReadDeadline(time.Time{}) != nil {
		stop()
		return heard, stop
	}
	go func() {
		// What comes behind the call is nothing; conn is closed at its end.
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, maxCall))
		stop()
	}()
	return heard, stop
}

// read reads a call. Who has not said anything yet says it to the program that comes next.
func (cfg *ServeConfig) read(ctx context.Context, conn *relay.Conn) (call Call, err error) {
	defer within(ctx, conn.SetReadDeadline, 0)()
	ctx, done := context.WithCancel(ctx)
	var passing sync.WaitGroup
	defer passing.Wait() // One that is answered is not passed.
	defer done()
	passing.Go(func() {
		select {
		case <-cfg.Quiesce:
			if cfg.Box.Quiet(conn, Door) {
				_ = conn.Close() // It is the other program's.
			}
		case <-ctx.Done():
		}
	})
	if err := json.NewDecoder(io.LimitReader(conn, maxCall)).Decode(&call); err != nil {
		return Call{}, fmt.Errorf("read: %w", err)
	}
	return call, nil
}

func answer(ctx context.Context, conn *relay.Conn, reply Reply) error {
	defer within(ctx, conn.SetWriteDeadline, lastWord)()
	if err := json.NewEncoder(conn).Encode(reply); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// within bounds what is done with a connection until stop: by callTime, and once ctx
// ends by last. A deadline that cannot be set is that of a closed connection.
func within(ctx context.Context, deadline func(time.Time) error, last time.Duration) (stop func()) {
	_ = deadline(time.Now().Add(callTime))
	unbound := context.AfterFunc(ctx, func() { _ = deadline(time.Now().Add(last)) })
	return func() { unbound() }
}

// complaint is the reply that something is wrong.
func complaint(text string) Reply {
	if len(text) > maxComplaint {
		text = strings.ToValidUTF8(text[:maxComplaint], "") + "..."
	}
	return Reply{Status: 1, Stderr: "error: " + text + "\n"}
}

// caller is who is at the other end.
func (cfg *ServeConfig) caller(conn *net.UnixConn) (Caller, error) {
	peer, err := proc.PeerOf(conn)
	if err != nil {
		return Caller{}, fmt.Errorf("see who calls: %w", err)
	}
	defer peer.Handle.Close()
	unit, err := cfg.Host.UnitOf(peer.Handle)
	return Caller{Unit: unit, UID: peer.UID}, err
}
