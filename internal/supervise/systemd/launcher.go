package systemd

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tenure/internal/sandbox"
	"tenure/internal/supervise"
)

// Main is what Config.Program runs: it takes the arguments that follow the configured ones. The
// program exits with the ExitStatus of the error.
//
//	launch SOCKET [STATE] SPEC   become the unit that SPEC is of
//	stop SOCKET SPEC     have the unit ended; ErrNobody where there is no supervisor
//	reload SOCKET SPEC   have the unit reload
//	connect, strike SOCKET ALIAS STATE   have a service started that somebody has connected to, or whose time has come
//	place FROM TO        link a socket file
func Main(args []string) error {
	switch {
	case len(args) == 4 && (args[0] == verbConnect || args[0] == verbStrike):
		return tell(args[0], args[1], args[2], args[3])
	case len(args) == 3 && args[0] == verbPlace:
		return placeSocket(args[1], args[2])
	case len(args) == 4 && args[0] == verbLaunch:
		return become(args[1], args[2], args[3], UnitOf(args))
	case len(args) != 3:
		return errors.New("this command is for systemd's own use")
	}
	verb, socket, path, unit := args[0], args[1], args[2], UnitOf(args)
	switch verb {
	case verbLaunch:
		return become(socket, "", path, unit)
	case verbStop:
		return askStop(socket, unit)
	case verbReload:
		return askReload(socket, path, unit)
	}
	return fmt.Errorf("there is no command %q", verb)
}

// ExitStatus is how a program ends whose Main has failed.
func ExitStatus(err error) int {
	if errors.Is(err, errAbandoned) {
		return abandoned
	}
	return 1
}

// UnitOf is systemd's name of the unit that arguments of Main are of.
func UnitOf(args []string) string {
	return strings.TrimSuffix(filepath.Base(args[len(args)-1]), specSuffix)
}

// become becomes the program of a unit.
func become(socket, state, path, unit string) error {
	conn, err := ask(socket, question{Verb: verbLaunch, Unit: unit})
	if err != nil {
		return becomeUnheld(state, path, unit)
	}
	o, fds, err := conn.answer()
	if hasGone(err) {
		// The supervisor died before it said anything.
		_ = unix.Close(int(conn))
		return becomeUnheld(state, path, unit)
	}
	if err == nil && o.Error != "" {
		return errors.New(o.Error)
	}
	if err == nil && o.Lives {
		return nil
	}
	if err == nil {
		conn, err = obey(conn, o, fds)
	}
	if errors.Is(err, errAbandoned) {
		return err
	}
	_, writeErr := unix.Write(int(conn), []byte(err.Error()))
	return errors.Join(err, writeErr)
}

// obey becomes what it is ordered to, at once or on the next order. It returns the
// connection, which may have moved, with the error.
func obey(conn connection, o order, fds []int) (connection, error) {
	wait, err := o.Wait, error(nil)
	if wait {
		err = relay(os.Getpid(), longer)
	}
	if err != nil {
		return conn, err
	}
	in, err := sandbox.EnterAhead(o.Profile, o.Ahead...)
	if err != nil {
		return conn, err
	}
	if wait {
		if o, fds, err = conn.await(); err != nil {
			return conn, err
		}
	}
	if fds, err = withGiven(fds, o); err != nil {
		return conn, err
	}
	if conn, err = arrange(fds, conn); err != nil {
		return conn, err
	}
	return conn, in.Become(execOf(o.Command, append(slices.Clip(o.Command.Env), listening(o.Names)...)))
}

// errAbandoned is that what was started ahead is not to become anything.
var errAbandoned = errors.New("what this was to become is not started")

// await says that the process is ready to become something, and waits to be told what.
func (c connection) await() (o order, fds []int, err error) {
	if err := writeAll(int(c), []byte{isReady}); err != nil {
		return o, nil, errAbandoned
	}
	o, fds, err = c.answer()
	if hasGone(err) {
		err = errAbandoned
	}
	return o, fds, err
}

// hasGone reports whether a supervisor is gone by how a connection to it failed. With one that has not read
// all that it was told it ends as if it had been broken off.
func hasGone(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) }

func enter(profile sandbox.Profile, command supervise.Command, env []string) error {
	return sandbox.Enter(profile, execOf(command, env))
}

func execOf(command supervise.Command, env []string) sandbox.Exec {
	dir := command.Dir
	if dir == "" {
		dir = "/"
	}
	unix.Umask(0o022)
	return sandbox.Exec{Argv: command.Argv, Env: env, Dir: dir}
}

// connection is a socket that the runtime knows nothing of.
type connection int

// ask asks the supervisor.
func ask(socket string, q question) (connection, error) {
	text, err := json.Marshal(q)
	if err != nil {
		return -1, fmt.Errorf("encode question: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("ask the supervisor: %w", err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
	if err == nil {
		err = writeAll(fd, append(text, '\n'))
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("ask the supervisor: %w", err), unix.Close(fd))
	}
	return connection(fd), nil
}

func writeAll(fd int, text []byte) error {
	for len(text) > 0 {
		n, err := unix.Write(fd, text)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		text = text[max(0, n):]
	}
	return nil
}

// maxPassed is how many descriptors can be passed (SCM_MAX_FD).
const maxPassed = 253

// answer reads what the supervisor says, and the descriptors that come with it.
func (c connection) answer() (o order, fds []int, err error) {
	head := make([]byte, 4)
	control := make([]byte, unix.CmsgSpace(4*maxPassed))
	n, controlSize, err := c.receive(head, control)
	if err != nil {
		return o, nil, err
	}
	messages, _ := unix.ParseSocketControlMessage(control[:controlSize])
	for i := range messages {
		if passed, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, passed...)
		}
	}
	if err := c.fill(head[n:]); err != nil {
		return o, nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxOrder {
		return o, nil, fmt.Errorf("an answer of %d bytes: %w", size, os.ErrInvalid)
	}
	text := make([]byte, size)
	if err := c.fill(text); err != nil {
		return o, nil, err
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return o, nil, fmt.Errorf("understand the supervisor: %w", err)
	}
	return o, fds, nil
}

func (c connection) receive(head, control []byte) (n, controlSize int, err error) {
	for {
		n, controlSize, _, _, err = unix.Recvmsg(int(c), head, control, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		return n, controlSize, err
	}
}

func (c connection) fill(buf []byte) error {
	for len(buf) > 0 {
		n, err := unix.Read(int(c), buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return err
		}
		buf = buf[n:]
	}
	return nil
}

// firstPassed is the number of the first descriptor that is passed.
const firstPassed = 3

// arrange gives descriptors the numbers from 3 on, and the connection one above. It does so for the
// calling thread alone, which is the one that becomes the program: what the runtime has there, for the
// other threads, stays.
func arrange(fds []int, conn connection) (connection, error) {
	if len(fds) == 0 {
		return conn, nil
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return conn, fmt.Errorf("pass descriptors: %w", err)
	}
	// Above all of them first, so that none is in another's place.
	own := append(slices.Clone(fds), int(conn))
	above := make([]int, len(own))
	for i, fd := range own {
		moved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstPassed+len(fds)) //nolint:gosec // An open descriptor.
		if err != nil {
			return conn, fmt.Errorf("pass descriptor: %w", err)
		}
		above[i] = moved
	}
	conn = connection(above[len(fds)])
	for i, fd := range above[:len(fds)] {
		if err := unix.Dup3(fd, firstPassed+i, 0); err != nil {
			return conn, fmt.Errorf("pass descriptor %d: %w", firstPassed+i, err)
		}
	}
	return conn, nil
}
