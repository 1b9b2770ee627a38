package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/mount"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/snapfile"
)

const (
	// strayGrace is how long a process in no unit may take to end: nobody has said
	// anything about it, so that it is what services have.
	strayGrace = 30 * time.Second
	// strayRounds bounds how often it is looked for what others have forked meanwhile.
	strayRounds = 10
)

// strays are the processes that run a program of a kept revision of state and are
// in no unit. What only reads its files, or works in its directories, belongs to
// somebody else; so does what runs the programs of a base.
func (m *Manager) strays(ctx context.Context, state *snapState) ([]policy.Stray, error) {
	apps := slices.DeleteFunc(slices.Clone(state.Line.Kept()), func(rev tenure.Revision) bool {
		info := state.Kept[rev].Info // Nil only if somebody has written in the journal.
		return info == nil || info.Type != snapfile.TypeApp
	})
	byDev, infos, err := m.mounted(state.Instance, apps)
	if err != nil || len(infos) == 0 {
		return nil, err
	}
	users, err := m.cfg.Table.RunnersOf(ctx, infos...)
	if err != nil {
		return nil, fmt.Errorf("look for strays of %s: %w", state.Instance, err)
	}
	// After the users: what a unit has forked in between is no stray.
	tracked, err := m.tracked(ctx)
	if err != nil {
		return nil, err
	}
	var strays []policy.Stray
	for dev, uses := range users {
		for _, use := range uses {
			if tracked[use.Process] {
				continue
			}
			info, found, err := m.stillRuns(use.Process, dev, infos)
			if err != nil {
				return nil, fmt.Errorf("look for strays of %s: %w", state.Instance, err)
			}
			if found {
				strays = append(strays, policy.Stray{Process: use.Process, Revision: byDev[dev], CommandLine: info.CommandLine()})
			}
		}
	}
	return strays, nil
}

// stillRuns looks again whether a process runs a program of the mount dev, now that
// its start time is known: it could have got its pid while that was looked at.
func (m *Manager) stillRuns(process tenure.Process, dev mount.Dev, mounts []mount.Info) (info proc.Info, found bool, err error) {
	info, err = proc.Read(process.PID)
	if err != nil || info.Process != process {
		return info, false, nil //nolint:nilerr // It has ended.
	}
	used, err := m.cfg.Table.UsedBy(process, mounts...)
	return info, slices.Contains(used[dev], mount.Exe), err
}

// tracked are the processes of all units.
func (m *Manager) tracked(ctx context.Context) (map[tenure.Process]bool, error) {
	statuses, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return nil, fmt.Errorf("see units: %w", err)
	}
	found := map[tenure.Process]bool{}
	for _, status := range statuses {
		processes, err := m.processes(ctx, status.Unit)
		if err != nil {
			return nil, err
		}
		for _, p := range processes {
			found[p.Process] = true
		}
	}
	return found, nil
}

// endStrays ends the strays of a snap, and what they fork meanwhile.
func (m *Manager) endStrays(ctx context.Context, snap tenure.Instance, kill bool) error {
	state, err := m.snaps.Get(snap)
	if err != nil || state == nil {
		return err
	}
	for range strayRounds {
		strays, err := m.strays(ctx, state)
		if err != nil || len(strays) == 0 {
			return err
		}
		var failures []error
		for _, stray := range strays {
			failures = append(failures, m.tellStray(ctx, snap, stray))
		}
		deadline, cancel := context.WithTimeout(ctx, strayGrace)
		for _, stray := range strays {
			mayKill := kill || mayKill(state.Kept[stray.Revision].Info)
			failures = append(failures, m.awaitStray(ctx, deadline, snap, stray, mayKill))
		}
		cancel()
		if err := errors.Join(failures...); err != nil {
			return fmt.Errorf("end strays of %s: %w", snap, err)
		}
	}
	return fmt.Errorf("end strays of %s: %w: they fork faster than they end", snap, mount.ErrBusy)
}

func mayKill(info *snapfile.Snap) bool {
	return !slices.ContainsFunc(info.Apps, func(app snapfile.App) bool { return !app.Lifecycle.MayKill() })
}

func (m *Manager) tellStray(ctx context.Context, snap tenure.Instance, stray policy.Stray) error {
	change.ReporterFrom(ctx).Logf("process %d (%s) is in no unit and is told to end", stray.PID, stray.CommandLine)
	handle, err := proc.Open(stray.Process)
	if err == nil {
		defer handle.Close()
		m.recordStray(ctx, snap, stray, "SIGTERM", false)
		err = handle.Signal(syscall.SIGTERM)
	}
	if errors.Is(err, proc.ErrGone) {
		return nil
	}
	return err
}

// awaitStray waits for the end of a stray, until the deadline on its own account.
func (m *Manager) awaitStray(ctx, deadline context.Context, snap tenure.Instance, stray policy.Stray, mayKill bool) error {
	handle, err := proc.Open(stray.Process)
	if errors.Is(err, proc.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer handle.Close()
	_, err = handle.Wait(deadline)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if !mayKill {
		// Everybody may read an error of a change; command lines are for administrators.
		return fmt.Errorf("process %d did not end within %s, and must not be killed", stray.PID, strayGrace)
	}
	m.recordStray(ctx, snap, stray, "SIGKILL", true)
	if err := handle.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, proc.ErrGone) {
		return err
	}
	change.ReporterFrom(ctx).Logf("process %d did not end in its time and was killed", stray.PID)
	_, err = handle.Wait(ctx)
	return err
}
