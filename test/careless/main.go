// Command careless is the program of the package that tests give it: services
// that do what package authors do.
//
//	careless leave PROGRAM ARGUMENT...   starts a program, detached, and forgets it
//	careless group DIR PROGRAM ...       the same, in a control group of its own making
//	careless serve                       answers on the sockets that it is given
//	careless helper                      does nothing until it is told to end
//
// It ends well, and at once, when it is sent SIGTERM, and never leaves a
// connection that it has accepted without an answer.
//
//nolint:forbidigo // The whole program is its main: it reads and ends its own process.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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

	"tenure/examples/clients/notify"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	hears()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "careless:", err)
		os.Exit(1)
	}
}

// awaited is set where descriptor 3 is to be closed by who hears signals.
const awaited = "CARELESS_AWAITED"

// hears tells whoever has started this program that it hears signals.
func hears() {
	if os.Getenv(awaited) != "" {
		_ = os.NewFile(3, awaited).Close()
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("want leave, group, serve or helper")
	}
	switch verb, rest := args[0], args[1:]; {
	case verb == "helper":
		<-ctx.Done()
		return nil
	case verb == "fork" && len(rest) > 0:
		return fork(rest)
	case verb == "leave" && len(rest) > 0:
		return leave(ctx, rest, &syscall.SysProcAttr{Setsid: true})
	case verb == "group" && len(rest) > 1:
		dir, err := makeGroup(rest[0])
		if err != nil {
			return err
		}
		defer dir.Close() //nolint:errcheck // Only looked at.
		return leave(ctx, rest[1:], &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(dir.Fd())})
	case verb == "serve":
		return serve(ctx)
	}
	return fmt.Errorf("cannot do %q", args)
}

// leave forks twice: the one in between has ended when the service is ready.
func leave(ctx context.Context, program []string, attr *syscall.SysProcAttr) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	between := exec.CommandContext(ctx, self, append([]string{"fork"}, program...)...) //nolint:gosec // Its own arguments.
	between.SysProcAttr = attr
	between.Stderr = os.Stderr
	if err := between.Run(); err != nil {
		return fmt.Errorf("leave %q behind: %w", program, err)
	}
	if err := ready(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// fork starts this program again, with other arguments, and waits only until it hears signals.
func fork(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	heard, hearing, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, args...) //nolint:gosec,noctx // It is to outlive whoever started it.
	cmd.Env, cmd.ExtraFiles = append(os.Environ(), awaited+"=1"), []*os.File{hearing}
	if err := errors.Join(cmd.Start(), hearing.Close()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, heard)
	return err
}

func ready(ctx context.Context) error {
	return notify.Send(ctx, os.Getenv("NOTIFY_SOCKET"), "READY=1")
}

// makeGroup makes a control group: below that of this process, or, for an
// absolute path, below the root of the hierarchy.
func makeGroup(name string) (*os.File, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	for _, top := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		for line := range strings.Lines(string(own)) {
			group, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
			if !unified {
				continue
			}
			if filepath.IsAbs(name) {
				group = "/"
			}
			if _, err := os.Stat(filepath.Join(top, group, "cgroup.procs")); err != nil {
				continue
			}
			dir := filepath.Join(top, group, name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return nil, err
			}
			return os.Open(dir)
		}
	}
	return nil, errors.New("there are no unified control groups here")
}

// firstListener is the first descriptor of sd_listen_fds(3).
const firstListener = 3

// serve answers whoever connects with its revision. Told to end it accepts
// nobody any more, and answers those whom it has accepted.
func serve(ctx context.Context) error {
	count, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("no sockets were passed: LISTEN_FDS=%q", os.Getenv("LISTEN_FDS"))
	}
	var listeners []net.Listener
	for fd := firstListener; fd < firstListener+count; fd++ {
		listener, err := net.FileListener(os.NewFile(uintptr(fd), "listener"))
		if err != nil {
			return fmt.Errorf("take socket %d: %w", fd, err)
		}
		if unix, ok := listener.(*net.UnixListener); ok {
			unix.SetUnlinkOnClose(false)
		}
		listeners = append(listeners, listener)
	}
	if err := ready(ctx); err != nil {
		return err
	}
	var answering sync.WaitGroup
	for _, listener := range listeners {
		answering.Go(func() { accept(ctx, listener, &answering) })
	}
	answering.Wait()
	return nil
}

// accept answers until ctx ends. A deadline, unlike closing, makes no connection
// that is being accepted disappear.
func accept(ctx context.Context, listener net.Listener, answering *sync.WaitGroup) {
	stop := context.AfterFunc(ctx, func() {
		if l, ok := listener.(interface{ SetDeadline(t time.Time) error }); ok {
			_ = l.SetDeadline(time.Unix(1, 0)) // The listener is open.
		}
	})
	defer stop()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "careless: accept:", err)
			continue
		}
		answering.Go(func() {
			defer conn.Close() //nolint:errcheck // The client has read its answer or gone.
			if _, err := fmt.Fprintf(conn, "%s %d\n", os.Getenv("SNAP_REVISION"), os.Getpid()); err != nil {
				fmt.Fprintln(os.Stderr, "careless: answer:", err)
			}
		})
	}
}
