package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise/native"
)

var _ native.Witness = (*host)(nil)

// Exit implements native.Witness: systemd keeps how the last main process of a service has ended.
func (h *host) Exit(ctx context.Context, group proc.Group, process tenure.Process) proc.Exit {
	pl, err := h.at(group)
	if err != nil || !pl.kept {
		return proc.Exit{} // systemd forgets all else with its end.
	}
	exit, err := h.bus.lastExit(ctx, pl.name, process.PID)
	if err != nil {
		h.logger.Info("systemd does not say how a process has ended", slog.String("unit", pl.name), slog.Any("error", err))
	}
	return exit
}

// lastExit is how the last main process of a unit ended, if that had this pid and has ended.
func (b *bus) lastExit(ctx context.Context, unit string, pid int) (proc.Exit, error) {
	conn, _, err := b.get()
	if err != nil {
		return proc.Exit{}, err
	}
	var last uint32
	var code, status int32
	for name, value := range map[string]any{"ExecMainPID": &last, "ExecMainCode": &code, "ExecMainStatus": &status} {
		property, err := conn.GetServicePropertyContext(ctx, unit, name)
		if err == nil {
			err = property.Value.Store(value)
		}
		if err != nil {
			return proc.Exit{}, fmt.Errorf("end of the main process of %s: %w", unit, err)
		}
	}
	if int(last) != pid {
		return proc.Exit{}, nil
	}
	return proc.ExitBy(code, status), nil
}

// DropLogs implements supervise.LogKeeper. With them goes the slice of the snap, which nothing is
// in any more.
func (s *Supervisor) DropLogs(ctx context.Context, snap tenure.Instance) error {
	return errors.Join(s.Supervisor.DropLogs(ctx, snap), s.host.dropSlice(ctx, snap))
}

// dropSlice has systemd forget the slice of a snap, unless something is in it, or is to be.
func (h *host) dropSlice(ctx context.Context, snap tenure.Instance) error {
	name := h.names.slice(snap)
	populated, err := proc.GroupAt(filepath.Join(h.hierarchy.Path(), name)).Populated()
	if errors.Is(err, proc.ErrNoGroup) || populated {
		return nil
	}
	if now, err := h.bus.look(ctx, name); err != nil || now.active != "active" {
		return err
	}
	if err := h.bus.stop(ctx, name); err != nil {
		h.logger.Info("slice is left", slog.String("slice", name), slog.Any("error", err))
	}
	return nil
}
