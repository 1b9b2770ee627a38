package supervisetest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// RunProgram carries out the program in the arguments of this process (all of
// them, the name included), if there is one. TestMain calls it first.
func RunProgram(args []string) (code int, ran bool) {
	p, ok := ParseProgram(args)
	if !ok {
		return 0, false
	}
	code, err := p.run(args[0])
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "program", p.Name+":", err)
	}
	return code, true
}

// broken is the exit status of a program that could not do what it was told.
const broken = 99

func (p Program) run(exe string) (int, error) {
	if p.Daemonize {
		p.Daemonize = false
		if _, told := os.LookupEnv(begunMark); told {
			syscall.CloseOnExec(begunFD)
		}
		_, err := spawnProgram(exe, p)
		return 0, err
	}
	signals := make(chan os.Signal, 8)
	p.hear(signals)
	_, told := os.LookupEnv(begunMark)
	if told {
		syscall.CloseOnExec(begunFD)
	}
	child, err := p.begin(exe)
	if told {
		err = errors.Join(err, syscall.Close(begunFD))
	}
	if err != nil {
		return broken, err
	}
	return p.live(signals, child)
}

// live goes on until something ends the program, of which the last child is given.
func (p Program) live(signals <-chan os.Signal, child int) (int, error) {
	var done, term, alive <-chan time.Time
	if p.Exits {
		done = time.After(p.RunFor)
	}
	if p.Alive > 0 {
		alive = time.Tick(p.Every)
	}
	awake := time.Tick(time.Hour)
	for {
		var err error
		select {
		case <-awake: // Without cgo the runtime ends a program that waits for nothing as a deadlock.
		case <-done:
			return p.end()
		case <-term:
			return p.TermCode, nil
		case <-alive:
			if p.Alive--; p.Alive == 0 {
				alive = nil
			}
			err = notify("WATCHDOG=1")
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				err = notify("STATUS=" + p.Reload)
			case !p.IgnoreTerm:
				term = time.After(p.TermAfter)
				err = sayAll(child, p.TermSay)
			}
		}
		if err != nil {
			return broken, err
		}
	}
}

// end ends the program by itself. By which signal it ends is up to a shell, for Go
// does not let it end by all.
func (p Program) end() (int, error) {
	if p.Die == "" {
		return p.Code, nil
	}
	script := "kill -" + strings.TrimPrefix(p.Die, "SIG") + " $$"
	return broken, syscall.Exec("/bin/sh", []string{"sh", "-c", script}, os.Environ())
}

// sayAll says words of sd_notify(3), one datagram after another.
func sayAll(child int, all ...string) error {
	for _, words := range all {
		if words == "" {
			continue
		}
		if err := notify(strings.ReplaceAll(words, childWord, strconv.Itoa(child))); err != nil {
			return err
		}
	}
	return nil
}

func (p Program) hear(signals chan os.Signal) {
	if p.IgnoreTerm || p.gentle() {
		signal.Notify(signals, syscall.SIGTERM)
	}
	if p.Reload != "" {
		signal.Notify(signals, syscall.SIGHUP)
	}
}

// begin does all that comes before the program is ready.
func (p Program) begin(exe string) (child int, err error) { //nolint:gocognit // The behaviours of a program, one after another.
	for _, line := range p.Print {
		if _, err := fmt.Fprintln(os.Stdout, line); err != nil {
			return child, err
		}
	}
	for _, name := range p.Env {
		value, _ := os.LookupEnv(name)
		if _, err := fmt.Fprintln(os.Stdout, name+"="+value); err != nil {
			return child, err
		}
	}
	if p.Kill != "" {
		value, _ := os.LookupEnv(p.Kill)
		pid, err := strconv.Atoi(value)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p.Kill, err)
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return child, err
		}
	}
	for _, c := range p.Children {
		pid, err := spawnProgram(exe, c)
		if err != nil {
			return child, err
		}
		child = pid
	}
	if p.Passed {
		names, _ := os.LookupEnv("LISTEN_FDNAMES")
		if err := notify("STATUS=" + passedText(names)); err != nil {
			return child, err
		}
	}
	for _, name := range p.Store {
		if err := storeFile(name); err != nil {
			return child, err
		}
	}
	if p.Serve {
		if err := serve(); err != nil {
			return child, err
		}
	}
	if !p.Notify {
		return child, nil
	}
	if p.Status != "" {
		if err := notify("STATUS=" + p.Status); err != nil {
			return child, err
		}
	}
	if err := sayAll(child, p.Say...); err != nil {
		return child, err
	}
	<-time.After(p.ReadyAfter)
	return child, sayAll(child, append([]string{"READY=1"}, p.Add...)...)
}

// storeFile has the supervisor keep a descriptor.
func storeFile(name string) error {
	address, _ := os.LookupEnv("NOTIFY_SOCKET")
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err == nil {
		rights := syscall.UnixRights(int(null.Fd())) //nolint:gosec // A small number.
		err = syscall.Sendmsg(socket, []byte("FDSTORE=1\nFDNAME="+name), rights, &syscall.SockaddrUnix{Name: address}, 0)
		_ = null.Close()
	}
	return errors.Join(err, syscall.Close(socket))
}

// begunMark is the environment variable that tells a program to close begunFD
// when it has done all that comes before it is ready.
const (
	begunMark = "SUPERVISETEST_BEGUN"
	begunFD   = 3
)

// spawnProgram starts a program in a session of its own, and returns when it,
// and what it starts itself, has begun. One that daemonizes is waited for.
func spawnProgram(exe string, p Program) (pid int, err error) {
	argv := p.Command(exe).Argv
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // It outlives its parent.
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	begun, begins, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer begun.Close() //nolint:errcheck // Only read from.
	cmd.ExtraFiles = []*os.File{begins}
	cmd.Env = append(os.Environ(), begunMark+"=1")
	err = cmd.Start()
	_ = begins.Close()
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, begun); err != nil {
		return 0, err
	}
	if p.Daemonize {
		return cmd.Process.Pid, cmd.Wait()
	}
	go func() { _ = cmd.Wait() }() // Reaped, however it ends.
	return cmd.Process.Pid, nil
}

func notify(message string) error {
	address, ok := os.LookupEnv("NOTIFY_SOCKET")
	if !ok {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return errors.Join(err, conn.Close())
}

// serve answers connections on the passed sockets (sd_listen_fds(3)).
func serve() error {
	pid, _ := os.LookupEnv("LISTEN_PID")
	if pid != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("LISTEN_PID is %q, and the pid %d", pid, os.Getpid())
	}
	value, _ := os.LookupEnv("LISTEN_FDS")
	count, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("LISTEN_FDS: %w", err)
	}
	for fd := 3; fd < 3+count; fd++ {
		listener, err := net.FileListener(os.NewFile(uintptr(fd), "passed")) //nolint:gosec // A small number.
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, strconv.Itoa(os.Getpid())+"\n") // The client may have gone.
				_ = conn.Close()
			}
		}()
	}
	return nil
}
