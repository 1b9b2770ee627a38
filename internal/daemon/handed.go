package daemon

import (
	"context"
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
	"tenure/internal/proc"
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
	// Guard is the descriptor of a line to the guard of this program, which is the process Guarding, of pid GuardPID; in the guard
	// itself it leads to the process Guarded.
	Guard    int            `json:"guard,omitempty"`
	GuardPID int            `json:"guard-pid,omitempty"`
	Guarding tenure.Process `json:"guarding,omitzero"`
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
		var err error
		h.guard, err = h.inheritGuard(adopted(h.Guard, "guard"))
		errs = append(errs, err)
	}
	// The name of a process that was executed by a descriptor is a number.
	_ = os.WriteFile("/proc/self/comm", []byte("tenured"), 0) // It is only for people.
	return h, errors.Join(append(errs, fault(context.Background(), "inherit"))...)
}

// inheritGuard is the guard of this program, or this program as one.
func (h *Handed) inheritGuard(line *os.File) (*guard, error) {
	switch none := (tenure.Process{}); {
	case h.Guarded != none:
		return &guard{line: line}, nil
	case h.Guarding != none:
		return newGuard(line, h.Guarding), nil
	}
	// Of an older release: a child, which was not waited for, and says nothing at its end.
	g := &guard{line: line, said: true, over: make(chan struct{})}
	close(g.over)
	info, err := proc.Read(h.GuardPID)
	g.process = info.Process
	return g, err
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

// passage is the way of open files into the next program.
type passage interface {
	// pass says which number a file has there.
	pass(file *os.File) (int, error)
	// passed is how many there are, and keep gives up all but the first n.
	passed() int
	keep(n int)
}

// duplicates are descriptors that are open in the next program in the same process.
type duplicates []int

func (d *duplicates) pass(file *os.File) (int, error) {
	fd, err := syscall.Dup(descriptorOf(file))
	if err == nil {
		*d = append(*d, fd)
	}
	return fd, err
}

func (d *duplicates) passed() int { return len(*d) }

func (d *duplicates) keep(n int) {
	for _, fd := range (*d)[n:] {
		_ = syscall.Close(fd) // It is not passed.
	}
	*d = (*d)[:n]
}

// writeKept passes connections, and the list of them, which is in memory: nobody else can take the room for it. It passes all of them, and
// says the number of the list, or none. What is returned besides is to be called when all was passed.
func writeKept(kept []relay.Passed, way passage) (number int, done func(), err error) {
	before := way.passed()
	list, err := proc.Memory("connections")
	if err != nil {
		return 0, func() {}, err
	}
	done = func() { _ = list.Close() } // Memory.
	conns := make([]keptConn, len(kept))
	for i := 0; i < len(kept) && err == nil; i++ {
		conns[i].Passed = kept[i]
		conns[i].FD, err = way.pass(kept[i].File)
	}
	if err == nil {
		err = json.NewEncoder(list).Encode(conns)
	}
	if err == nil {
		number, err = way.pass(list)
	}
	if err != nil {
		// One that nobody knows of would stay open for good, and who is at its other end would wait.
		way.keep(before)
		return 0, done, err
	}
	return number, done, nil
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

// forget gives up what is only for the way back. Whoever serves has taken the connections.
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
	clear(h.kept) // There are copies of the list, but not of what is in it.
	h.kept = nil
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
// that cannot be done, or ctx has ended: who is told to end is to end, and the next program would not know. Who is told so after the last look ends
// at once.
func (p *parts) become(ctx context.Context, next *program, e estate, of belongings) error {
	var way duplicates
	defer way.keep(0)
	// Nothing is started from here on: it would inherit what is passed.
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	entered, err := e.enter(of, &way)
	defer entered()
	if of.lock != nil {
		// It is lost where any descriptor of it is closed.
		e.Lock = descriptorOf(of.lock)
		err = errors.Join(err, closeOnExec(e.Lock, false))
		defer closeOnExec(e.Lock, true) //nolint:errcheck // It was possible before.
	}
	env, environErr := e.environ()
	defer p.cfg.Told.deafen()()
	if err := errors.Join(err, environErr, ctx.Err()); err != nil {
		return fmt.Errorf("become %s: %w", next.path, err)
	}
	if err = fault(ctx, "become"); err == nil {
		err = syscall.Exec(next.executable(), append([]string{next.path}, p.cfg.Args...), env) //nolint:gosec // It was checked.
	}
	return fmt.Errorf("become %s: %w", next.path, err)
}

// enter notes the numbers that what is left, but for the lock, has in the next program, which are those that way says. What is
// returned is to be called when all was passed.
func (e *estate) enter(of belongings, way passage) (done func(), err error) {
	e.Sockets, done = map[string]int{}, func() {}
	var errs []error
	for name, file := range of.sockets {
		fd, err := way.pass(file)
		errs, e.Sockets[name] = append(errs, err), fd
	}
	if len(of.kept) > 0 {
		// Where there is no room for them they end; the daemon does not.
		e.Kept, done, _ = writeKept(of.kept, way)
	}
	if of.previous != nil {
		fd, err := way.pass(of.previous.file)
		errs, e.Previous, e.PreviousPath = append(errs, err), fd, of.previous.path
	}
	if of.guard != nil {
		fd, err := way.pass(of.guard.line)
		errs, e.Guard, e.GuardPID, e.Guarding = append(errs, err), fd, of.guard.process.PID, of.guard.process
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
