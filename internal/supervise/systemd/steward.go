package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/native"
)

// Serves implements native.Host.
func (h *host) Serves(spec *supervise.Spec, group proc.Group) {
	pl, err := h.at(group)
	if err != nil || !pl.kept {
		return
	}
	text := h.serviceFile(pl.name, spec)
	changed, err := h.files.write(pl.name, text, spec)
	moved, aliasErr := h.files.point(h.names.alias(spec.Unit), pl.name, startsAtBoot(spec))
	if err := errors.Join(err, aliasErr); err != nil {
		h.logger.Warn("unit files are not up to date", slog.Any("error", err))
	}
	h.mu.Lock()
	pl.Unit = pl.Service
	before := h.serving[spec.Unit]
	h.serving[spec.Unit] = generation{name: pl.name, spec: spec}
	over := before.name != "" && before.name != pl.name && h.leave(before.name)
	h.mu.Unlock()
	if over {
		h.removeFiles(before.name)
	}
	if changed || moved {
		h.files.stale()
	}
}

// leave is told that a generation is not the service any more, and reports whether its files are to be
// removed now: not while it runs, nor before systemd knows that it has ended. The caller has the lock, under
// which nothing is removed, for every launch waits for it.
func (h *host) leave(name string) (over bool) {
	pl := h.placeOf(name)
	if pl == nil {
		return true
	}
	if !pl.ended {
		return false
	}
	delete(h.places, pl.group.Path())
	if pl.release != nil {
		go h.dropSettled(pl, pl.release)
	}
	return pl.release == nil
}

func (h *host) removeFiles(name string) {
	if err := h.files.remove(name); err != nil && h.life.Err() == nil {
		h.logger.Warn("unit file cannot be removed", slog.Any("error", err))
	}
}

// dropSettled removes the files of a generation when systemd knows that it has ended. Without
// them, after a reload, systemd would end all that is left in its group, as it does by default.
func (h *host) dropSettled(pl *place, r *release) {
	select {
	case <-r.done:
	case <-h.life.Done():
		return // The next supervisor removes what is the file of nothing.
	}
	h.end(pl)
	h.removeFiles(pl.name)
}

// Heard implements native.Host.
func (h *host) Heard(group proc.Group, process tenure.Process, words string) {
	if err := relay(process.PID, words); err != nil {
		h.logger.Debug("systemd is not told", slog.String("group", group.Path()), slog.Any("error", err))
	}
}

// Rest implements native.Host.
func (h *host) Rest(service tenure.UnitID) {
	h.mu.Lock()
	var r *release
	if pl := h.placeOf(h.serving[service].name); pl != nil && pl.ended {
		r = h.settleLater(pl, true)
	}
	h.mu.Unlock()
	if r != nil {
		_ = r.wait(h.life) // It ends when there is no supervisor any more.
	}
}

// AwayAtBoot implements native.Host.
func (h *host) AwayAtBoot(service tenure.UnitID) {
	if err := h.files.unwant(h.names.alias(service)); err != nil {
		h.logger.Warn("service may be started at boot", slog.Any("error", err))
	}
}

// Forget implements native.Host.
func (h *host) Forget(unit tenure.UnitID) error {
	if unit.Kind != tenure.Service {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lasting {
		return nil
	}
	delete(h.serving, unit)
	errs := h.forgetDoors(unit)
	names := h.files.of(unit, h.names)
	if len(names) == 0 {
		return errors.Join(errs...)
	}
	h.files.stale()
	errs = append(errs, h.files.unpoint(h.names.alias(unit)))
	for _, name := range names {
		if pl := h.placeOf(name); pl == nil || pl.ended || pl.unused() {
			errs = append(errs, h.files.remove(name))
		}
	}
	return errors.Join(errs...)
}

// unused reports whether nobody is in a place, or is to be: one that systemd had started by itself may have
// ended before the supervisor knew of it.
func (pl *place) unused() bool {
	populated, err := pl.group.Populated()
	return !pl.launching && (errors.Is(err, proc.ErrNoGroup) || err == nil && !populated)
}

// Running implements native.Host.
func (h *host) Running(ctx context.Context) ([]native.Running, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []native.Running
	for unit, now := range h.serving {
		group := h.groupFor(unit, now.name)
		if populated, err := group.Populated(); err != nil || !populated {
			continue
		}
		main, err := h.bus.main(ctx, now.name)
		if err == nil {
			err = h.isIn(group, main)
		}
		if err != nil {
			h.logger.Info("service has no main process", slog.String("unit", now.name), slog.Any("error", err))
			continue
		}
		all = append(all, native.Running{Spec: now.spec, Group: group, Main: main})
	}
	return all, nil
}

// isIn is an error for a process that is not in a group, nor in one that was made below it: a service that
// is on terms with systemd may call any process its main one.
func (h *host) isIn(group proc.Group, process tenure.Process) error {
	own, err := h.hierarchy.GroupOf(process.PID)
	if err == nil && own != group && !strings.HasPrefix(own.Path(), group.Path()+"/") {
		err = fmt.Errorf("process %d is not of %s: %w", process.PID, group.Path(), os.ErrPermission)
	}
	return err
}

// known takes back what an earlier supervisor has named: the services by their aliases, and
// the groups by what is in them. The files of nothing are removed, and returned by their names.
func (h *host) known() (removed []string, err error) {
	groups, err := h.hierarchy.Groups()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for unit, name := range h.files.aliases(h.names) {
		if spec, err := h.files.spec(name); err == nil {
			h.serving[unit] = generation{name: name, spec: spec}
			h.knowPlace(unit, name, 1)
		}
	}
	for _, group := range groups {
		rel, _ := group.Rel(h.hierarchy)
		name := filepath.Base(rel)
		if unit, number, ok := h.names.parse(name); ok && strings.Count(rel, "/") == 1 {
			h.knowPlace(unit, name, number)
		}
	}
	return h.files.clean(h.names, func(name string) bool { return h.placeOf(name) != nil })
}

// knowPlace takes back one group; the caller has the lock.
func (h *host) knowPlace(unit tenure.UnitID, name string, number int) {
	group := h.groupFor(unit, name)
	populated, err := group.Populated()
	spec, specErr := h.files.spec(name)
	if specErr != nil {
		spec = &supervise.Spec{Unit: unit}
	}
	h.places[group.Path()] = &place{
		Place: native.Place{Unit: unit, Service: unit, Spec: spec, Generation: number},
		name:  name, group: group, kept: specErr == nil, ended: err == nil && !populated,
	}
}
