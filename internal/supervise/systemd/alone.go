package systemd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"tenure/internal/mount"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
	"tenure/internal/supervise/native"
)

// aloneSocket is where a unit with a root of its own sees systemd's socket when there was no
// supervisor to make it one.
const aloneSocket = "/run/tenure-unit/notify"

// Why a service is not started alone.
var (
	errHeld      = fmt.Errorf("the service is down in the middle of a change, which tenured goes on with when it is started: %w", errAbandoned)
	errElsewhere = fmt.Errorf("the service runs, in another generation: %w", errAbandoned)
)

// becomeUnheld is becomeAlone, unless the supervisor has died in the middle of a change of the service: then that
// is for the next one to start.
func becomeUnheld(state, path, unit string) error {
	if state == "" {
		return becomeAlone(path) // An earlier version has written the unit.
	}
	service, boot, err := recordOf(unit)
	switch {
	case err != nil:
		return err
	case native.Held(state, boot, service):
		return errHeld
	case native.Elsewhere(state, boot, service, unit):
		return errElsewhere
	}
	return becomeAlone(path)
}

// becomeAlone becomes the service that systemd has started while there is no supervisor: as it is
// written down, and on terms with systemd alone.
func becomeAlone(path string) error {
	spec, err := readSpec(path)
	if err != nil {
		return fmt.Errorf("there is no supervisor to ask, and nothing is written down: %w", err)
	}
	if err := filesOf(spec); err != nil {
		return fmt.Errorf("%w; tenured-boot.service has them mounted when the machine boots, and tenured.service when it starts: see what became of them, and start one", err)
	}
	profile, socket := notifying(spec.Profile)
	env := spec.Command.Env
	if spec.Type == supervise.Notify || spec.Watchdog > 0 {
		env = append(slices.Clip(env), "NOTIFY_SOCKET="+socket)
	}
	if spec.Watchdog > 0 {
		every := "WATCHDOG_USEC=" + strconv.FormatInt(spec.Watchdog.Microseconds(), 10)
		env = append(env, every)
		if err := relay(os.Getpid(), every); err != nil {
			return err
		}
	}
	return enterGiven(spec, profile, env)
}

// errNotThere is that files of a snap are not where a unit looks for them.
var errNotThere = errors.New("the files of the snap are not there")

// revisions is where units see the revisions of their snaps.
const revisions = "/snap"

// filesOf fails where nobody has mounted what a unit runs from.
func filesOf(spec *supervise.Spec) error {
	var dirs []string
	switch spec.Profile.Root {
	case sandbox.RootHost, "":
		if _, err := os.Stat(spec.Command.Argv[0]); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", errNotThere, err)
		}
	case sandbox.RootBase:
		dirs = append(dirs, spec.Profile.Base)
	case sandbox.RootEmpty:
	}
	for _, m := range spec.Profile.Mounts {
		if filepath.Dir(m.Target) == revisions {
			dirs = append(dirs, filepath.Join(m.Source, spec.Revision.String()))
		}
	}
	for _, dir := range dirs {
		_, mounted, err := mount.Mounted(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !mounted {
			return fmt.Errorf("%w: nothing is mounted at %s", errNotThere, dir)
		}
	}
	return nil
}

// ErrNobody is that there is no supervisor to end a unit, or none any more.
var ErrNobody = errors.New("there is no supervisor")

// askStop has the supervisor end a unit before systemd does.
func askStop(socket, unit string) error {
	_, said := os.LookupEnv(mainPID)
	conn, err := ask(socket, question{Verb: verbStop, Unit: unit, Orphan: !said})
	if err != nil {
		return fmt.Errorf("stop %s: %w: %w", unit, ErrNobody, err)
	}
	o, _, err := conn.answer()
	if err = errors.Join(err, unix.Close(int(conn))); err != nil {
		return fmt.Errorf("stop %s: %w any more: %w", unit, ErrNobody, err)
	}
	if o.Error != "" {
		return errors.New(o.Error)
	}
	return nil
}
