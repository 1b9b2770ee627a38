package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"tenure"
	"tenure/internal/entry"
	"tenure/internal/proc"
	"tenure/internal/refresh"
	"tenure/internal/relay"
)

// askPatience bounds how long a helper may take for what is its own part, and how long it
// may not read.
const askPatience = 30 * time.Second

// ServeEntry answers those who want to become an app (package entry) until ctx ends, or
// cfg.Quiesce is closed; then it returns when who was accepted has become one.
//
// Whoever asks must be the helper: a process whose program is the file at helper. That is
// what keeps people from putting other processes into units of snaps. Those in kept were found to be.
func ServeEntry(ctx context.Context, cfg Config, socket, helper string, kept <-chan relay.Passed) error {
	listener := cfg.Listener
	if listener == nil {
		var err error
		if listener, err = Listen(ctx, socket); err != nil {
			return err
		}
	}
	life, end := context.WithCancel(ctx)
	e := &entries{cfg: cfg, helper: helper, life: life}
	defer e.running.Wait()
	defer end()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	fairly := newFair(listener, DoorEntry, cfg.Logger)
	if cfg.Quiesce != nil {
		go func() {
			select {
			case <-cfg.Quiesce:
				fairly.quiet()
			case <-life.Done():
			}
		}()
	}
	asking.Go(func() {
		for left := range kept {
			asking.Go(func() { e.resume(ctx, fairly, left) })
		}
	})
	for {
		conn, err := fairly.Accept()
		if ctx.Err() != nil || errors.Is(err, errQuiet) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve %s: %w", socket, err)
		}
		asking.Go(func() { e.serve(ctx, conn.(*counted), tenure.Process{}) }) //nolint:forcetypeassert // It is what fair accepts.
	}
}

type entries struct {
	cfg    Config
	helper string
	// life is that of the server, and running are the apps that have a namespace.
	life    context.Context //nolint:containedctx // Set once.
	running sync.WaitGroup
}

// resume goes on with one whom the program before has left.
func (e *entries) resume(ctx context.Context, fairly *fair, left relay.Passed) {
	conn, err := left.Conn()
	if err != nil {
		return // There is nobody.
	}
	if c := fairly.count(conn); c != nil {
		e.serve(ctx, c, left.Known)
	}
}

func (e *entries) serve(ctx context.Context, conn *counted, known tenure.Process) {
	// Whoever waits for a refresh can go away.
	ctx, gone := context.WithCancel(ctx)
	defer gone()
	defer conn.Close() //nolint:errcheck // The answer is written, or nobody hears it.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	to := channel{conn.Conn}
	err := e.answer(ctx, to, known)
	if err == nil || errors.Is(err, refresh.ErrElsewhere) {
		return
	}
	e.cfg.Logger.Debug("an app is not run", slog.Any("error", err))
	_ = entry.Send(to, entry.Message{Kind: entry.Fail, Words: []string{err.Error()}}) // It may be gone.
}

// errNotHelper is that somebody else than the helper asks.
var errNotHelper = errors.New("only the helper that tenured has installed can enter units; use the commands in snap/bin, or tenure run")

// quiet is closed when another program is to go on with who waits.
func (e *entries) quiet(ctx context.Context) <-chan struct{} {
	quiet := make(chan struct{})
	go func() {
		select {
		case <-e.cfg.Quiesce:
			if e.cfg.Box.Takes() {
				close(quiet)
			}
		case <-ctx.Done():
		}
	}()
	return quiet
}

// answer answers one who asks. Known was found to be the helper when that was another file.
func (e *entries) answer(ctx context.Context, to channel, known tenure.Process) error {
	peer, err := proc.PeerOf(to.UnixConn)
	if err != nil {
		return err
	}
	held := false
	defer func() {
		if !held {
			peer.Handle.Close()
		}
	}()
	process := peer.Handle.Process()
	env, err := e.environ(peer.Handle, known)
	if err != nil {
		return err
	}
	m, err := entry.Receive(to)
	if err != nil {
		return err
	}
	q, err := entry.ParseQuestion(m)
	if err != nil {
		return errors.Join(err, m.File.Close())
	}
	reply, err := e.cfg.Manager.Run(ctx, refresh.RunRequest{
		Name: q.Name, Shell: q.Mode == entry.Shell, Complete: q.Mode == entry.Complete, Hook: q.Hook, Process: process,
		UID: peer.UID, GID: peer.GID, Home: homeOf(peer.UID), Args: q.Args, Env: env,
		MakeHome: func(home, snap, revision string) (*os.File, error) { return makeHome(to, home, snap, revision) },
		Say:      func(text string) { _ = entry.Send(to, entry.Message{Kind: entry.Say, Words: []string{text}}) },
		Quiet:    e.quiet(ctx),
	})
	if errors.Is(err, refresh.ErrElsewhere) {
		return e.pass(to, m, process, err)
	}
	if err != nil {
		return err
	}
	err = entry.Send(to, entry.Program{
		KeepCapabilities: reply.Profile.KeepCapabilities, AllCapabilities: reply.Profile.AllCapabilities,
		NoNewPrivs: reply.Profile.NoNewPrivs, Argv: reply.Command.Argv, Env: reply.Command.Env,
	}.Message(reply.Namespace))
	if err != nil {
		_ = reply.Namespace.Close() // Also of none.
		return err
	}
	if q.Mode == entry.Complete {
		e.cfg.Manager.EndCompletion(ctx, reply.Unit, peer.Handle)
	}
	if held = reply.Namespace != nil; held {
		e.running.Go(func() { outlive(e.life, peer.Handle, reply.Namespace) })
	}
	return nil
}

// pass leaves one who waits, with what it has asked, to the program that comes next. What is returned is elsewhere, or why it cannot be.
func (e *entries) pass(to channel, question entry.Message, process tenure.Process, elsewhere error) error {
	said, err := question.Bytes()
	if err == nil {
		// Where there is no room for it the connection ends.
		e.cfg.Box.Asked(to.Conn, relay.Passed{Door: DoorEntry, Said: said, Known: process})
	}
	return errors.Join(err, elsewhere)
}

// environ is the environment of the helper; there is none of anybody else.
func (e *entries) environ(asks *proc.Handle, known tenure.Process) ([]string, error) {
	process := asks.Process()
	if process != known {
		if err := e.checkHelper(process.PID); err != nil {
			return nil, err
		}
	}
	env, err := proc.Environ(process.PID)
	if err != nil {
		return nil, err
	}
	// It has not ended, so what was read was its own.
	if ended, err := asks.Ended(); err != nil || ended {
		return nil, errors.Join(err, proc.ErrGone)
	}
	return env, nil
}

// outlive keeps the namespace of an app until its process has ended. To take it down is
// otherwise part of the end, which the person waits for.
func outlive(ctx context.Context, app *proc.Handle, namespace *os.File) {
	_, _ = app.Wait(ctx) // How it ended is for others to see.
	app.Close()
	_ = namespace.Close() // The last who had it is gone.
}

// checkHelper refuses a process that runs another program.
func (e *entries) checkHelper(pid int) error {
	program, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return fmt.Errorf("see who asks: %w", err)
	}
	helper, err := os.Stat(e.helper)
	if err != nil {
		return fmt.Errorf("see who asks: %w", err)
	}
	if !os.SameFile(program, helper) {
		return errNotHelper
	}
	return nil
}

// makeHome asks the helper for a directory of its user.
func makeHome(to channel, home, snap, revision string) (*os.File, error) {
	if err := entry.Send(to, entry.Message{Kind: entry.Home, Words: []string{home, snap, revision}}); err != nil {
		return nil, err
	}
	m, err := entry.Receive(to)
	if err != nil {
		return nil, err
	}
	if m.Kind != entry.Made || len(m.Words) != 1 || (m.Words[0] == "") != (m.File != nil) {
		return nil, errors.Join(fmt.Errorf("%w: %q", entry.ErrProtocol, m.Kind), m.File.Close())
	}
	if m.File == nil {
		return nil, errors.New(m.Words[0]) //nolint:err113 // The helper's words.
	}
	info, err := m.File.Stat()
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s/snap/%s is not a directory", home, snap) //nolint:err113 // For people.
	}
	if err != nil {
		return nil, errors.Join(err, m.File.Close())
	}
	return m.File, nil
}

// channel is the daemon's end of a conversation.
type channel struct{ *relay.Conn }

// ReadWith implements entry.Channel.
func (c channel) ReadWith(b, oob []byte) (n, oobn int, err error) {
	if err := c.SetReadDeadline(time.Now().Add(askPatience)); err != nil {
		return 0, 0, err
	}
	if c.Again() {
		n, err = c.Read(b) // There was nothing besides.
		return n, 0, err
	}
	n, oobn, _, _, err = c.ReadMsgUnix(b, oob)
	return n, oobn, err
}

// WriteWith implements entry.Channel.
func (c channel) WriteWith(b, oob []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(askPatience)); err != nil {
		return err
	}
	for len(b) > 0 {
		n, _, err := c.WriteMsgUnix(b, oob, nil)
		if err != nil {
			return err
		}
		b, oob = b[n:], nil
	}
	return nil
}
