package bench

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure/examples/clients/hello"
	"tenure/test/rig"
)

// The pause between two questions: where a single service is asked, and where several are side by side, which are not to take
// the processors from each other.
const (
	oneEvery  = 200 * time.Microsecond
	manyEvery = time.Millisecond
)

// handover is the moment at which another process began to answer.
type handover struct {
	to hello.Answer
	// last is when the process before answered for the last time, first when
	// the new one answered for the first time.
	last, first time.Time
}

func (h handover) gap() time.Duration { return h.first.Sub(h.last) }

// poller asks a socket who answers there, while it is asked to: what it costs itself and who answers, a third of a
// processor, is to disturb nothing else that is measured.
type poller struct {
	path  string
	every time.Duration
	// begun has it ask, until another process answers; answers is that the one before did.
	begun, answers, stop chan struct{}
	// seen is who was the other one.
	seen chan handover
}

// poll makes a poller, which lives as long as the benchmark. It has a thread and system calls of its
// own: the runtime's timers have a resolution of a millisecond when idle.
func poll(b *testing.B, path string, every time.Duration) *poller {
	b.Helper()
	p := &poller{
		path: path, every: every, begun: make(chan struct{}, 1), answers: make(chan struct{}, 1),
		stop: make(chan struct{}), seen: make(chan handover, 1),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		p.run()
	}()
	b.Cleanup(func() {
		close(p.stop)
		<-done
	})
	return p
}

func (p *poller) run() {
	for {
		select {
		case <-p.stop:
			return
		case <-p.begun:
		}
		before, last, ok := p.answer(0)
		if !ok {
			return
		}
		p.answers <- struct{}{}
		for other := before; other.PID == before.PID; {
			h := handover{last: last}
			if other, last, ok = p.answer(p.every); !ok {
				return
			}
			if h.to, h.first = other, last; other.PID != before.PID {
				p.seen <- h
			}
		}
	}
}

// answer asks after a pause until somebody answers; false is that the benchmark has ended.
func (p *poller) answer(pause time.Duration) (answer hello.Answer, at time.Time, ok bool) {
	for ; ; pause = p.every {
		wait := unix.NsecToTimespec(int64(pause))
		_ = unix.Nanosleep(&wait, nil) // Woken early it asks early.
		select {
		case <-p.stop:
			return answer, at, false
		default:
		}
		answer, err := ask(p.path)
		if at = time.Now(); err == nil {
			return answer, at, true
		}
	}
}

// begin has it ask from now on. The process that is to be replaced has answered when it returns.
func (p *poller) begin(b *testing.B) {
	b.Helper()
	p.begun <- struct{}{}
	select {
	case <-p.answers:
	case <-time.After(rig.Patience):
		b.Fatalf("nobody answers at %s within %s", p.path, rig.Patience)
	}
}

// next waits until another process answers. Then it asks no more.
func (p *poller) next(b *testing.B) handover {
	b.Helper()
	select {
	case h := <-p.seen:
		return h
	case <-time.After(rig.Patience):
		b.Fatalf("nobody new answers at %s within %s", p.path, rig.Patience)
		return handover{}
	}
}

// ask is one question, in as few system calls as there can be.
func ask(path string) (hello.Answer, error) {
	var answer hello.Answer
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return answer, err
	}
	defer unix.Close(fd) //nolint:errcheck // Nothing was written to it.
	patience := unix.NsecToTimeval(int64(time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return answer, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return answer, err
	}
	line := make([]byte, 256)
	n, err := unix.Read(fd, line)
	if err != nil {
		return answer, err
	}
	_, err = fmt.Sscanf(string(line[:n]), "%s %s %d\n", &answer.Revision, &answer.Version, &answer.PID)
	return answer, err
}
