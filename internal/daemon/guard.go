package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/proc"
)

// guard is a process of the program before, which becomes the daemon if the one that takes its place ends, in whatever way, before it is
// ready. Whoever manages the daemon knows the guard as it until then, and sees no end of it.
type guard struct {
	// line leads to the other one. A byte is that the guard is at its post, or a word for the guard; its end is the end of who has the other end.
	line    *os.File
	process tenure.Process
	// said is that it has said that whoever manages the daemon knows who that is from now on. It may be read when over is closed, by the
	// end of the guard.
	said bool
	over chan struct{}
}

// newGuard is a guard that is at its post, at the other end of a line.
func newGuard(line *os.File, process tenure.Process) *guard {
	g := &guard{line: line, process: process, over: make(chan struct{})}
	go func() {
		defer close(g.over)
		n, _ := line.Read(make([]byte, 1)) // The end says all.
		g.said = n > 0
	}()
	return g
}

// word is what a program says to its guard.
type word byte

const (
	// wordDismissed is that the program goes on by itself: the guard is to go. One of an older release takes every word for that.
	wordDismissed word = iota
	// wordEnding is that the program was told to end: its guard does not take its place, and stays beside it until it is gone, so that
	// whoever manages the daemon sees no end before.
	wordEnding
)

const (
	// posting bounds how long a guard may take to be at its post, and leaving how long to be gone.
	posting = 30 * time.Second
	leaving = 10 * time.Second
	// ending is for how long a guard that is told to end waits for the program that it has told so: for less than systemd waits
	// for the guard.
	ending = 30 * time.Second
)

// overdue is for how long beyond its patience a guard waits for a program that goes back by itself when it is late.
func overdue(patience time.Duration) time.Duration {
	const atMost, times = 10 * time.Second, 2
	return min(atMost, times*patience)
}

// post starts a guard, which has what the program has that takes the place of this one.
func (p *parts) post(own *program, patience time.Duration, of belongings) (*guard, error) {
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
	of.guard = &guard{line: there}
	entered, err := e.enter(of, &files)
	defer entered()
	if err != nil {
		return fail(errors.Join(err, here.Close()))
	}
	e.Lock, _ = files.pass(of.lock) // It cannot fail.
	env, err := e.environ()
	if err != nil {
		return fail(errors.Join(err, here.Close()))
	}
	process, err := p.startGuard(own, env, files)
	if err != nil {
		return fail(errors.Join(err, here.Close()))
	}
	defer process.Close()
	err = errors.Join(there.Close(), here.SetReadDeadline(time.Now().Add(posting)))
	if err == nil {
		_, err = here.Read(make([]byte, 1))
	}
	if err = errors.Join(err, here.SetReadDeadline(time.Time{})); err != nil {
		_, endErr := end(process)
		return fail(errors.Join(err, endErr, here.Close()))
	}
	return newGuard(here, process.Process()), nil
}

// startGuard starts a guard with an environment and descriptors.
func (p *parts) startGuard(own *program, env []string, files inFork) (*proc.Handle, error) {
	pidfd, attributes := -1, &syscall.SysProcAttr{}
	attributes.PidFD = &pidfd
	if p.cfg.Manager.Notify != nil && os.Getpid() != 1 {
		// A child of whoever manages this process, which waits for the end of its own children alone. Process 1 has no parent here.
		attributes.Cloneflags = syscall.CLONE_PARENT
	}
	argv := append([]string{own.path, "guard"}, p.cfg.Args...)
	pid, err := syscall.ForkExec(own.executable(), argv, &syscall.ProcAttr{Env: env, Files: files, Sys: attributes})
	if err != nil {
		return nil, err
	}
	process, err := proc.FromPIDFD(os.NewFile(uintptr(pidfd), "guard")) //nolint:gosec // A descriptor.
	if err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // It has just been made, and would take the end of the line for that of this one.
	}
	return process, err
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
	process, err := proc.Open(g.process)
	if err == nil {
		defer process.Close()
		_, err = end(process)
	}
	return errors.Join(err, g.line.Close())
}

// Ways in which a guard takes a word.
var (
	errStays = errors.New("the guard stays until the end of this program")
	errLost  = errors.New("the guard has ended before it had said who the daemon is")
)

// dismiss sends the guard away. When it returns nil or errLost that is gone: one that does not go in time is ended, or it would end a daemon that serves.
// Where life, that of this program, ends before, it is errStays.
func (g *guard) dismiss(life context.Context, patience time.Duration) error {
	if err := g.line.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return errStays // It hears nothing, and sees the end.
	}
	if life.Err() == nil {
		_, _ = g.line.Write([]byte{byte(wordDismissed)}) // It has ended otherwise.
		if err := g.gone(life, patience); !errors.Is(err, errStays) {
			_ = g.line.Close() // Nobody is at the other end.
			return err
		}
	}
	_, _ = g.line.Write([]byte{byte(wordEnding)}) // It has ended otherwise.
	return errStays
}

// gone waits until a guard is, as dismiss does.
func (g *guard) gone(life context.Context, patience time.Duration) error {
	process, err := proc.Open(g.process)
	if err == nil {
		defer process.Close()
		defer time.AfterFunc(patience, func() { _ = process.Signal(syscall.SIGKILL) }).Stop() // It is gone otherwise.
		_, err = process.Wait(life)
	}
	if err != nil && !errors.Is(err, proc.ErrGone) {
		return errStays
	}
	// Whoever else might have its end of the line is not waited for, only what was said on it.
	_ = syscall.Shutdown(descriptorOf(g.line), syscall.SHUT_RD) // It is at its end otherwise.
	if <-g.over; !g.said {
		return errLost
	}
	return nil
}

// dismiss sends away the guard of a start, if there is one, or tells it that life, that of this program, has ended. When it is gone whoever manages
// this process knows it as the daemon: the guard has said so.
func (p *parts) dismiss(life context.Context, g *guard) {
	if g != nil && errors.Is(g.dismiss(life, leaving), errLost) {
		p.lost()
	}
}

// lost has this program end with its guard, which its manager knows as the daemon: to that there is none any more, whether it has ended it or lost
// it, and it starts another one if it wants one. Who has no manager goes on.
func (p *parts) lost() {
	if p.cfg.Manager.Notify == nil || p.cfg.Told == nil {
		return
	}
	p.cfg.Logger.Error("this program ends: the process that is known as the daemon was ended")
	p.cfg.Told.end()
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
	// However often it is waited for the other one after this one was told to end, it is not for longer.
	by := sync.OnceValue(func() time.Time { return time.Now().Add(ending) })
	said, why := h.watch(ctx, guarded, by)
	switch {
	case why == nil && said == wordEnding:
		p.cfg.Logger.Info("the program that begins was told to end", slog.Int("process", guarded.Process().PID))
		return seeOff(ctx, guarded, by)
	case why == nil:
		p.notify(alive, knownAs(guarded.Process().PID))
		p.cfg.Manager.heard(alive)
		_, _ = h.guard.line.Write([]byte{0}) // An older program does not listen.
		// Whoever has told the daemon to end before it knew of another one has told this one.
		hear := p.cfg.Told.deafen()
		if ctx.Err() == nil {
			return nil
		}
		hear()
		return seeOff(ctx, guarded, by)
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

// watch returns what the other one says, or why that cannot be the daemon. Whoever is known as the daemon is told to
// end it: that is for the other one, which is waited for until a time.
func (h *Handed) watch(ctx context.Context, guarded *proc.Handle, by func() time.Time) (word, error) {
	line := h.guard.line
	if err := line.SetReadDeadline(time.Now().Add(h.Patience + overdue(h.Patience))); err != nil {
		return 0, err
	}
	watched, done := context.WithCancel(context.Background())
	defer done()
	defer context.AfterFunc(ctx, func() {
		_ = line.SetReadDeadline(by())
		tell(watched, guarded)
	})()
	said := make([]byte, 1)
	_, err := line.Read(said)
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded) && unread(line, said):
		return word(said[0]), nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, late(h.Patience)
	}
	return 0, errEndedEarly
}

// unread reports whether there is something on a line, and reads it: who was stopped for a while finds that and the end of its patience at once.
func unread(line *os.File, said []byte) bool {
	raw, err := line.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = raw.Control(func(fd uintptr) { n, _ = syscall.Read(int(fd), said) }) //nolint:gosec // A descriptor.
	return err == nil && n > 0
}

// seeOff waits for the end of a program that was told to end. Where this guard is told to end, it is for it to tell the other one, and to end one
// that does not in time.
func seeOff(ctx context.Context, guarded *proc.Handle, by func() time.Time) error {
	patient, lost := context.WithCancel(context.Background())
	defer lost()
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(time.Until(by()), lost)
		tell(patient, guarded)
	})()
	if _, err := guarded.Wait(patient); err == nil || errors.Is(err, proc.ErrGone) {
		return nil
	}
	_, err := end(guarded)
	return err
}

// tell tells a process to end, again and again until ctx ends: of a signal that comes while it becomes another program it may never hear.
func tell(ctx context.Context, process *proc.Handle) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for process.Signal(syscall.SIGTERM) == nil {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
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
