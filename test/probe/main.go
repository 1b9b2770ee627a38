// Command probe is what the services of test snaps run: it does what its
// arguments say, one after another, and reports every step as a datagram to
// the socket $SNAP_COMMON/trace, where a test listens.
//
// What always holds: a step has happened when its report has been sent, so a
// test that waits for the report needs no other wait. A report is one line: the name that
// the probe was given, then what happened.
//
//	probe NAME STEP...
//
// As the executable of a hook it takes its steps from the file $SNAP/steps/HOOK, one a
// line, and its name is that of the hook.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// broken is the exit status of a probe that could not do a step.
const broken = 99

func main() {
	name, todo, err := task()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(broken)
	}
	p := &probe{name: name, signals: make(chan os.Signal, 16)}
	for _, step := range todo {
		if err := p.do(step); err != nil {
			p.fail(step, err)
		}
	}
}

// task is what this process is called, and what it is to do.
func task() (name string, steps []string, err error) {
	if len(os.Args) > 1 {
		return os.Args[1], os.Args[2:], nil
	}
	name = filepath.Base(os.Args[0])
	text, err := os.ReadFile(filepath.Join(os.Getenv("SNAP"), "steps", name)) //nolint:gosec // Of its own snap.
	return name, strings.Fields(string(text)), err
}

// probe is one process.
type probe struct {
	name    string
	signals chan os.Signal
	// ignored are the signals that run goes on after.
	ignored map[os.Signal]bool
	// listeners are what serve accepts at, serving the loops that do.
	listeners []net.Listener
	serving   sync.WaitGroup
	// renews is that SIGHUP makes it the program of the current revision.
	renews bool
}

// do does one step.
func (p *probe) do(step string) error {
	verb, argument, _ := strings.Cut(step, ":")
	do, ok := steps()[verb]
	if !ok {
		return errors.New("there is no such step")
	}
	return do(p, argument)
}

func (p *probe) fail(step string, err error) {
	p.report("failed %s: %v", step, err)
	fmt.Fprintln(os.Stderr, p.name, step, err)
	os.Exit(broken)
}

// report tells the test what has happened. Without a test nobody hears it.
func (p *probe) report(format string, args ...any) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: filepath.Join(common(), "trace"), Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // Written to once.
	_, _ = conn.Write([]byte(p.name + " " + fmt.Sprintf(format, args...)))
}

func common() string { return os.Getenv("SNAP_COMMON") }

// steps are what a probe can do.
func steps() map[string]func(*probe, string) error {
	return map[string]func(*probe, string) error{
		"report":   func(p *probe, text string) error { p.report("%s", text); return nil },
		"say":      func(_ *probe, text string) error { _, err := fmt.Println(text); return err },
		"env":      (*probe).env,
		"reason":   (*probe).reason,
		"trap":     (*probe).trap,
		"ignore":   (*probe).ignore,
		"child":    (*probe).child,
		"fork":     (*probe).fork,
		"notify":   (*probe).notify,
		"store":    (*probe).store,
		"passed":   (*probe).passed,
		"serve":    (*probe).serve,
		"converse": (*probe).converse,
		"own":      (*probe).own,
		"wait":     (*probe).wait,
		"alive":    (*probe).alive,
		"until":    (*probe).until,
		"count":    (*probe).count,
		"signal":   (*probe).signalMain,
		"bereave":  (*probe).killChildren,
		"die":      (*probe).die,
		"exit":     (*probe).exit,
		"lines":    (*probe).lines,
		"run":      (*probe).run,
		"obey":     (*probe).obey,
		"exec":     (*probe).exec,
		"renew":    (*probe).renew,
		"refuse":   (*probe).refuse,
		"join":     (*probe).join,
		"bomb":     (*probe).bomb,
		"flood":    (*probe).flood,
		"eat":      (*probe).eat,
		"forbid":   (*probe).forbid,
		"become":   (*probe).turnInto,
	}
}

// env reports the value of a variable.
func (p *probe) env(name string) error {
	p.report("env %s=%s", name, os.Getenv(name))
	return nil
}

// reason reports what the file with the reason says.
func (p *probe) reason(string) error {
	text, err := os.ReadFile(os.Getenv("SNAP_LIFECYCLE_REASON_FILE")) //nolint:gosec // The supervisor names it.
	p.report("reason %s", strings.TrimSpace(string(text)))
	return err
}

// trap makes every signal that a stop-mode can name heard by run.
func (p *probe) trap(string) error {
	signal.Notify(p.signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGINT)
	return nil
}

// ignore makes run hear a signal and go on.
func (p *probe) ignore(name string) error {
	if p.ignored == nil {
		p.ignored = map[os.Signal]bool{}
	}
	number := unix.SignalNum(name)
	p.ignored[number] = true
	signal.Notify(p.signals, number)
	return nil
}

// child starts a probe called NAME.child that hears all signals; "child:x" calls
// it NAME.x and, with "child:x/STEP/STEP", says what it does.
func (p *probe) child(argument string) error {
	name, rest, _ := strings.Cut(argument, "/")
	if name == "" {
		name = "child"
	}
	todo := []string{"trap", "report:up", "run"}
	if rest != "" {
		todo = strings.Split(rest, "/")
	}
	return p.start(p.name+"."+name, todo)
}

// start starts another probe in a session of its own. It is up when it closes the
// descriptor that it is given, with exec or by its end.
func (p *probe) start(name string, todo []string) error {
	cmd := exec.Command("/proc/self/exe", append([]string{name}, todo...)...) //nolint:noctx,gosec // It outlives this process.
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // Reaped, however it ends.
	return nil
}

// fork leaves the steps after it to a child, and ends with 0.
func (p *probe) fork(string) error {
	for i, step := range os.Args {
		if step == "fork" {
			if err := p.start(p.name, os.Args[i+1:]); err != nil {
				return err
			}
			os.Exit(0)
		}
	}
	return errors.New("no fork")
}

// notify sends words of sd_notify(3), "NAME:value" with "#" between them, since commands of
// snaps have no "="; "SELF" is the pid of this process.
func (p *probe) notify(words string) error {
	return notify(strings.NewReplacer(":", "=", "#", "\n", "SELF", strconv.Itoa(os.Getpid())).Replace(words), nil)
}

func notify(message string, rights []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	address := os.Getenv("NOTIFY_SOCKET")
	err = unix.Sendmsg(fd, []byte(message), rights, &unix.SockaddrUnix{Name: address}, 0)
	return errors.Join(err, unix.Close(fd))
}

// store has a file with the content "NAME of PID" kept under NAME.
func (p *probe) store(name string) error {
	fd, err := unix.MemfdCreate(name, 0)
	if err != nil {
		return err
	}
	if _, err := unix.Pwrite(fd, []byte(name+" of "+strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	return notify("FDSTORE=1\nFDNAME="+name, unix.UnixRights(fd))
}

// passed reports the names of the descriptors that were passed, and what is in those
// that are files.
func (p *probe) passed(string) error {
	fds, names, err := listenFDs()
	if err != nil {
		return err
	}
	said := make([]string, 0, len(fds))
	for i, fd := range fds {
		text := names[i]
		content := make([]byte, 256)
		if n, err := unix.Pread(fd, content, 0); err == nil {
			text += "=" + string(content[:n])
		}
		said = append(said, text)
	}
	p.report("passed %s", strings.Join(said, ","))
	return nil
}

// listenFDs is sd_listen_fds_with_names(3).
func listenFDs() (fds []int, names []string, err error) {
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if count == 0 {
		return nil, nil, nil
	}
	if pid := os.Getenv("LISTEN_PID"); pid != strconv.Itoa(os.Getpid()) {
		return nil, nil, fmt.Errorf("LISTEN_PID is %q", pid)
	}
	names = strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for n := range count {
		fds = append(fds, 3+n)
	}
	if len(names) != count {
		return nil, nil, fmt.Errorf("%d descriptors and the names %q", count, names)
	}
	return fds, names, nil
}

// serve answers every connection on the passed sockets with the socket's name, the revision and the pid.
func (p *probe) serve(string) error {
	return p.accept(func(conn net.Conn, name string) {
		_, _ = fmt.Fprintf(conn, "%s %s %d\n", name, os.Getenv("SNAP_REVISION"), os.Getpid())
		_ = conn.Close()
	})
}

// converse answers every line of every connection on the passed sockets as serve does, for
// as long as the client likes.
func (p *probe) converse(string) error {
	return p.accept(func(conn net.Conn, name string) {
		go func() {
			defer conn.Close() //nolint:errcheck // The client has gone.
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				_, _ = fmt.Fprintf(conn, "%s %s %d\n", name, os.Getenv("SNAP_REVISION"), os.Getpid())
			}
		}()
	})
}

// accept calls do with every connection on the passed sockets, and their names.
func (p *probe) accept(do func(conn net.Conn, name string)) error {
	fds, names, err := listenFDs()
	if err != nil {
		return err
	}
	for i, fd := range fds {
		listener, err := net.FileListener(os.NewFile(uintptr(fd), names[i])) //nolint:gosec // A small number.
		if err != nil {
			continue // It is no socket.
		}
		p.listeners = append(p.listeners, listener)
		p.serving.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				do(conn, names[i])
			}
		})
	}
	return nil
}

// quiesce ends serve: who connects from now on waits for the next process.
func (p *probe) quiesce() {
	for _, listener := range p.listeners {
		_ = listener.Close()
	}
	p.serving.Wait()
}

// own takes a name on the system bus.
func (p *probe) own(name string) error {
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return err
	}
	p.report("asks for %s", name)
	reply, err := conn.RequestName(name, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = fmt.Errorf("%s is another's", name)
	}
	return err
}

// wait lets a time pass.
func (p *probe) wait(duration string) error {
	d, err := time.ParseDuration(duration)
	<-time.After(d)
	return err
}

// until waits for a file in $SNAP_COMMON to be there, and is alive for the watchdog meanwhile.
func (p *probe) until(file string) error {
	for {
		if err := p.notify("WATCHDOG:1"); err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Join(common(), file)); !errors.Is(err, os.ErrNotExist) { //nolint:gosec // Below its own directory.
			return err
		}
		if err := p.wait("20ms"); err != nil {
			return err
		}
	}
}

// alive sends WATCHDOG=1 again and again, "N/EVERY" times.
func (p *probe) alive(argument string) error {
	count, every, _ := strings.Cut(argument, "/")
	n, err := strconv.Atoi(count)
	for range n {
		if err == nil {
			err = p.notify("WATCHDOG:1")
		}
		err = errors.Join(err, p.wait(every))
	}
	p.report("alive no more")
	return err
}

// count reports how many probes of this name have come here, and goes on with the
// steps after it only up to the number that it is given; later ones run.
func (p *probe) count(most string) error {
	limit, err := strconv.Atoi(most)
	if err != nil {
		return err
	}
	path := filepath.Join(common(), p.name+".count")
	text, _ := os.ReadFile(path) //nolint:gosec // Below its own directory.
	n, _ := strconv.Atoi(string(text))
	n++
	if err := os.WriteFile(path, []byte(strconv.Itoa(n)), 0o600); err != nil { //nolint:gosec // Below its own directory.
		return err
	}
	p.report("launch %d", n)
	if n > limit {
		if err := p.run(""); err != nil {
			return err
		}
		os.Exit(0)
	}
	return nil
}

// signalMain sends a signal to the process that $MAINPID names: what a command of a service does.
func (p *probe) signalMain(name string) error {
	pid, err := strconv.Atoi(os.Getenv("MAINPID"))
	if err != nil {
		return err
	}
	return syscall.Kill(pid, unix.SignalNum(name))
}

// killChildren kills the children of the process that $MAINPID names: what a careless stop
// command does.
func (p *probe) killChildren(string) error {
	// A child is listed with the thread that has started it (proc_pid_task(5)).
	lists, err := filepath.Glob(filepath.Join("/proc", os.Getenv("MAINPID"), "task/*/children"))
	for _, list := range lists {
		text, bad := os.ReadFile(list) //nolint:gosec // The supervisor names the process.
		err = errors.Join(err, bad)
		for field := range strings.FieldsSeq(string(text)) {
			pid, bad := strconv.Atoi(field)
			if bad == nil {
				bad = syscall.Kill(pid, syscall.SIGKILL)
			}
			err = errors.Join(err, bad)
		}
	}
	return err
}

// die ends by a signal.
func (p *probe) die(name string) error {
	signal.Reset()
	if err := syscall.Kill(os.Getpid(), unix.SignalNum(name)); err != nil {
		return err
	}
	select {}
}

// exit ends with a status.
func (p *probe) exit(code string) error {
	n, err := strconv.Atoi(code)
	if err == nil {
		os.Exit(n)
	}
	return err
}

// refuse ends with 1 if there is a file of this name in $SNAP_COMMON.
func (p *probe) refuse(name string) error {
	if _, err := os.Stat(filepath.Join(common(), name)); err == nil { //nolint:gosec // Below its own directory.
		os.Exit(1)
	}
	return nil
}

// lines writes numbered lines of the length of a log's usual ones: "FROM-TO".
func (p *probe) lines(span string) error {
	from, to, _ := strings.Cut(span, "-")
	first, err := strconv.Atoi(from)
	last, lastErr := strconv.Atoi(to)
	if err := errors.Join(err, lastErr); err != nil {
		return err
	}
	for n := first; n <= last; n++ {
		if _, err := fmt.Printf("line %d of a service that has something to say\n", n); err != nil {
			return err
		}
	}
	p.report("wrote %s", span)
	return nil
}

// obey does, from now on, the step that each connection to $SNAP_COMMON/NAME.ask names in
// a line, and answers "ok" or what is wrong.
func (p *probe) obey(string) error {
	path := filepath.Join(common(), p.name+".ask")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path) //nolint:noctx // For life.
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go p.answer(conn)
		}
	}()
	return nil
}

// answer does what one connection asks for.
func (p *probe) answer(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // The client has gone.
	step, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil {
		err = p.do(strings.TrimSuffix(step, "\n"))
	}
	answer := "ok"
	if err != nil {
		answer = err.Error()
	}
	_, _ = fmt.Fprintln(conn, answer)
}

// exec runs a command, in whose words variables are replaced, and waits for its end.
func (p *probe) exec(command string) error {
	words := strings.Fields(os.ExpandEnv(command))
	if len(words) == 0 {
		return errors.New("no command")
	}
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput() //nolint:noctx,gosec // A test's.
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// renew makes run become the program of the current revision at SIGHUP, as the same
// process.
func (p *probe) renew(string) error {
	p.renews = true
	signal.Notify(p.signals, syscall.SIGHUP)
	return nil
}

// become executes the program of the current revision with the same steps. It says that it
// reloads, so that it is not told again before it can hear.
func (p *probe) become() error {
	if os.Getenv("NOTIFY_SOCKET") != "" {
		if err := p.notify("RELOADING:1"); err != nil {
			return err
		}
	}
	current := filepath.Join("/snap", os.Getenv("SNAP_INSTANCE_NAME"), "current")
	revision, err := os.Readlink(current)
	if err != nil {
		return err
	}
	program := filepath.Join(current, "bin", filepath.Base(os.Args[0]))
	return syscall.Exec(program, os.Args, append(os.Environ(), "SNAP_REVISION="+revision)) //nolint:gosec // Of its own snap.
}

// run waits for the signals that it hears, reports each, and is done with the
// first that is not ignored, before whose report it stops serving.
func (p *probe) run(string) error {
	signal.Notify(p.signals, syscall.SIGWINCH) // Without any, Go takes the wait for a deadlock.
	for s := range p.signals {
		number, _ := s.(syscall.Signal)
		if p.renews && s == syscall.SIGHUP {
			return p.become()
		}
		if !p.ignored[s] {
			p.quiesce()
		}
		p.report("heard %s", unix.SignalName(number))
		if !p.ignored[s] {
			return nil
		}
	}
	return nil
}
