package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore/logfile"
	"tenure/internal/supervise/native"
	"tenure/internal/supervise/sysbus"
	"tenure/internal/supervise/systemd"
)

// SupervisorKind is one of the supervisors.
type SupervisorKind string

// The supervisors.
const (
	// Native is the one that is built in.
	Native SupervisorKind = "native"
	// Systemd is the one that has systemd start everything.
	Systemd SupervisorKind = "systemd"
)

// ParseSupervisor reads the name of a supervisor; empty is that for the machine.
func ParseSupervisor(name string) (SupervisorKind, error) {
	switch kind := SupervisorKind(name); kind {
	case "", Native, Systemd:
		return kind, nil
	default:
		return "", fmt.Errorf("there is no supervisor %q: it is %q or %q", name, Native, Systemd)
	}
}

// supervisor is what every supervisor can do.
type supervisor interface {
	supervise.Supervisor
	supervise.LogReader
	Run(ctx context.Context) error
	Ready() <-chan struct{}
	// Vacate gives back what nobody is in any more, when it has ended for good.
	Vacate(ctx context.Context) error
}

// gap has everybody hear of gaps who spares them something.
func (p *parts) gap(first func(begins bool)) func(begins bool) {
	second, spares := p.supervisor.(interface{ Gap(begins bool) })
	return func(begins bool) {
		first(begins)
		p.journal.Gap(begins)
		if spares {
			second.Gap(begins)
		}
	}
}

// booted is there where systemd is process 1 (sd_booted(3)).
const booted = "/run/systemd/system"

// kindFor is the supervisor for a root: systemd for the machine itself, if it has it.
func kindFor(root string) SupervisorKind {
	if _, err := os.Stat(booted); err == nil && root == "/" {
		return Systemd
	}
	return Native
}

// openSupervisor makes the supervisor. The manager, which it tells and asks, is there
// before anything is supervised.
func (p *parts) openSupervisor() (err error) {
	kind := p.cfg.Supervisor
	if kind == "" {
		kind = kindFor(p.cfg.Root)
	}
	if kind == Systemd {
		return p.openSystemd()
	}
	if p.hierarchy, err = proc.OpenHierarchy(HierarchyName(p.cfg.Root)); err != nil {
		return err
	}
	inner, err := native.New(native.Config{
		StateDir:   filepath.Join(p.paths.Run(), "units"),
		RuntimeDir: filepath.Join(p.paths.Run(), "u"),
		Hierarchy:  p.hierarchy,
		Holder:     p.holder,
		Logs:       logfile.NewReader(p.paths.Logs()),
		BusNames:   sysbus.Names{},
		Record:     func(e supervise.Event) { p.manager.Record(e) },
		Terms:      p.terms,
		Logger:     p.cfg.Logger,
	})
	p.supervisor = nativeSupervisor{inner}
	return err
}

// nativeSupervisor has nothing but its hierarchy, which others give back.
type nativeSupervisor struct{ *native.Supervisor }

func (nativeSupervisor) Vacate(context.Context) error { return nil }

func (p *parts) terms(ctx context.Context, unit tenure.UnitID) (supervise.Terms, error) {
	return p.manager.Terms(ctx, unit)
}

func (p *parts) openSystemd() (err error) {
	if _, err := os.Stat(booted); err != nil {
		return errors.New("systemd is not process 1 here; use --supervisor native")
	}
	if p.hierarchy, err = proc.OpenHierarchy(SliceName(p.cfg.Root) + ".slice"); err != nil {
		return err
	}
	// Units of the machine itself are to be there when it boots the next time.
	units := "/run/systemd/system"
	if p.cfg.Root == "/" {
		units = "/etc/systemd/system"
	}
	p.supervisor, err = systemd.New(systemd.Config{
		Prefix:     SliceName(p.cfg.Root),
		UnitDir:    units,
		SpecDir:    filepath.Join(p.paths.State(), "units"),
		StateDir:   filepath.Join(p.paths.Run(), "units"),
		RuntimeDir: filepath.Join(p.paths.Run(), "u"),
		Program:    []string{p.cfg.Self, "unit", "--root", p.cfg.Root},
		Boot:       bootUnit(p.cfg.Root),
		Early:      p.cfg.early,
		Lasting:    p.cfg.ending && p.cfg.Root == "/",
		Holder:     p.holder,
		BusNames:   sysbus.Names{},
		Record:     func(e supervise.Event) { p.manager.Record(e) },
		Terms:      p.terms,
		Logger:     p.cfg.Logger,
	})
	return err
}

// bootUnit is the unit that runs Boot. A private root has none: it does not outlive the machine's run.
func bootUnit(root string) string {
	if root == "/" {
		return "tenured-boot.service"
	}
	return ""
}

// SliceName is what the names of the units of a root begin with where systemd has them, and, with
// ".slice" behind it, the name of their control group.
func SliceName(root string) string {
	if filepath.Clean(root) == "/" {
		return systemd.DefaultPrefix
	}
	return strings.ReplaceAll(HierarchyName(root), "-", "")
}
