package test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"tenure/test/rig"
)

// personsYAML is a snap with apps that a person runs: one that a refresh is to leave alone, and
// one that says nothing of it.
func personsYAML(version string) string {
	return probeYAML(version, `
plain:
	command: PROBE say:v`+version+` run
`, `
quiet:
	command: PROBE say:v`+version+` run
	refresh-mode: ignore-running
`)
}

// personRuns runs an app of the snap probe as a user who is not root, until it says its version.
func personRuns(t *testing.T, i *rig.Instance, app, version string) *exec.Cmd {
	t.Helper()
	cmd := asUser(t, i.Path("snap/bin/probe."+app))
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	said, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || said != "v"+version+"\n" {
		t.Fatalf("%s says %q: %v", app, said, err)
	}
	return cmd
}

// personEnds ends what a user runs, as that user.
func personEnds(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	kill := asUser(t, "/bin/sh", "-c", fmt.Sprintf("kill -TERM %d", cmd.Process.Pid))
	if out, err := kill.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_ = cmd.Wait() // By the signal.
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("%s ended: %s", cmd.Path, cmd.ProcessState)
	}
}

// An app that a user runs keeps a refresh by hand from going on, and is named with its process;
// one that says refresh-mode: ignore-running does not, nor does any with --ignore-running. Those
// live on, on what they were started from.
func TestAUsersAppAndARefresh(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", probeSnap(t, i, personsYAML("1")))
	quiet, plain := personRuns(t, i, "quiet", "1"), personRuns(t, i, "plain", "1")
	second := probeSnap(t, i, personsYAML("2"))
	refused := i.Try("refresh", "--dangerous", second)
	named := fmt.Sprintf("probe.plain~%d (%d probe)", plain.Process.Pid, plain.Process.Pid)
	if refused.Status == 0 || !strings.Contains(refused.Stderr, named) || strings.Contains(refused.Stderr, "probe.quiet") ||
		!strings.Contains(refused.Stderr, "--ignore-running") {
		t.Errorf("the refresh: %+v; it should name %s", refused, named)
	}
	i.Tenure("refresh", "--dangerous", "--ignore-running", second)
	units := i.Units()
	for name, cmd := range map[string]*exec.Cmd{"quiet": quiet, "plain": plain} {
		unit := units[fmt.Sprintf("probe.%s~%d", name, cmd.Process.Pid)]
		if unit.Revision != "x1" || !unit.Stale || len(unit.Processes) != 1 || unit.Processes[0].PID != cmd.Process.Pid {
			t.Errorf("%s after the refresh: %+v", name, unit)
		}
		// What it runs from is all there, also for itself.
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root%s/meta/snap.yaml", cmd.Process.Pid, "/snap/probe/x1")); err != nil {
			t.Errorf("%s has lost its revision: %v", name, err)
		}
	}
	again := personRuns(t, i, "plain", "2")

	// The one of the new revision is in the way of the next refresh, and so is the old one.
	third := probeSnap(t, i, personsYAML("3"))
	refused = i.Try("refresh", "--dangerous", third)
	for _, cmd := range []*exec.Cmd{plain, again} {
		if pid := fmt.Sprintf("(%d probe)", cmd.Process.Pid); refused.Status == 0 || !strings.Contains(refused.Stderr, pid) {
			t.Errorf("the next refresh does not name %s: %+v", pid, refused)
		}
	}
	personEnds(t, plain)
	personEnds(t, again)
	i.Tenure("refresh", "--dangerous", third)
	personEnds(t, quiet)
}
