package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
	"tenure/internal/supervise/native"
)

// reloadByHand has a unit reload because systemd is asked to, and returns when it has.
func (s *Supervisor) reloadByHand(ctx context.Context, group proc.Group) error {
	unit, known := s.UnitOf(group.Path())
	if !known {
		return fmt.Errorf("reload: %w", supervise.ErrUnknown)
	}
	status, known := s.status(ctx, unit)
	if !known || status.Spec == nil {
		return fmt.Errorf("reload %s: %w", unit, supervise.ErrUnknown)
	}
	return s.Reload(ctx, supervise.ReloadRequest{Spec: *status.Spec})
}

// askReload has the supervisor reload a unit. Where there is none this becomes the reload command.
func askReload(socket, path, unit string) error {
	conn, err := ask(socket, question{Verb: verbReload, Unit: unit})
	if err != nil {
		return reloadAlone(path, unit)
	}
	o, _, err := conn.answer()
	if err != nil {
		return fmt.Errorf("reload %s: the supervisor has died meanwhile: %w", unit, err)
	}
	if o.Error != "" {
		return errors.New(o.Error)
	}
	return nil
}

func reloadAlone(path, unit string) error {
	spec, err := readSpec(path)
	if err != nil {
		return err
	}
	if spec.Reload == nil {
		return fmt.Errorf("%s has no reload command: %w", spec.Unit, errors.ErrUnsupported)
	}
	return becomeCommand(unit, spec, *spec.Reload)
}

// StopAlone becomes the stop command of the unit that arguments of Main are of, if it has one: systemd
// signals what is left after it. It is for where Main has found nobody, and nothing better can be done.
func StopAlone(args []string) error {
	path, unit := args[len(args)-1], UnitOf(args)
	spec, err := readSpec(path)
	if err != nil || spec.Stop.Command == nil {
		return nil //nolint:nilerr // Then systemd ends it, as it does what it knows nothing else of.
	}
	return becomeCommand(unit, spec, *spec.Stop.Command, "SNAP_LIFECYCLE_REASON="+string(tenure.ReasonStop))
}

// becomeCommand becomes a command that systemd runs for a service while there is no supervisor. systemd says
// which process the main one is.
func becomeCommand(unit string, spec *supervise.Spec, command supervise.Command, env ...string) error {
	profile, socket := notifying(spec.Profile)
	env = append(env, "NOTIFY_SOCKET="+socket, "SNAP_LIFECYCLE_PIDS="+strings.Join(pidsOf(unit), " "))
	return enter(profile, command, withMain(slices.Concat(command.Env, env)))
}

// mainPID is by what systemd says which process is the main one.
const mainPID = "MAINPID"

// withMain adds to an environment what systemd says of the main process.
func withMain(env []string) []string {
	if pid, said := os.LookupEnv(mainPID); said {
		env = append(env, mainPID+"="+pid)
	}
	return env
}

// pidsOf are the processes of a unit, but not those that systemd runs for it.
func pidsOf(name string) (pids []string) {
	prefix, _, _ := strings.Cut(name, ".")
	n := names{prefix}
	unit, _, ok := n.parse(name)
	if !ok {
		return nil
	}
	hierarchy, err := proc.OpenHierarchy(prefix + slice)
	if err != nil {
		return nil
	}
	infos, _ := proc.GroupAt(filepath.Join(hierarchy.Path(), n.slice(unit.Snap), name)).Processes() // None is known then.
	for _, info := range infos {
		if info.Group != native.ControlGroup {
			pids = append(pids, strconv.Itoa(info.PID))
		}
	}
	return pids
}

// notifying is a profile in which systemd can be spoken to, and where.
func notifying(profile sandbox.Profile) (with sandbox.Profile, socket string) {
	if profile.Root == sandbox.RootHost || profile.Root == "" {
		return profile, notifySocket
	}
	profile.Mounts = append(slices.Clip(profile.Mounts), sandbox.Mount{
		Kind: sandbox.Bind, Source: notifySocket, Target: aloneSocket, File: true,
	})
	return profile, aloneSocket
}
