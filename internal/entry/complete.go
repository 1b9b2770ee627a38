package entry

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

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

// IsCompleter reports whether arguments are those of a completer, also of one that an earlier
// release has started: its script began with the same words.
func IsCompleter(argv []string) bool {
	opening, _, _ := strings.Cut(completer, "\n")
	return slices.ContainsFunc(argv, func(arg string) bool { return strings.HasPrefix(arg, opening) })
}

// detach takes the process out of the session of who wants something completed: its terminal is not
// that of a completer, which gets no signal of it and cannot type there.
func detach() error {
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("leave the session: %w", err)
	}
	return nil
}
