package entry

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"tenure/internal/sandbox"
)

// Enter makes the calling process, which is the helper, what q asks for. What the daemon
// has to say meanwhile goes to say. It returns only with an error.
//
// The daemon is found by where the helper itself is, never by what the caller says, and must
// have been started by root.
func Enter(q Question, say io.Writer) error {
	// What is given up, and entered, is a matter of threads.
	runtime.LockOSThread()
	if err := becomeCaller(); err != nil {
		return err
	}
	root, err := ownRoot()
	if err != nil {
		return err
	}
	daemon, err := dial(root)
	if err != nil {
		return err
	}
	if err := Send(daemon, q.Message()); err != nil {
		return err
	}
	for {
		m, err := Receive(daemon)
		if err != nil {
			return fmt.Errorf("tenured has not answered: %w", err)
		}
		switch m.Kind {
		case Say:
			fmt.Fprintln(say, plain(m.Words)) //nolint:errcheck // Nobody may be listening.
		case Home:
			if err := answerHome(daemon, m); err != nil {
				return err
			}
		case Become:
			return become(q, m)
		case Fail:
			return errors.New(plain(m.Words)) //nolint:err113 // The daemon's words.
		case Ask, Made:
			return fmt.Errorf("%w: %q", ErrProtocol, m.Kind)
		default:
			return fmt.Errorf("%w: %q", ErrProtocol, m.Kind)
		}
	}
}

// plain are words for people, without what commands a terminal: some may be a package's.
func plain(words []string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r != utf8.RuneError && strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.Join(words, " "))
}

// become makes the calling process what the daemon has answered. It returns only with an error.
func become(q Question, answer Message) error {
	p, err := ParseProgram(answer)
	if err == nil && q.Mode == Complete {
		err = detach()
	}
	if err != nil {
		return err
	}
	profile := sandbox.Profile{KeepCapabilities: p.KeepCapabilities, AllCapabilities: p.AllCapabilities, NoNewPrivs: p.NoNewPrivs}
	return sandbox.Join(answer.File, profile, sandbox.Exec{Argv: p.Argv, Env: p.Env})
}

// becomeCaller gives a helper that is set-uid the user of its caller, and lets it keep
// what it is permitted, which is not in effect then: as one is from the beginning that has
// capabilities of its own.
func becomeCaller() error {
	uid := os.Getuid()
	if os.Geteuid() == uid {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return fmt.Errorf("set user %d: %w", uid, errno)
	}
	return nil
}

// ownRoot is the root that the helper is installed in, by its own path as the kernel
// knows it. A directory that others could have made is none.
func ownRoot() (string, error) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	root, ok := strings.CutSuffix(self, "/"+HelperPath)
	if !ok {
		return "", fmt.Errorf("%s is not where tenured has installed it: %s below its root", self, HelperPath) //nolint:err113 // For people.
	}
	var dir unix.Stat_t
	if err := unix.Lstat(filepath.Dir(self), &dir); err != nil {
		return "", fmt.Errorf("look at %s: %w", filepath.Dir(self), err)
	}
	if dir.Uid != 0 || dir.Mode&0o022 != 0 {
		return "", fmt.Errorf("%s is not root's alone", filepath.Dir(self)) //nolint:err113 // For people.
	}
	return root + "/", nil
}

const (
	// patience is how long a daemon may be away that is being replaced.
	patience = 10 * time.Second
	knock    = 50 * time.Millisecond
)

// dial connects to the daemon of a root, and waits a little for one that is away.
func dial(root string) (stream, error) {
	for begun := time.Now(); ; <-time.After(knock) {
		conn, err := dialOnce(root)
		if err == nil {
			return conn, nil
		}
		away := errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
		if !away || time.Since(begun) > patience {
			return -1, fmt.Errorf("cannot reach tenured at %s: %w", filepath.Join(root, SocketPath), err)
		}
	}
}

func dialOnce(root string) (stream, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	conn := stream(fd)
	err = conn.connect(filepath.Join(root, SocketPath))
	if err == nil {
		err = conn.checkDaemon()
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return conn, nil
}

// maxSunPath is the longest path that a socket address has room for (unix(7)).
const maxSunPath = 107

// connect connects to a socket whose path may be longer than an address: from its
// directory, then.
func (s stream) connect(path string) error {
	if len(path) <= maxSunPath {
		return unix.Connect(int(s), &unix.SockaddrUnix{Name: path})
	}
	here, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(here) //nolint:errcheck // Only gone back to.
	if err := unix.Chdir(filepath.Dir(path)); err != nil {
		return err
	}
	return errors.Join(unix.Connect(int(s), &unix.SockaddrUnix{Name: filepath.Base(path)}), unix.Fchdir(here))
}

// checkDaemon refuses whoever is not root: the kernel says who has begun to listen.
func (s stream) checkDaemon() error {
	cred, err := unix.GetsockoptUcred(int(s), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("see who listens: %w", err)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("it is of user %d and not of root", cred.Uid) //nolint:err113 // For people.
	}
	return nil
}

// stream is the helper's end: a descriptor, for the network package is large.
type stream int

func (s stream) Read(b []byte) (int, error) {
	n, _, err := s.ReadWith(b, nil)
	if err == nil && n == 0 && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// ReadWith implements Channel.
func (s stream) ReadWith(b, oob []byte) (n, oobn int, err error) {
	for {
		n, oobn, _, _, err = unix.Recvmsg(int(s), b, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), oobn, err
		}
	}
}

// WriteWith implements Channel.
func (s stream) WriteWith(b, oob []byte) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(int(s), b, oob, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, oob = b[n:], nil
	}
	return nil
}
