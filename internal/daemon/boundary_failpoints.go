//go:build failpoints

package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"tenure/internal/change"
	"tenure/internal/refresh"
)

// boundary makes the daemon die by SIGKILL at the n-th boundary that it passes,
// where the file failpoint below the state directory says n. Every boundary is
// appended to the file failpoints.log, so that a test knows where it was.
func boundary(paths refresh.Paths) func(change.Point) {
	var passed atomic.Int64
	return func(p change.Point) {
		n := passed.Add(1)
		raw, err := os.ReadFile(filepath.Join(paths.State(), "failpoint"))
		if err != nil {
			return
		}
		at, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err != nil || n != at {
			return
		}
		log, err := os.OpenFile(filepath.Join(paths.State(), "failpoints.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			fmt.Fprintf(log, "%s %s %s gap=%t\n", p.ChangeKind, p.TaskKind, p.Phase, p.Gap)
			_ = log.Close()
		}
		_ = os.Remove(filepath.Join(paths.State(), "failpoint"))
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
