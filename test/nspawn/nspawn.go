// Package nspawn boots a real systemd as process 1 of a container, in about half a
// second, and runs programs in it.
//
// A machine has a root of its own, which lives through reboots: the host's /usr, that
// it may write to without the host noticing, a small /etc, and the rest empty. It
// shares the kernel with the host: its loop devices, but not its processes, network,
// mounts and control groups.
//
// Nothing of a machine outlives the process that booted it, even one that is killed:
// the script "machine" owns all of it, and waits for the end of a pipe that only that
// process has.
//
// Many machines can run at once. The methods of one may be called from many
// goroutines, but for Reboot and Close.
package nspawn

import (
	"bufio"
	"bytes"
	"context"
	_ "embed" // The script.
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"tenure/test/mountns"
)

//go:embed machine
var script string

// Config says what machine is wanted. The zero value is the usual one.
type Config struct {
	// Binds are directories and files of the host, by the path that they have in the
	// machine, which may write to them.
	Binds map[string]string
	// Prepare is given the directory that is to be the root, before it is booted for the
	// first time, and may put there what it wants.
	Prepare func(root string) error
}

// Machine is a container that has booted.
type Machine struct {
	// Name is that of its directory and of its control groups.
	Name string

	dir     string
	script  *exec.Cmd
	input   io.Closer
	console *console
	notices *notices
	ended   chan struct{}

	mu     sync.Mutex
	leader int
}

// Boot makes a machine, and returns when it has booted, with all that is to start.
func Boot(ctx context.Context, cfg Config) (*Machine, error) {
	dir, err := os.MkdirTemp("", "tenure-vm-")
	if err != nil {
		return nil, fmt.Errorf("boot a machine: %w", err)
	}
	m := &Machine{Name: filepath.Base(dir), dir: dir, console: new(console), ended: make(chan struct{})}
	if m.notices, err = listen(filepath.Join(dir, "notify")); err != nil {
		return nil, errors.Join(fmt.Errorf("boot machine %s: %w", m.Name, err), os.RemoveAll(dir))
	}
	err = m.start(ctx, cfg)
	if err == nil {
		err = m.booted(ctx)
	}
	if err != nil {
		err = fmt.Errorf("boot machine %s: %w\n%s", m.Name, err, m.Console())
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// start starts the script, and lets it boot what it has prepared.
func (m *Machine) start(ctx context.Context, cfg Config) error {
	args := []string{"--mount", "--propagation", "private", "bash", "-c", mountns.Script(script), "machine", m.dir}
	for _, inside := range slices.Sorted(maps.Keys(cfg.Binds)) {
		args = append(args, "--bind="+cfg.Binds[inside]+":"+inside)
	}
	// It ends by itself, when its input ends.
	m.script = exec.CommandContext(context.WithoutCancel(ctx), "unshare", args...) //nolint:gosec // The script is ours.
	m.script.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.notices.path)
	m.script.Stderr = m.console
	m.script.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	input, err := m.script.StdinPipe()
	if err != nil {
		return err
	}
	output, err := m.script.StdoutPipe()
	if err != nil {
		return err
	}
	if err := m.script.Start(); err != nil {
		return err
	}
	m.input = input
	prepared, readErr := bufio.NewReader(output).ReadString('\n')
	go func() {
		_ = m.script.Wait() // What it has to say is on the console.
		close(m.ended)
	}()
	if prepared != "prepared\n" {
		return fmt.Errorf("prepare the root: %w", readErr)
	}
	if cfg.Prepare != nil {
		if err := cfg.Prepare(filepath.Join("/proc", strconv.Itoa(m.script.Process.Pid), "root", m.dir, "root")); err != nil {
			return err
		}
	}
	_, err = io.WriteString(input, "boot\n")
	return err
}

// booted waits until the machine has booted, once more.
func (m *Machine) booted(ctx context.Context) error {
	select {
	case leader := <-m.notices.booted:
		m.mu.Lock()
		defer m.mu.Unlock()
		m.leader = leader
		return nil
	case <-m.ended:
		return errors.New("it has ended")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Leader is process 1 of the machine, as the host knows it.
func (m *Machine) Leader() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leader
}

// Path is where the host finds a file of the machine, for as long as that has booted.
func (m *Machine) Path(elem ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(m.Leader()), "root"}, elem...)...)
}

// Console is what the machine has said outside of its journal.
func (m *Machine) Console() string { return m.console.String() }

// Reboot restarts the machine in good order, and returns when it has booted again.
func (m *Machine) Reboot(ctx context.Context) error {
	// The command is ended with the machine, as like as not before it could say how it went.
	_ = m.enter(ctx, "systemctl", "reboot").Run()
	if err := m.booted(ctx); err != nil {
		return fmt.Errorf("reboot machine %s: %w\n%s", m.Name, err, m.Console())
	}
	return nil
}

// PowerOff ends the machine in good order. It still has to be closed.
func (m *Machine) PowerOff(ctx context.Context) error {
	_ = m.enter(ctx, "systemctl", "poweroff").Run() // As in Reboot.
	select {
	case <-m.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("power machine %s off: %w", m.Name, context.Cause(ctx))
	}
}

// Close ends the machine at once, if it has not ended, and says what is left of it.
func (m *Machine) Close() error {
	var err error
	if m.input != nil {
		_ = m.input.Close() // It may have ended.
		<-m.ended
		for _, left := range Leftovers(m.Name) {
			err = errors.Join(err, errors.New("left behind: "+left))
		}
	}
	if removeErr := os.RemoveAll(m.dir); removeErr != nil {
		err = errors.Join(err, removeErr)
	}
	if err = errors.Join(err, m.notices.close()); err != nil {
		return fmt.Errorf("close machine %s: %w", m.Name, err)
	}
	return nil
}

// console keeps what is written to it.
type console struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}
