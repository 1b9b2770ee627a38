package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/relay"
)

// handedEnv is the variable in which a daemon tells the program that comes in its place, in the
// same process, what it leaves to it.
const handedEnv = "TENURE_HANDED"

// estate is what one program leaves to the next one, in JSON. The next one may be of any other
// release: what is here keeps its meaning, and what is not known is passed over.
type estate struct {
	// Sockets are descriptors that listen, by the names of the doors.
	Sockets map[string]int `json:"sockets,omitempty"`
	// Kept is the descriptor of a file with a list of connections, in JSON.
	Kept int `json:"kept,omitempty"`
	// Lock is the descriptor of the lock of the root, which is held.
	Lock int `json:"lock,omitempty"`
	// Previous is the descriptor of the program before, and PreviousPath where that was; it
	// comes back if this one does not get ready in Patience. It knows the schema Schema.
	Previous     int           `json:"previous,omitempty"`
	PreviousPath string        `json:"previous-path,omitempty"`
	Patience     time.Duration `json:"patience,omitempty"`
	Schema       uint64        `json:"schema,omitempty"`
	// Guard is the descriptor of a line to the guard of this program, which is the child GuardPID; in the guard
	// itself it leads to the process Guarded.
	Guard    int            `json:"guard,omitempty"`
	GuardPID int            `json:"guard-pid,omitempty"`
	Guarded  tenure.Process `json:"guarded,omitzero"`
	// Failure is why this one comes back.
	Failure string `json:"failure,omitempty"`
}

// Handed is what the program before has left in this process. Its zero value is nothing.
type Handed struct {
	// Listeners are the sockets that it listened at.
	Listeners map[string]*net.UnixListener

	estate

	is       bool
	sockets  map[string]*os.File
	kept     []relay.Passed
	previous *program
	lock     *os.File
	guard    *guard
}

// keptConn is a connection in the list of those that are passed.
type keptConn struct {
	relay.Passed

	FD int `json:"fd"`
}

// Inherit takes what the program before has left in this process, of which getenv reads the environment. A
// process in which none was inherits nothing.
func Inherit(getenv func(string) string) (Handed, error) {
	text := getenv(handedEnv)
	if text == "" {
		return Handed{}, nil
	}
	if err := os.Unsetenv(handedEnv); err != nil {
		return Handed{}, fmt.Errorf("inherit from the program before: %w", err)
	}
	h := Handed{is: true, Listeners: map[string]*net.UnixListener{}, sockets: map[string]*os.File{}}
	if err := json.Unmarshal([]byte(text), &h.estate); err != nil {
		return Handed{}, fmt.Errorf("inherit from the program before: %w", err)
	}
	var errs []error
	for name, fd := range h.Sockets {
		file := adopted(fd, name)
		h.sockets[name] = file
		listener, err := net.FileListener(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("inherit socket %s: %w", name, err))
			continue
		}
		if unixListener, is := listener.(*net.UnixListener); is {
			unixListener.SetUnlinkOnClose(false)
			h.Listeners[name] = unixListener
		}
	}
	if h.Kept > 0 {
		var err error
		h.kept, err = readKept(adopted(h.Kept, "connections"))
		errs = append(errs, err)
	}
	if h.Lock > 0 {
		h.lock = adopted(h.Lock, "lock")
	}
	if h.Previous > 0 {
		h.previous = &program{file: adopted(h.Previous, h.PreviousPath), path: h.PreviousPath}
	}
	if h.Guard > 0 {
		h.guard = &guard{line: adopted(h.Guard, "guard"), pid: h.GuardPID}
	}
	// The name of a process that was executed by a descriptor is a number.
	_ = os.WriteFile("/proc/self/comm", []byte("tenured"), 0) // It is only for people.
	return h, errors.Join(errs...)
}

// readKept reads the list of connections that were passed, and takes them.
func readKept(list *os.File) (kept []relay.Passed, err error) {
	defer list.Close() //nolint:errcheck // Only read.
	if _, err := list.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("inherit connections: %w", err)
	}
	var conns []keptConn
	if err := json.NewDecoder(list).Decode(&conns); err != nil {
		return nil, fmt.Errorf("inherit connections: %w", err)
	}
	for i := range conns {
		conns[i].File = adopted(conns[i].FD, conns[i].Door)
		kept = append(kept, conns[i].Passed)
	}
	return kept, nil
}

// writeKept writes the list of connections that are passed, of which pass gives the descriptors, into a file that has no name.
func writeKept(kept []relay.Passed, pass func(*os.File) (int, error)) (*os.File, error) {
	conns := make([]keptConn, len(kept))
	for i := range kept {
		fd, err := pass(kept[i].File)
		if err != nil {
			return nil, err
		}
		conns[i] = keptConn{kept[i], fd}
	}
	list, err := os.CreateTemp("", "tenured-*")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Remove(list.Name()), json.NewEncoder(list).Encode(conns)); err != nil {
		return nil, errors.Join(err, list.Close())
	}
	return list, nil
}

// left are the connections that the program before has left of some doors.
func (h *Handed) left(doors ...string) (left []relay.Passed) {
	for _, conn := range h.kept {
		if slices.Contains(doors, conn.Door) {
			left = append(left, conn)
		}
	}
	return left
}

// adopted is a descriptor that was passed to this process. It is passed to nobody else.
func adopted(fd int, name string) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name) //nolint:gosec // A descriptor.
}

// forget gives up what is only for the way back.
func (h *Handed) forget() {
	for _, file := range h.sockets {
		_ = file.Close() // There is nothing in it.
	}
	h.sockets = nil
	for _, conn := range h.kept {
		if !slices.Contains(doorNames(), conn.Door) {
			_ = conn.File.Close() // Nobody here answers there.
		}
	}
	if h.previous != nil {
		h.previous.close()
		h.previous = nil
	}
}

// belongings are the open files that one program leaves to the next one.
type belongings struct {
	sockets map[string]*os.File
	kept    []relay.Passed
	// lock, previous and guard may be nil.
	lock     *os.File
	previous *program
	guard    *guard
}

// become executes a program in place of this one, in the same process. It returns only if
// that cannot be done.
func become(next *program, args []string, e estate, of belongings) error {
	var passed []int
	defer func() {
		for _, fd := range passed {
			_ = syscall.Close(fd) // It was not passed.
		}
	}()
	// Nothing is started from here on: it would inherit what is passed.
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	pass := func(file *os.File) (int, error) {
		fd, err := syscall.Dup(descriptorOf(file))
		passed = append(passed, fd)
		return fd, err
	}
	entered, err := e.enter(of, pass)
	defer entered()
	if of.lock != nil {
		// It is lost where any descriptor of it is closed.
		e.Lock = descriptorOf(of.lock)
		err = errors.Join(err, closeOnExec(e.Lock, false))
		defer closeOnExec(e.Lock, true) //nolint:errcheck // It was possible before.
	}
	env, environErr := e.environ()
	if err := errors.Join(err, environErr); err != nil {
		return fmt.Errorf("become %s: %w", next.path, err)
	}
	err = syscall.Exec(next.executable(), append([]string{next.path}, args...), env) //nolint:gosec // It was checked.
	return fmt.Errorf("become %s: %w", next.path, err)
}

// enter notes the numbers that what is left, but for the lock, has in the next program, which are those that pass says. What is
// returned is to be called when all was passed.
func (e *estate) enter(of belongings, pass func(*os.File) (int, error)) (done func(), err error) {
	e.Sockets, done = map[string]int{}, func() {}
	var errs []error
	for name, file := range of.sockets {
		fd, err := pass(file)
		errs, e.Sockets[name] = append(errs, err), fd
	}
	if len(of.kept) > 0 {
		// Where there is no room for them they end; the daemon does not.
		if list, err := writeKept(of.kept, pass); err == nil {
			done = func() { _ = list.Close() } // It is gone, or of no use.
			if e.Kept, err = pass(list); err != nil {
				e.Kept = 0
			}
		}
	}
	if of.previous != nil {
		fd, err := pass(of.previous.file)
		errs, e.Previous, e.PreviousPath = append(errs, err), fd, of.previous.path
	}
	if of.guard != nil {
		fd, err := pass(of.guard.line)
		errs, e.Guard, e.GuardPID = append(errs, err), fd, of.guard.pid
	}
	return done, errors.Join(errs...)
}

// environ is the environment of the next program.
func (e *estate) environ() ([]string, error) {
	text, err := json.Marshal(e)
	return append(without(os.Environ(), handedEnv), handedEnv+"="+string(text)), err
}

// closeOnExec says whether a descriptor is closed when this process becomes another program.
func closeOnExec(fd int, closed bool) error {
	flags := uintptr(0)
	if closed {
		flags = syscall.FD_CLOEXEC
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETFD, flags); errno != 0 { //nolint:gosec // A descriptor.
		return fmt.Errorf("pass descriptor %d on: %w", fd, errno)
	}
	return nil
}

// without are the variables in env but for those named.
func without(env []string, names ...string) []string {
	var kept []string
	for _, variable := range env {
		name, _, _ := strings.Cut(variable, "=")
		left := true
		for _, n := range names {
			left = left && name != n
		}
		if left {
			kept = append(kept, variable)
		}
	}
	return kept
}
