package systemd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/native"
)

// A declared socket, and a timer, is a unit of systemd's, named by what it declares: one that is
// declared alike by the next revision is the same unit, and goes on untouched; another one
// is another unit, which systemd finds without reading all units again.
//
//	snap.NAME.APP.sHASH.socket    with the alias snap.NAME.APP.SOCKET.socket
//	snap.NAME.APP.tHASH.timer     with the alias snap.NAME.APP.timer
//	snap.NAME.APP.sHASH.service   what either starts: it tells the supervisor, and waits
//
// They do not start a generation of the service: in the gap that would be the one before. The generation
// has its sockets by Sockets=, whoever has started it.
//
// A socket file is never made by systemd where it is declared, for a package may put links in the
// way there. systemd listens in a directory of ours, and the file is linked to where it is declared.

const (
	socketUnit = ".socket"
	timerUnit  = ".timer"

	socketsTarget = "sockets.target"
	timersTarget  = "timers.target"
)

// maxSocketPath is the longest path that a socket can have (unix(7)).
const maxSocketPath = 107

// doorMark and clockMark begin the name of a declaration.
const (
	doorMark  = "s"
	clockMark = "t"
)

// hashed names a declaration, so that no package finds one that is named as another package's is.
func hashed(mark string, words ...any) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", words))
	return mark + hex.EncodeToString(sum[:8])
}

// doorID is the name of what a socket is, whatever it is called. Only a file has a mode.
func doorID(s supervise.Socket) string {
	if s.Network == "unix" {
		return hashed(doorMark, s.Network, s.Address, s.Mode)
	}
	return hashed(doorMark, s.Network, s.Address)
}

// doorUnit is the name of the unit of a declaration.
func (n names) doorUnit(unit tenure.UnitID, id, kind string) string {
	return n.stem(unit) + "." + id + kind
}

// readAlias reads the alias of a service.
func (n names) readAlias(alias string) (unit tenure.UnitID, ok bool) {
	stem, isService := strings.CutSuffix(alias, service)
	unit, _, ok = n.parse(stem + ".1" + service)
	return unit, ok && isService
}

// listenPath is where systemd listens for a socket file.
func (h *host) listenPath(unit tenure.UnitID, s supervise.Socket) string {
	return filepath.Join(h.files.sockets, hashed("", unit.String(), doorID(s)))
}

var _ native.Doorkeeper = (*host)(nil)

// Keeps implements native.Doorkeeper: a socket file has to be linked to where it is declared, which only
// works within one file system. What was found out holds, for all who ask are to get one answer.
func (h *host) Keeps(spec *supervise.Spec, s supervise.Socket) bool {
	if s.Network != "unix" {
		return true
	}
	return h.canKeep(filepath.Dir(s.Address)) && len(h.listenPath(spec.Unit, s)) <= maxSocketPath
}

// canKeep reports whether socket files in a directory are for systemd to open. The first answer holds.
func (h *host) canKeep(dir string) bool {
	h.doorMu.Lock()
	keeps, known := h.within[dir]
	h.doorMu.Unlock()
	if known {
		return keeps
	}
	err := canPlace(h.files.sockets, dir)
	// A link on the way is refused when it is opened.
	keeps = err == nil || errors.Is(err, unix.ELOOP)
	h.doorMu.Lock()
	defer h.doorMu.Unlock()
	if first, known := h.within[dir]; known {
		return first
	}
	if !errors.Is(err, fs.ErrNotExist) {
		h.within[dir] = keeps
	}
	return keeps
}

// socketFile is the unit file of a socket.
func (h *host) socketFile(spec *supervise.Spec, s supervise.Socket) string {
	settings := []setting{{"FileDescriptorName", doorID(s)}, {"TriggerLimitIntervalSec", "0"}}
	address := s.Address
	switch s.Network {
	case "tcp":
		address = strings.TrimPrefix(address, ":")
	case "unix-abstract":
		address = "@" + address
	default:
		address = h.listenPath(spec.Unit, s)
		mode := s.Mode
		if mode == 0 {
			mode = 0o666
		}
		place := append(slices.Clone(h.program), verbPlace, address, s.Address)
		settings = append(settings, setting{"SocketMode", fmt.Sprintf("%04o", mode)}, setting{"RemoveOnStop", "yes"}, setting{"ExecStartPost", quoteCommand(place)})
	}
	settings = append([]setting{{"ListenStream", percents(address)}}, settings...)
	return render(
		section{"Unit", []setting{{"Description", percents(fmt.Sprintf("Socket %s of %s at %s", s.Name, spec.Unit, s.Address))}}},
		section{"Socket", settings},
		section{"Install", []setting{{"WantedBy", socketsTarget}}},
	)
}

func percents(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// Open implements native.Doorkeeper.
func (h *host) Open(ctx context.Context, spec *supervise.Spec) error {
	if err := h.Closed(ctx, spec.Unit); err != nil {
		return err
	}
	var jobs []*job
	for _, s := range spec.Sockets {
		if !h.Keeps(spec, s) {
			continue
		}
		name := h.names.doorUnit(spec.Unit, doorID(s), socketUnit)
		err := h.writeDoor(ctx, &door{
			name: name, alias: h.names.doorUnit(spec.Unit, s.Name, socketUnit), target: socketsTarget,
			text: h.socketFile(spec, s), teller: h.tellerFile(spec.Unit, verbConnect),
		})
		if err != nil {
			return fmt.Errorf("open socket %s: %w", s.Name, err)
		}
		if now, err := h.bus.look(ctx, name); err == nil && now.active == "active" && now.job == "" {
			continue
		}
		j, err := h.bus.begin(name, startPlain(ctx, name, "replace"))
		if err != nil {
			return fmt.Errorf("open socket %s: %w", s.Name, err)
		}
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		if err := j.wait(ctx); err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
	}
	for _, s := range spec.Sockets {
		name, alias := h.names.doorUnit(spec.Unit, doorID(s), socketUnit), h.names.doorUnit(spec.Unit, s.Name, socketUnit)
		if !h.Keeps(spec, s) {
			continue
		}
		if err := h.nameDoor(alias, name); err != nil {
			return fmt.Errorf("open socket %s: %w", s.Name, err)
		}
	}
	return nil
}

// Close implements native.Doorkeeper.
func (h *host) Close(spec *supervise.Spec, sockets []supervise.Socket, replaced bool) {
	var units []string
	for _, s := range sockets {
		id := doorID(s)
		units = append(units, h.names.doorUnit(spec.Unit, id, socketUnit), h.names.doorUnit(spec.Unit, id, service))
	}
	h.endDoors(spec.Unit, units, func() {
		if replaced {
			h.replace(spec, sockets)
		}
	})
}

// replace removes the files of sockets that others are in the place of, and has the others where both
// are declared.
func (h *host) replace(spec *supervise.Spec, sockets []supervise.Socket) {
	for _, s := range sockets {
		err := h.files.removeDoor(h.names.stem(spec.Unit) + "." + doorID(s))
		for _, now := range spec.Sockets {
			path := h.listenPath(spec.Unit, now)
			if _, closed := os.Lstat(path); closed == nil && now.Network == "unix" && now.Address == s.Address {
				err = errors.Join(err, placeSocket(path, now.Address))
			}
		}
		if err != nil {
			h.logger.Warn("socket is not replaced", slog.String("socket", s.Name), slog.Any("error", err))
		}
	}
	h.files.stale()
}

// endDoors stops units of declarations in the background, and does something then. Those that end with the
// machine are started with it, too: their files stay.
func (h *host) endDoors(service tenure.UnitID, units []string, then func()) {
	if h.lasting {
		then = func() {}
	} else {
		h.unwantDoors(units)
	}
	c := &closing{done: make(chan struct{})}
	h.mu.Lock()
	before := h.closing[service]
	h.closing[service] = c
	h.mu.Unlock()
	go func() {
		defer close(c.done)
		if before != nil {
			<-before.done
			c.err = before.err
		}
		if err := h.stopDoors(units); err != nil {
			c.err = errors.Join(c.err, err)
			h.logger.Warn("what is declared no more is not closed", slog.String("unit", service.String()), slog.Any("error", err))
			return
		}
		then()
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.closing[service] == c && c.err == nil {
			delete(h.closing, service)
		}
	}()
}

// closing is that units of declarations are stopped; how it went holds when it is done.
type closing struct {
	done chan struct{}
	err  error
}

// stopDoors stops units of declarations.
func (h *host) stopDoors(units []string) error {
	ctx, cancel := context.WithTimeout(h.life, launchPatience)
	defer cancel()
	var errs []error
	for _, name := range units {
		if err := h.bus.cancel(ctx, name); err != nil && !notLoaded(err) {
			errs = append(errs, fmt.Errorf("stop %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// unwantDoors has units of declarations not be started when the machine boots.
func (h *host) unwantDoors(units []string) {
	for _, name := range units {
		for _, target := range []string{socketsTarget, timersTarget} {
			if err := removeFile(filepath.Join(h.files.units, target+".wants", name)); err != nil {
				h.logger.Warn("unit may be started at boot", slog.Any("error", err))
			}
		}
	}
}

// Closed implements native.Doorkeeper. That sockets could not be closed is told once: whoever opens others
// afterwards finds out whether they are in the way.
func (h *host) Closed(ctx context.Context, service tenure.UnitID) error {
	h.mu.Lock()
	c := h.closing[service]
	h.mu.Unlock()
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.closing[service] == c {
			delete(h.closing, service)
		}
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("close sockets of %s: %w", service, context.Cause(ctx))
	}
}

// Arm implements native.Doorkeeper: the service is made ready to be started by its alias.
func (h *host) Arm(spec *supervise.Spec) (timed bool) {
	h.mu.Lock()
	before := h.serving[spec.Unit].name
	h.mu.Unlock()
	if before != "" {
		h.calm(before)
	}
	if err := h.announce(spec); err != nil {
		h.logger.Warn("service cannot be started without the daemon", slog.String("unit", spec.Unit.String()), slog.Any("error", err))
	}
	if spec.Timer == "" {
		return false
	}
	timed, err := h.wind(spec)
	if err != nil {
		h.logger.Warn("systemd does not watch a timer", slog.String("unit", spec.Unit.String()), slog.Any("error", err))
	}
	return timed && err == nil
}

// calm has systemd not restart a generation that has ended: as long as it is to be, systemd takes who connects
// for served.
func (h *host) calm(name string) {
	ctx, cancel := context.WithTimeout(h.life, launchPatience)
	defer cancel()
	now, err := h.bus.look(ctx, name)
	if err != nil || now.active != "activating" || now.job != "" {
		return
	}
	if err := h.bus.stop(ctx, name); err != nil {
		h.logger.Info("unit is not stopped by us", slog.String("unit", name), slog.Any("error", err))
	}
}

// announce makes the generation that a service is to be started as the one that it is.
func (h *host) announce(spec *supervise.Spec) error {
	h.mu.Lock()
	before := h.serving[spec.Unit]
	name := h.generationOf(native.Place{Unit: spec.Unit, Service: spec.Unit, Spec: spec})
	h.mu.Unlock()
	if before.name == name {
		return nil
	}
	err := h.files.carry(h.names.alias(spec.Unit), before.name, name)
	_, writeErr := h.files.write(name, h.serviceFile(name, spec), spec)
	moved, pointErr := h.files.point(h.names.alias(spec.Unit), name, false)
	if err = errors.Join(err, writeErr, pointErr); err != nil {
		return err
	}
	h.mu.Lock()
	h.serving[spec.Unit] = generation{name: name, spec: spec}
	over := before.name != "" && h.leave(before.name)
	h.mu.Unlock()
	if moved {
		h.files.stale()
	}
	if over {
		return h.files.remove(before.name)
	}
	return nil
}

// Disarm implements native.Doorkeeper.
func (h *host) Disarm(unit tenure.UnitID) {
	stems := h.files.doors(h.names.stem(unit), clockMark)
	var units []string
	for _, stem := range stems {
		units = append(units, stem+timerUnit, stem+service)
	}
	if len(units) == 0 {
		return
	}
	h.endDoors(unit, units, func() {
		for _, stem := range stems {
			if err := h.files.removeDoor(stem); err != nil {
				h.logger.Warn("timer cannot be removed", slog.Any("error", err))
			}
		}
	})
}

// Stop implements supervise.Supervisor: nobody can connect to what is stopped.
func (s *Supervisor) Stop(ctx context.Context, req supervise.StopRequest) (supervise.Ended, error) {
	ended, err := s.Supervisor.Stop(ctx, req)
	return ended, errors.Join(err, s.host.closedAll(ctx, req.Units))
}

// Forget implements supervise.Supervisor.
func (s *Supervisor) Forget(ctx context.Context, units ...tenure.UnitID) error {
	return errors.Join(s.Supervisor.Forget(ctx, units...), s.host.closedAll(ctx, units))
}

func (h *host) closedAll(ctx context.Context, units []tenure.UnitID) error {
	var errs []error
	for _, unit := range units {
		errs = append(errs, h.Closed(ctx, unit))
	}
	return errors.Join(errs...)
}

// startsAtBoot reports whether a service is to start with the machine, by itself.
func startsAtBoot(spec *supervise.Spec) bool { return len(spec.Sockets) == 0 && spec.Timer == "" }

// doorsOf are the units of the sockets that systemd passes to a service.
func (h *host) doorsOf(spec *supervise.Spec) string {
	var units []string
	for _, s := range spec.Sockets {
		if h.Keeps(spec, s) {
			units = append(units, h.names.doorUnit(spec.Unit, doorID(s), socketUnit))
		}
	}
	return strings.Join(units, " ")
}

// orderOf is what who has been started for a place is to become: with the declared sockets in order,
// whoever keeps them.
func (h *host) orderOf(pl *place, p native.Program) order {
	o := order{Command: p.Command}
	rest := p.Names
	if pl.kept {
		spec := *pl.Spec
		spec.Unit = pl.Service
		for _, s := range spec.Sockets {
			switch {
			case h.Keeps(&spec, s):
				o.Names, o.Given = append(o.Names, s.Name), append(o.Given, doorID(s))
			case len(rest) > 0 && rest[0] == s.Name:
				o.Names, o.Given, rest = append(o.Names, s.Name), append(o.Given, ""), rest[1:]
			}
		}
	}
	o.Names = append(o.Names, rest...)
	o.Given = append(o.Given, make([]string, len(rest))...)
	return o
}

// forgetDoors removes what there is of the declarations of a service.
func (h *host) forgetDoors(unit tenure.UnitID) (errs []error) {
	stem := h.names.stem(unit)
	for _, door := range append(h.files.doors(stem, doorMark), h.files.doors(stem, clockMark)...) {
		errs = append(errs, h.files.removeDoor(door))
	}
	return errs
}
