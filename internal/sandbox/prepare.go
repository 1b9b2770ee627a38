package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Prepared is a profile that was entered ahead of its program, by a thread that
// waits for it. What is mounted on the host meanwhile is seen by the program as
// by one that has been running.
type Prepared struct {
	profile  Profile
	attempts chan attempt
	// entered is closed when err is known.
	entered chan struct{}
	err     error
	close   sync.Once
	closed  chan struct{}
}

// attempt is the one use of a Prepared.
type attempt struct {
	exec   Exec
	given  descriptors
	result chan started
	// gone is closed when nobody waits for the result any more.
	gone <-chan struct{}
}

// Prepare enters a profile, and reads those of programs that are executable
// files, so that their start waits neither for that nor for the disk. Paths are as
// the unit sees them; those that do not exist are left out.
//
// The caller calls Start or Close.
func Prepare(ctx context.Context, p Profile, programs ...string) (*Prepared, error) {
	if err := errors.Join(context.Cause(ctx), p.Check()); err != nil {
		return nil, err
	}
	r := begin(p, programs)
	var err error
	select {
	case <-r.entered:
		err = r.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("prepare: %w", err)
	}
	return r, nil
}

func begin(p Profile, programs []string) *Prepared {
	r := &Prepared{
		profile: p, attempts: make(chan attempt),
		entered: make(chan struct{}), closed: make(chan struct{}),
	}
	onSacrificedThread(func() { r.live(programs) })
	return r
}

// live is the life of the thread.
func (r *Prepared) live(programs []string) {
	if r.err = enter(r.profile); r.err == nil {
		for _, program := range programs {
			readAhead(program)
		}
	}
	close(r.entered)
	select {
	case a := <-r.attempts:
		s := started{err: fmt.Errorf("start %s: %w", a.exec.Argv[0], r.err)}
		if r.err == nil {
			s = launch(r.profile, a.exec, a.given)
		}
		a.given.close()
		select {
		case a.result <- s:
		case <-a.gone:
			s.discard()
		}
	case <-r.closed:
	}
}

// Start is the function Start for the profile that was prepared. It can be
// called once.
func (r *Prepared) Start(ctx context.Context, e Exec) (pid int, pidfd *os.File, err error) {
	defer r.Close()
	if err := errors.Join(context.Cause(ctx), e.check()); err != nil {
		return 0, nil, err
	}
	given, err := duplicate(e)
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", e.Argv[0], err)
	}
	a := attempt{exec: e, given: given, result: make(chan started), gone: ctx.Done()}
	select {
	case r.attempts <- a:
	case <-r.closed:
		given.close()
		return 0, nil, fmt.Errorf("start %s: %w", e.Argv[0], os.ErrClosed)
	case <-ctx.Done():
		given.close()
		return 0, nil, fmt.Errorf("start %s: %w", e.Argv[0], context.Cause(ctx))
	}
	select {
	case s := <-a.result:
		return s.pid, s.pidfd, s.err
	case <-ctx.Done():
		return 0, nil, fmt.Errorf("start %s: %w", e.Argv[0], context.Cause(ctx))
	}
}

// Close gives up what was prepared, unless a program was started in it.
func (r *Prepared) Close() { r.close.Do(func() { close(r.closed) }) }

// maxReadAhead bounds what is read of one program.
const maxReadAhead = 64 << 20

// readAhead brings a program into memory. Only a file that can be executed is
// read, and its content goes nowhere.
func readAhead(program string) {
	// Looked at before it is opened: a link may lead to a device that opening sets in motion.
	var stat unix.Stat_t
	if unix.Stat(program, &stat) != nil || !isProgram(&stat) {
		return
	}
	fd, err := unix.Open(program, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd) //nolint:errcheck // Only read.
	if unix.Fstat(fd, &stat) != nil || !isProgram(&stat) {
		return
	}
	buf := make([]byte, 256<<10)
	for rest := min(stat.Size, maxReadAhead); rest > 0; {
		n, err := unix.Read(fd, buf)
		if err != nil || n == 0 {
			return
		}
		rest -= int64(n)
	}
}

func isProgram(stat *unix.Stat_t) bool {
	return stat.Mode&unix.S_IFMT == unix.S_IFREG && stat.Mode&0o111 != 0
}
