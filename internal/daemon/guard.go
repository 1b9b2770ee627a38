package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"syscall"
	"time"

	"tenure/internal/proc"
)

// guard is a process of the program before, which becomes the daemon if the one that takes its place ends, in whatever way, before it is
// ready. Whoever manages the daemon knows the guard as it until then, and sees no end of it.
type guard struct {
	// line leads to the other one. A byte is that the guard is at its post, or is dismissed; its end is the end of who has the other end.
	line *os.File
	pid  int
}

const (
	// posting bounds how long a guard may take to be at its post, and leaving how long to be gone.
	posting = 30 * time.Second
	leaving = 10 * time.Second
	// overdue is for how long beyond its patience a guard waits for a program that goes back by itself when it is late.
	overdue = 10 * time.Second
)

// post starts a guard, which has what the program has that takes the place of this one.
func (p *parts) post(own *program, patience time.Duration, leaves belongings) (*guard, error) {
	fail := func(err error) (*guard, error) { return nil, fmt.Errorf("guard the start: %w", err) }
	self, err := proc.Read(os.Getpid())
	if err != nil {
		return fail(err)
	}
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(os.NewSyscallError("socketpair", err))
	}
	here, there := os.NewFile(uintptr(ends[0]), "guard"), os.NewFile(uintptr(ends[1]), "guarded") //nolint:gosec // Descriptors.
	defer there.Close()                                                                           //nolint:errcheck // The guard's.
	files := []uintptr{0, 1, 2}
	pass := func(file *os.File) (int, error) {
		files = append(files, uintptr(descriptorOf(file))) //nolint:gosec // A descriptor.
		return len(files) - 1, nil
	}
	e := estate{Patience: patience, Guarded: self.Process}
	leaves.guard = &guard{line: there}
	entered, err := e.enter(leaves, pass)
	defer entered()
	if err != nil {
		return fail(errors.Join(err, here.Close()))
	}
	e.Lock, _ = pass(leaves.lock) // It cannot fail.
	env, err := e.environ()
	if err != nil {
		return fail(errors.Join(err, here.Close()))
	}
	argv := append([]string{own.path, "guard"}, p.cfg.Args...)
	pid, err := syscall.ForkExec(own.executable(), argv, &syscall.ProcAttr{Env: env, Files: files})
	if err != nil {
		return fail(errors.Join(err, here.Close()))
	}
	g := &guard{line: here, pid: pid}
	if err := errors.Join(there.Close(), here.SetReadDeadline(time.Now().Add(posting))); err != nil {
		return fail(errors.Join(err, g.end()))
	}
	if _, err := here.Read(make([]byte, 1)); err != nil {
		return fail(errors.Join(err, g.end()))
	}
	return g, nil
}

// end ends a guard that nobody is known as yet.
func (g *guard) end() error {
	err := syscall.Kill(g.pid, syscall.SIGKILL)
	_, waitErr := syscall.Wait4(g.pid, nil, 0, nil)
	return errors.Join(err, waitErr, g.line.Close())
}

// dismiss sends the guard away, if there is one. When it is gone this process is known as the daemon.
func (g *guard) dismiss() {
	if g == nil {
		return
	}
	defer g.line.Close() //nolint:errcheck // Nobody is at the other end.
	if g.line.SetDeadline(time.Now().Add(leaving)) != nil {
		return
	}
	if _, err := g.line.Write([]byte{0}); err != nil {
		return
	}
	if _, err := io.Copy(io.Discard, g.line); err == nil {
		_, _ = syscall.Wait4(g.pid, nil, 0, nil) // Nobody asks how it has ended.
	}
}

// dismiss sends away the guard of this program, once.
func (h *Handed) dismiss() {
	h.guard.dismiss()
	h.guard = nil
}

var errNotGuarding = errors.New("there is nothing to guard: only a daemon that is being replaced starts this")

// Guard waits beside a program that has taken the place of the daemon until it is dismissed, and becomes the daemon if that ends
// before, or does not get ready in time.
func Guard(ctx context.Context, cfg Config) error {
	p := parted(cfg)
	h := &p.cfg.Handed
	if h.guard == nil || h.lock == nil {
		return errNotGuarding
	}
	guarded, err := proc.Open(h.Guarded)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	defer guarded.Close()
	alive, done := context.WithCancel(context.Background())
	defer done()
	if _, err := h.guard.line.Write([]byte{0}); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	go p.cfg.Manager.tellAlive(alive, func() { p.notify(alive, "WATCHDOG=1") })
	why := h.watch(ctx, guarded)
	switch {
	case why == nil:
		p.notify(alive, "MAINPID="+strconv.Itoa(guarded.Process().PID))
		p.cfg.Manager.heard(alive)
		return nil
	case ctx.Err() != nil:
		return end(guarded)
	}
	p.cfg.Logger.Error("go on in place of the program that was to", slog.Any("reason", why))
	if err := end(guarded); err != nil {
		return err
	}
	own, err := ownProgram(p.cfg.Self)
	if err != nil {
		return err
	}
	return become(own, p.cfg.Args, estate{Failure: why.Error()}, belongings{sockets: h.sockets, kept: h.kept, lock: h.lock})
}

var errEndedEarly = errors.New("it ended before it was ready; its last words are in the log")

// watch returns nil when this guard is dismissed, and otherwise why the other one cannot be the daemon. Whoever is known as the daemon is told to
// end it: that is for the other one.
func (h *Handed) watch(ctx context.Context, guarded *proc.Handle) error {
	word := make(chan error, 1)
	go func() {
		_, err := h.guard.line.Read(make([]byte, 1))
		if err != nil {
			err = errEndedEarly
		}
		word <- err
	}()
	tooLate := time.NewTimer(h.Patience + overdue)
	defer tooLate.Stop()
	for told := ctx.Done(); ; {
		select {
		case err := <-word:
			return err
		case <-tooLate.C:
			return late(h.Patience)
		case <-told:
			told = nil
			_ = guarded.Signal(syscall.SIGTERM) // One that is gone has ended.
			tooLate.Reset(overdue)
		}
	}
}

// end ends a process, and waits for that.
func end(process *proc.Handle) error {
	if err := process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, proc.ErrGone) {
		return fmt.Errorf("end process %d: %w", process.Process().PID, err)
	}
	if _, err := process.Wait(context.Background()); err != nil && !errors.Is(err, proc.ErrGone) {
		return fmt.Errorf("end process %d: %w", process.Process().PID, err)
	}
	return nil
}
