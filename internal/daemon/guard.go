package daemon

import (
	"context"
	"errors"
	"fmt"
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
	// ending is for how long a guard that is told to end waits for the program that it has told so.
	ending = 10 * time.Second
)

// overdue is for how long beyond its patience a guard waits for a program that goes back by itself when it is late.
func overdue(patience time.Duration) time.Duration {
	const atMost, times = 10 * time.Second, 2
	return min(atMost, times*patience)
}

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
	files := inFork{0, 1, 2}
	e := estate{Patience: patience, Guarded: self.Process}
	leaves.guard = &guard{line: there}
	entered, err := e.enter(leaves, &files)
	defer entered()
	if err != nil {
		return fail(errors.Join(err, here.Close()))
	}
	e.Lock, _ = files.pass(leaves.lock) // It cannot fail.
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

// inFork are the descriptors that become those of a child, in their order.
type inFork []uintptr

func (f *inFork) pass(file *os.File) (int, error) {
	*f = append(*f, uintptr(descriptorOf(file))) //nolint:gosec // A descriptor.
	return len(*f) - 1, nil
}

func (f *inFork) passed() int { return len(*f) }

func (f *inFork) keep(n int) { *f = (*f)[:n] }

// end ends a guard that nobody is known as yet.
func (g *guard) end() error {
	err := syscall.Kill(g.pid, syscall.SIGKILL)
	_, waitErr := syscall.Wait4(g.pid, nil, 0, nil)
	return errors.Join(err, waitErr, g.line.Close())
}

// dismiss sends the guard away. It is gone then: one that does not go in time is ended, or it would end a daemon that serves.
func (g *guard) dismiss(patience time.Duration) {
	defer g.line.Close()                  //nolint:errcheck // Nobody is at the other end.
	process, err := os.FindProcess(g.pid) // A child that was not waited for.
	if err != nil {
		return
	}
	late := time.AfterFunc(patience, func() { _ = process.Kill() }) // It is gone.
	defer late.Stop()
	if g.line.SetDeadline(time.Now().Add(patience)) == nil {
		_, _ = g.line.Write([]byte{0}) // It has ended otherwise.
	}
	_, _ = process.Wait() // Nobody asks how it has ended.
}

// dismiss sends away the guard of a start, if there is one. When it is gone this process is known as the daemon: it has said so, unless
// it was ended itself, and only one that others than the main process may speak for hears of it now.
func (p *parts) dismiss(g *guard) {
	if g == nil {
		return
	}
	g.dismiss(leaving)
	p.notify(context.Background(), knownAs(os.Getpid())+"\nNOTIFYACCESS=main")
}

// knownAs tells who the daemon is.
func knownAs(pid int) string { return "MAINPID=" + strconv.Itoa(pid) }

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
		p.notify(alive, knownAs(guarded.Process().PID))
		p.cfg.Manager.heard(alive)
		if ctx.Err() != nil {
			_ = guarded.Signal(syscall.SIGTERM) // It was meant. One that is gone has ended.
		}
		return nil
	case ctx.Err() != nil:
		_, err := end(guarded)
		return err
	}
	exit, err := end(guarded)
	if err != nil || meant(exit) {
		return err
	}
	return p.takeOver(ctx, why)
}

// takeOver has the program of a guard be the daemon again, in the place of one that has ended.
func (p *parts) takeOver(ctx context.Context, why error) error {
	p.cfg.Logger.Error("go on in place of the program that was to", slog.Any("reason", why))
	p.notify(ctx, "NOTIFYACCESS=main")
	h := &p.cfg.Handed
	own, err := ownProgram(p.cfg.Self)
	if err == nil {
		err = p.become(ctx, own, estate{Failure: why.Error()}, belongings{sockets: h.sockets, kept: h.kept, lock: h.lock})
	}
	if errors.Is(err, ctx.Err()) {
		return nil // It was told to end.
	}
	return err
}

// meant reports whether a process was told to end before it could hear that: it was meant, and nobody takes its place. Kernels
// before 6.15 know of no ends of others.
func meant(exit proc.Exit) bool {
	return exit.Signal == proc.SignalName(syscall.SIGTERM) || exit.Signal == proc.SignalName(syscall.SIGINT)
}

var errEndedEarly = errors.New("it ended before it was ready; its last words are in the log")

// watch returns nil when this guard is dismissed, and otherwise why the other one cannot be the daemon. Whoever is known as the daemon is told to
// end it: that is for the other one.
func (h *Handed) watch(ctx context.Context, guarded *proc.Handle) error {
	line := h.guard.line
	if err := line.SetReadDeadline(time.Now().Add(h.Patience + overdue(h.Patience))); err != nil {
		return err
	}
	heard := context.AfterFunc(ctx, func() {
		_ = guarded.Signal(syscall.SIGTERM) // One that is gone has ended.
		_ = line.SetReadDeadline(time.Now().Add(ending))
	})
	defer heard()
	_, err := line.Read(make([]byte, 1))
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded) && unread(line):
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return late(h.Patience)
	}
	return errEndedEarly
}

// unread reports whether there is something on a line, and takes it: who was stopped for a while finds that and the end of its patience at once.
func unread(line *os.File) bool {
	raw, err := line.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = raw.Control(func(fd uintptr) { n, _ = syscall.Read(int(fd), make([]byte, 1)) }) //nolint:gosec // A descriptor.
	return err == nil && n > 0
}

// end ends a process, waits for that, and says how it has ended.
func end(process *proc.Handle) (proc.Exit, error) {
	if err := process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, proc.ErrGone) {
		return proc.Exit{}, fmt.Errorf("end process %d: %w", process.Process().PID, err)
	}
	exit, err := process.Wait(context.Background())
	if err != nil && !errors.Is(err, proc.ErrGone) {
		return exit, fmt.Errorf("end process %d: %w", process.Process().PID, err)
	}
	return exit, nil
}
