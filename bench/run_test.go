package bench

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"tenure/test/rig"
)

// runMargin is what a run of an app may cost more than its execution.
const runMargin = 5 * time.Millisecond

// benchRun is a run of an app by a user, from its fork to its end, against the
// execution of the same file, in turns.
func benchRun(b *testing.B, t *table, n int) {
	i := rig.New(b, rig.Config{})
	i.Tenure("install", "--dangerous", snap(b, 1))
	if err := os.Chmod(i.Root, 0o755); err != nil { //nolint:gosec // A user is to reach it.
		b.Fatal(err)
	}
	mounted := i.Path("snap/hello/current")
	var floors, runs series
	for range n {
		floors.add(asNobody(b, []string{"SNAP=" + mounted, "SNAP_REVISION=x1"}, mounted+"/bin/hello"))
		runs.add(asNobody(b, nil, i.Path("snap/bin/hello")))
	}
	t.row("hello executed by a user", floors)
	t.row("hello run by a user, as snap/bin/hello", runs)
	t.holdTime("run of an app, median, against its execution + 5 ms", runs.median(), floors.median()+runMargin)
}

// asNobody is how long a program of a user takes as a whole.
func asNobody(b *testing.B, env []string, path string) time.Duration {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), path)
	cmd.Env, cmd.Dir = append(env, "PATH=/usr/bin:/bin"), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%s: %v", path, err)
	}
	return time.Since(start)
}
