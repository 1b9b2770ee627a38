package entry

import (
	_ "embed"
	"fmt"

	"golang.org/x/sys/unix"
)

// LoaderPath is where below a root the part of completion is that people's shells read.
const LoaderPath = "var/lib/tenure/helper/complete.bash"

//go:embed complete.bash
var loader []byte

//go:embed completer.bash
var completer string

// CompleterArgs are what bash has to be called with to run a completer in the place of an app:
// before them comes bash, and behind them what the helper was asked with. Nothing of the caller's
// environment is run by it.
func CompleterArgs(path, app string) []string {
	return []string{"-p", "-c", completer, "complete", path, app}
}

// detach takes the process out of the session and the terminal of who wants something
// completed: a completer has nothing to read there and nothing to type.
func detach() error {
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("leave the session: %w", err)
	}
	return nil
}
