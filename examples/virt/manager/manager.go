// Package manager runs QEMU machines that outlive it.
//
// A machine is a directory below $SNAP_COMMON with its record, disk, serial
// log and QMP sockets, and, while it runs, a QEMU process that has daemonized
// itself. All there is to know is in that directory: a manager that starts
// finds every running machine by its socket, whoever started it, and one that
// ends, in whatever way, leaves all machines as they are.
//
// One goroutine, Run, owns the machines; requests are handed to it. Waiting
// for a machine to end happens outside of it.
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"tenure/examples/clients/qmp"
	"tenure/examples/clients/virtd"
)

// Config says where the manager's things are. All but Accel and Log are
// required.
type Config struct {
	// Snap is the directory of the revision, from which machines are started.
	Snap string
	// Common is where the machines and the manager's own socket are.
	Common string
	// Revision is written down with each machine that is started.
	Revision string
	// Accel are QEMU's accelerators in the order in which they are tried; by
	// default those that the file virtd.Accel in Common names when a machine is
	// started, and without it KVM, if this process may use it, and TCG.
	Accel []string
	// Template is an app of another package, such as "qemu.vm", whose instances the
	// machines are, started and stopped with snapctl; without one they are processes of
	// the manager's own.
	Template string
	// Log hears of machines that come and go; by default nobody does.
	Log *slog.Logger
}

const (
	// managerSocket is the QMP socket that the manager keeps a connection to.
	managerSocket = "manager.qmp"
	// StopSocket is the QMP socket of the stop command.
	StopSocket = "stop.qmp"
	// Grace is how long a guest may take to switch itself off, before its
	// process is told to quit.
	Grace = 20 * time.Second
	// startTimeout bounds the start of QEMU and every reattachment.
	startTimeout = 30 * time.Second
)

// Manager owns machines. Make one with New.
type Manager struct {
	config Config
	host   host
	// calls are run by Run, one after the other; only they use machines.
	calls    chan func(context.Context)
	machines map[string]*machine
	serving  sync.WaitGroup
}

// machine is a machine; client is nil if it was not running when last looked for, and
// where its host knows it by other means.
type machine struct {
	virtd.Machine

	client *qmp.Client
}

// host is where machines run. Only Run calls boot and attach.
type host interface {
	// boot starts a machine that does not run, and returns when it does.
	boot(ctx context.Context, v *machine) error
	// attach finds the machine running; an error says that it does not.
	attach(ctx context.Context, v *machine) error
	// running reports whether a machine that was attached still runs.
	running(ctx context.Context, v *machine) bool
	// end ends a machine, and returns when it has ended.
	end(ctx context.Context, v *machine) error
}

// New makes a manager that does nothing before Run.
func New(config Config) *Manager {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{config: config, calls: make(chan func(context.Context)), machines: make(map[string]*machine)}
	m.host = processes{config}
	if config.Template != "" {
		m.host = instances{config.Template}
	}
	return m
}

// Run finds the machines that run, listens, calls ready, and serves until ctx
// is done. The machines stay.
func (m *Manager) Run(ctx context.Context, ready func(context.Context) error) error {
	defer m.detach()
	if err := m.reattach(ctx); err != nil {
		return err
	}
	listener, err := m.listen()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer m.serving.Wait()
	defer cancel()
	// It is not taken back: whoever has seen that ctx is done would keep it from happening.
	context.AfterFunc(ctx, func() { listener.Close() }) //nolint:errcheck // The accept loop ends with it.
	m.serving.Go(func() { m.accept(ctx, listener) })
	if err := ready(ctx); err != nil {
		return err
	}
	for {
		select {
		case call := <-m.calls:
			call(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *Manager) listen() (net.Listener, error) {
	path := filepath.Join(m.config.Common, virtd.Socket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	return listener, nil
}

// reattach reads all records and connects to the machines that answer.
func (m *Manager) reattach(ctx context.Context) error {
	root := filepath.Join(m.config.Common, virtd.Machines)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("make the directory of the machines: %w", err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("look for machines: %w", err)
	}
	for _, entry := range entries {
		record, err := readRecord(filepath.Join(root, entry.Name()))
		if err != nil {
			m.config.Log.Error("machine left out", slog.String("name", entry.Name()), slog.Any("error", err))
			continue
		}
		found := &machine{Machine: record}
		m.machines[record.Name] = found
		if err := m.host.attach(ctx, found); err != nil {
			m.config.Log.Info("machine does not run", slog.String("name", record.Name), slog.Any("error", err))
			continue
		}
		found.Reattached = true
		m.config.Log.Info("machine reattached", slog.String("name", record.Name), slog.Int("pid", found.PID))
	}
	return nil
}

// state is what clients are told about the machine.
func (m *Manager) state(ctx context.Context, v *machine) virtd.Machine {
	state := v.Machine
	state.Running = m.host.running(ctx, v)
	if !state.Running {
		state.PID, state.Reattached = 0, false
	}
	return state
}

// detach lets go of all machines.
func (m *Manager) detach() {
	for _, v := range m.machines {
		if v.client != nil {
			v.client.Close() //nolint:errcheck // The machine goes on either way.
		}
	}
}

// list is all machines by name.
func (m *Manager) list(ctx context.Context) []virtd.Machine {
	all := make([]virtd.Machine, 0, len(m.machines))
	for _, name := range slices.Sorted(maps.Keys(m.machines)) {
		all = append(all, m.state(ctx, m.machines[name]))
	}
	return all
}
