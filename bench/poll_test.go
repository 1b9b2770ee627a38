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

// pollInterval is the pause between two questions.
const pollInterval = 200 * time.Microsecond

// handover is the moment at which another process began to answer.
type handover struct {
	to hello.Answer
	// last is when the process before answered for the last time, first when
	// the new one answered for the first time.
	last, first time.Time
}

func (h handover) gap() time.Duration { return h.first.Sub(h.last) }

// poller asks a socket all the time who answers there.
type poller struct {
	path string
	stop chan struct{}
	// seen has the first process too, with a gap without meaning.
	seen chan handover
}

// poll asks until the benchmark ends. It has a thread and system calls of its
// own: the runtime's timers have a resolution of a millisecond when idle.
func poll(b *testing.B, path string) *poller {
	b.Helper()
	p := &poller{path: path, stop: make(chan struct{}), seen: make(chan handover, 8)}
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
	var current hello.Answer
	last := time.Now()
	for {
		select {
		case <-p.stop:
			return
		default:
		}
		answer, err := ask(p.path)
		if now := time.Now(); err == nil {
			if answer.PID != current.PID {
				p.seen <- handover{to: answer, last: last, first: now}
			}
			current, last = answer, now
		}
		pause := unix.NsecToTimespec(int64(pollInterval))
		_ = unix.Nanosleep(&pause, nil) // Woken early it asks early.
	}
}

// next waits until another process answers.
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
