package systemd

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"tenure/internal/supervise"
)

// aloneSocket is where a unit with a root of its own sees systemd's socket when there was no
// supervisor to make it one.
const aloneSocket = "/run/tenure-unit/notify"

// becomeAlone becomes the service that systemd has started while there is no supervisor: as it is
// written down, and on terms with systemd alone.
func becomeAlone(path string) error {
	spec, err := readSpec(path)
	if err != nil {
		return fmt.Errorf("there is no supervisor to ask, and nothing is written down: %w", err)
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

// passedOn adds what systemd says of the service to an environment, as far as it begins with a prefix: of
// the descriptors that it passes, which are those that were stored before a crash, or of the main process.
func passedOn(env []string, prefix string) []string {
	for _, entry := range os.Environ() {
		if strings.HasPrefix(entry, prefix) {
			env = append(slices.Clip(env), entry)
		}
	}
	return env
}

// askStop has the supervisor end a unit before systemd does. Where there is none this becomes the
// stop command, and systemd ends the main process by the settings of the unit.
func askStop(socket, path, unit string) error {
	conn, err := ask(socket, question{Verb: verbStop, Unit: unit})
	if err != nil {
		return stopAlone(path, unit)
	}
	o, _, err := conn.answer()
	if err != nil {
		return nil //nolint:nilerr // It has died.
	}
	if o.Error != "" {
		return errors.New(o.Error)
	}
	return nil
}
