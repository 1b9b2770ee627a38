package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/native"
)

// Config is what a Supervisor is made of.
type Config struct {
	// Prefix is what the names of all units begin with; the default is "snap". It has no
	// dot and no dash.
	Prefix string
	// UnitDir has the unit files, SpecDir what the units are. Both are to be there at the next boot.
	UnitDir, SpecDir string
	// StateDir and RuntimeDir are as in native.Config.
	StateDir, RuntimeDir string
	// Program is the command that runs Main, of a path that stays.
	Program []string
	// Boot is the unit that services wait for when the machine boots; empty is none. Early is that
	// this supervisor is part of it, and runs before all that waits for it.
	Boot  string
	Early bool
	// Lasting is that services which are forgotten stay known to systemd, for the next boot.
	Lasting  bool
	Holder   native.Holder
	BusNames native.BusNames
	Settle   time.Duration
	Record   supervise.Recorder
	// Terms is as in native.Config.
	Terms  supervise.Arbiter
	Logger *slog.Logger
}

// Supervisor is the one for machines with systemd.
type Supervisor struct {
	*native.Supervisor

	host   *host
	socket string
	// terms are Config.Terms.
	terms supervise.Arbiter
}

var (
	_ supervise.Supervisor = (*Supervisor)(nil)
	_ supervise.Tracker    = (*Supervisor)(nil)
	_ supervise.Brancher   = (*Supervisor)(nil)
	_ supervise.Overlapper = (*Supervisor)(nil)
	_ supervise.Splitter   = (*Supervisor)(nil)
	_ supervise.Locator    = (*Supervisor)(nil)
	_ supervise.LogReader  = (*Supervisor)(nil)
	_ supervise.LogKeeper  = (*Supervisor)(nil)
)

// DefaultPrefix is the prefix of the units of the machine's own root.
const DefaultPrefix = "snap"

// socketName is where units ask, in Config.RuntimeDir's parent.
const socketName = "launch.sock"

// New makes a supervisor that does nothing before Run.
func New(cfg Config) (*Supervisor, error) {
	if cfg.UnitDir == "" || cfg.SpecDir == "" || len(cfg.Program) == 0 || !filepath.IsAbs(cfg.Program[0]) {
		return nil, fmt.Errorf("new supervisor: UnitDir, SpecDir and a Program with an absolute path are needed: %w", fs.ErrInvalid)
	}
	cfg.Prefix = cmp.Or(cfg.Prefix, DefaultPrefix)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	hierarchy, err := proc.OpenHierarchy(cfg.Prefix + slice)
	if err != nil {
		return nil, fmt.Errorf("new supervisor: %w", err)
	}
	files, err := newFiles(cfg.UnitDir, cfg.SpecDir)
	if err != nil {
		return nil, fmt.Errorf("new supervisor: %w", err)
	}
	names := names{cfg.Prefix}
	journal := &journal{names: names, floors: floors{path: filepath.Join(cfg.SpecDir, "dropped")}}
	h := &host{
		names: names, hierarchy: hierarchy, files: files, program: cfg.Program, logger: cfg.Logger,
		socket: filepath.Join(filepath.Dir(cfg.RuntimeDir), socketName), state: cfg.StateDir,
		closing: make(map[tenure.UnitID]*closing), within: make(map[string]bool),
		boot: cfg.Boot, early: cfg.Early, lasting: cfg.Lasting,
		places: make(map[string]*place), serving: make(map[tenure.UnitID]generation), numbers: make(map[tenure.UnitID]int),
		expected: make(map[string]chan *caller), come: make(map[string]chan *caller),
	}
	inner, err := native.New(native.Config{
		StateDir: cfg.StateDir, RuntimeDir: cfg.RuntimeDir, Hierarchy: hierarchy, Host: h,
		Holder: keeper{cfg.Holder, journal}, Logs: journal, BusNames: cfg.BusNames,
		Settle: cfg.Settle, Record: cfg.Record, Terms: cfg.Terms, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &Supervisor{Supervisor: inner, host: h, socket: h.socket, terms: cfg.Terms}, nil
}

// Run adopts everything that an earlier supervisor left and what systemd has started by
// itself, and supervises until ctx ends. It can be called once.
func (s *Supervisor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.host.life = ctx
	s.host.bus = &bus{life: ctx, early: s.host.early}
	defer s.host.bus.close()
	if _, _, err := s.host.bus.get(); err != nil {
		return fmt.Errorf("run supervisor: %w", err)
	}
	removed, err := s.host.known()
	if err != nil {
		return fmt.Errorf("run supervisor: %w", err)
	}
	listener, err := listen(s.socket)
	if err != nil {
		return fmt.Errorf("run supervisor: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	served := make(chan error, 1)
	wg.Go(func() {
		served <- s.host.serve(listener, func(c *caller) { s.answer(ctx, c) })
		cancel()
	})
	if !s.host.early {
		wg.Go(func() { s.host.keepReloaded(ctx) })
	}
	wg.Go(func() { s.host.forgetFailures(ctx, removed) })
	err = s.Supervisor.Run(ctx)
	cancel()
	return errors.Join(err, listener.Close(), <-served)
}

// Vacate takes back the slices when everything has ended for good.
func (s *Supervisor) Vacate(ctx context.Context) error {
	b := &bus{life: ctx}
	defer b.close()
	name := s.host.names.prefix + slice
	if now, err := b.look(ctx, name); err != nil || now.active != "active" {
		return err
	}
	if err := b.stop(ctx, name); err != nil {
		return fmt.Errorf("take back the slices: %w", err)
	}
	return nil
}

// listen opens the socket that units ask at; that of a supervisor that has died is replaced.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen for units: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for units: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for units: %w", err), listener.Close())
	}
	return listener, nil
}
