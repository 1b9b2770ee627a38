//go:build failpoints

package daemon

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"tenure/internal/change"
	"tenure/internal/refresh"
)

// boundary makes the daemon die by SIGKILL at a boundary, where the file failpoint
// below the state directory says which: 1 is the next one, and 0 none. The file goes
// with the death. Every boundary that is passed while it is there is first appended
// to the file failpoints.log, whose lines are what is counted, so that a test can
// count them, and knows where the daemon died, whoever killed it.
func boundary(paths refresh.Paths) func(change.Point) {
	file, log := filepath.Join(paths.State(), "failpoint"), filepath.Join(paths.State(), "failpoints.log")
	return func(p change.Point) {
		raw, err := os.ReadFile(file)
		if err != nil {
			return
		}
		passed := note(log, p)
		if at, err := strconv.Atoi(strings.TrimSpace(string(raw))); err != nil || passed != at {
			return
		}
		_ = os.Remove(file)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// note writes p as one line: change kind, task kind, phase, and whether the task is
// part of the gap; and returns how many lines there are now. They need not survive
// the machine, only the daemon.
func note(path string, p change.Point) (lines int) {
	log, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0
	}
	defer log.Close() //nolint:errcheck // It was not waited for either.
	fmt.Fprintf(log, "%s %s %s gap=%t\n", p.ChangeKind, p.TaskKind, p.Phase, p.Gap)
	text, err := io.ReadAll(io.NewSectionReader(log, 0, 1<<20))
	if err != nil {
		return 0
	}
	return bytes.Count(text, []byte{'\n'})
}
