package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"tenure/internal/journal"
	"tenure/internal/proc"
)

// replace puts another program in the place of this one, whose components have ended. It is rehearsed
// first, beside this process, on the state as it is; this program comes back if that fails.
func (p *parts) replace(ctx context.Context) error {
	next := p.replacement
	own, err := ownProgram(p.cfg.Self)
	if err != nil {
		return err
	}
	kept := p.journal.Keep()
	leaves := belongings{sockets: p.doors.files(), kept: p.doors.box.Kept(), lock: p.lock}
	p.closeAll()
	defer p.unlock()
	cause := errors.Join(kept, hold(p.lock))
	if cause == nil {
		cause = p.rehearse(ctx, next)
	}
	if ctx.Err() == nil {
		p.notify(ctx, "WATCHDOG=1")
		if cause == nil {
			cause = p.giveWay(ctx, next, own, leaves)
		}
		err = p.become(ctx, own, estate{Failure: cause.Error()}, leaves)
	}
	if ctx.Err() != nil {
		p.doors.drop()
		return p.abandoned()
	}
	return err
}

// giveWay has a program take the place of this one, which stays beside it until it is ready. It returns only if that cannot be done,
// or this one is told to end.
func (p *parts) giveWay(ctx context.Context, next *replacement, own *program, leaves belongings) error {
	with := leaves
	with.previous = own
	if next.guarded {
		var err error
		if with.guard, err = p.post(own, next.patience, leaves); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), with.guard.end())
		}
		p.notify(ctx, knownAs(with.guard.process.PID))
	}
	err := p.become(ctx, next.program, estate{Patience: next.patience, Schema: journal.Schema()}, with)
	p.dismiss(ctx, with.guard)
	return err
}

// abandoned is the end of the daemon where its place was to be taken: the next start is of a program that nobody knows, so
// the journal is as this one has left it. Where it cannot be put back its copy stays, for whoever cannot read it.
func (p *parts) abandoned() error {
	if journal.Kept(p.journalPath()) {
		if err := journal.Restore(p.journalPath()); err != nil {
			return err
		}
	}
	p.concluded("the daemon was ended meanwhile")
	return nil
}

// rehearse has the new program do all that its start does, but for what it would go on with.
func (p *parts) rehearse(ctx context.Context, next *replacement) error {
	ctx, cancel := context.WithTimeoutCause(ctx, next.patience, late(next.patience))
	defer cancel()
	go p.cfg.Manager.tellAlive(ctx, func() { p.notify(ctx, "WATCHDOG=1") })
	// Should this process be killed, nobody begins before the rehearsal has ended with it: that has the lock too.
	said, err := p.have(ctx, next.program, []*os.File{p.lock}, reapOthers, "rehearse")
	if err == nil && string(said) != rehearsed {
		err = fmt.Errorf("its rehearsal ends with %q", said)
	}
	return err
}

func late(patience time.Duration) error { return fmt.Errorf("it was not ready after %s", patience) }

// rehearsed is what a rehearsal says at its end.
const rehearsed = "ready\n"

// Rehearse is a start of the daemon that does not serve: it opens the state, adopts what runs, and ends.
func Rehearse(ctx context.Context, cfg Config) error {
	cfg.trial = true
	p, err := assemble(ctx, cfg)
	if err != nil {
		return err
	}
	defer p.close()
	ready, err := p.supervised(ctx, func(ctx context.Context) error {
		if err := p.manager.Boot(ctx); err != nil {
			return err
		}
		_, err := p.journal.Changes().Load(ctx)
		return err
	})
	if err == nil && !ready {
		err = errors.New("the supervisor has ended")
	}
	if err = errors.Join(err, fault(ctx, "rehearsal")); err != nil {
		return err
	}
	_, err = os.Stdout.WriteString(rehearsed)
	return err
}

// reapOthers collects children of this process that end meanwhile: services that it has started, of which it is
// the parent, whoever supervises them. Nothing in this process may wait for a child but for the one with a pid: it is for when all
// components have ended.
func reapOthers(pid int) (stop func()) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			_ = proc.ReapOthers(pid) // There is nothing else to be done.
			select {
			case <-ended:
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(ended)
		close(done)
		running.Wait()
	}
}

// succession is the start of a program in the place of another, which comes back if this one does not get ready.
type succession struct {
	p *parts
	// life is that of this program: one that is told to end is not replaced by the one before.
	life context.Context //nolint:containedctx // Set once.
	// stop ends what tells of the start.
	stop context.CancelFunc
	// Mutex is the gate of the journal: it is held from when it is found out that there is a way back until
	// that is gone, and nobody writes what only this program can read meanwhile.
	sync.Mutex

	// settled is that this program serves; then serving is closed.
	settled bool
	serving chan struct{}
}

// startPatience is for how long there are signs of life of a program that nobody comes back after.
const startPatience = 10 * time.Minute

// succeed begins the time in which this program has to get ready. Who manages the process does not know of another one in it, and
// waits for signs of life as before.
func (p *parts) succeed(life context.Context) *succession {
	s := &succession{p: p, life: life, stop: func() {}, serving: make(chan struct{})}
	handed := &p.cfg.Handed
	if !handed.is {
		return s
	}
	context.AfterFunc(life, s.stay)
	if handed.guard != nil {
		go s.follow(handed.guard)
	}
	patience := startPatience
	if handed.previous != nil {
		patience = handed.Patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.stop = cancel
	go p.cfg.Manager.tellAlive(ctx, func() { p.notify(ctx, "WATCHDOG=1") })
	if handed.previous != nil {
		context.AfterFunc(ctx, func() {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.fail(late(patience))
			}
		})
	}
	return s
}

// ready is that this program serves. There is no way back.
func (s *succession) ready() {
	s.Lock()
	defer s.Unlock()
	if s.settled {
		return
	}
	s.settled = true
	s.stop()
	s.dismiss()
	if s.life.Err() != nil {
		return // The next start says what has become of the upgrade.
	}
	failure := s.p.cfg.Handed.Failure
	if !s.p.cfg.Handed.is {
		failure = s.p.restarted()
	}
	if lock := s.p.cfg.Handed.lock; lock != nil {
		release(lock)
	}
	s.p.cfg.Handed.forget()
	s.p.concluded(failure)
	close(s.serving)
}

// restarted is why an upgrade has failed if one was in progress when this program was started anew: empty if it is
// the new one, which has had to begin twice.
func (p *parts) restarted() string {
	record, err := readUpgrade(p.paths)
	if err == nil && record.To == Version && record.From != Version {
		return ""
	}
	return "the new program ended before it was ready, and this one was started"
}

// follow has this program end with its guard, if it loses that.
func (s *succession) follow(guard *guard) {
	if <-guard.over; !guard.said {
		s.p.lost()
	}
}

// stay is that this program is told to end: it does, in whatever way, and its guard does not take its place, but waits for that. Where it does
// not end by itself, whoever has told it ends it.
func (s *succession) stay() {
	s.Lock()
	defer s.Unlock()
	s.dismiss()
}

// dismiss sends away the guard of this program, once, or tells it of the end.
func (s *succession) dismiss() {
	s.p.dismiss(s.life, s.p.cfg.Handed.guard)
	s.p.cfg.Handed.guard = nil
}

// fail gives the process back to the program before, if there is one, whatever else goes on in it, and unless it is told to end. If this one has
// another schema and has written anything, nobody else can read that, and there is no way back: this one goes on.
func (s *succession) fail(cause error) {
	s.Lock()
	defer s.Unlock()
	handed, cfg := &s.p.cfg.Handed, &s.p.cfg
	switch {
	case s.settled || handed.previous == nil:
		return
	case s.life.Err() != nil:
		s.dismiss()
		return
	case handed.Schema != journal.Schema() && !journal.Kept(s.p.journalPath()):
		s.dismiss()
		cfg.Logger.Error("no way leads back to the program before: the state is newer", slog.Any("reason", cause))
		return
	}
	cfg.Logger.Error("go back to the program before", slog.Any("reason", cause))
	s.dismiss()
	s.p.notify(context.Background(), "WATCHDOG=1")
	err := s.p.become(s.life, handed.previous, estate{Failure: cause.Error()}, belongings{sockets: handed.sockets, kept: handed.kept, lock: handed.lock})
	cfg.Logger.Error("cannot go back to the program before", slog.Any("error", err))
}

// GoBack gives the process back to the program before, if there is one, where this one finds that it cannot be the daemon
// before Run. Otherwise it returns.
func GoBack(ctx context.Context, cfg Config, cause error) {
	p := parted(cfg)
	(&succession{p: p, life: ctx, stop: func() {}}).fail(cause)
}

// openJournal opens the journal. One that a newer program has opened, and has written nothing to, is put back as
// it was before.
func (p *parts) openJournal() (err error) {
	cfg := journal.Config{Path: p.journalPath(), Logger: p.cfg.Logger, Trial: p.cfg.trial}
	if p.succession != nil {
		cfg.Gate = p.succession
	}
	p.journal, err = journal.Open(cfg)
	if !errors.Is(err, journal.ErrNewer) {
		return err
	}
	switch restoreErr := journal.Restore(cfg.Path); {
	case errors.Is(restoreErr, fs.ErrNotExist):
		return err
	case restoreErr != nil:
		return errors.Join(err, restoreErr)
	}
	p.cfg.Logger.Warn("the journal is as it was before a newer program has opened it")
	p.journal, err = journal.Open(cfg)
	return err
}

// reapInherited waits for the end of a holder that the program before has started in this process.
func (p *parts) reapInherited(ctx context.Context) {
	if !p.cfg.Handed.is {
		return
	}
	infos, err := proc.GroupAt(p.holderGroup.Path()).Processes()
	if err != nil {
		return // Then it is not there.
	}
	for _, info := range infos {
		if handle, err := proc.Open(info.Process); err == nil {
			go func() {
				defer handle.Close()
				_, _ = handle.Wait(ctx) // How it ends nobody asks.
			}()
		}
	}
}
