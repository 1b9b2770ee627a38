package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/hook"
)

// asSnapctl is set for the test binary that is snapctl.
const asSnapctl = "TENURE_TEST_SNAPCTL"

func TestMain(m *testing.M) {
	if os.Getenv(asSnapctl) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// called is what snapctl comes to for one whom no daemon would answer.
func called(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, problems strings.Builder
	c := exec.CommandContext(t.Context(), self, args...)
	c.Env, c.Stdout, c.Stderr = append(env, asSnapctl+"=1", socketEnv+"=/dev/null"), &out, &problems
	if err := c.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			t.Fatal(err)
		}
		status = exit.ExitCode()
	}
	return out.String(), problems.String(), status
}

// The help has what the daemon carries out, and what it does not.
func TestHelpHasEveryCommand(t *testing.T) {
	t.Parallel()
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	refusal := hook.Execute(t.Context(), nil, hook.Caller{}, []string{"nonsense"}).Stderr
	_, list, _ := strings.Cut(strings.TrimSpace(refusal), "there are: ")
	want := append(strings.Split(list, ", "), "help")
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(names))); diff != "" {
		t.Errorf("commands (-daemon +help):\n%s", diff)
	}
	for _, args := range [][]string{nil, {"help"}, {"--help"}, {"-h"}} {
		out, problems, status := called(t, nil, args...)
		for _, c := range commands() {
			if !strings.Contains(out, "\n  "+c.name+" ") || !strings.Contains(out, c.about+"\n") {
				t.Errorf("snapctl %q does not tell of %s:\n%s", args, c.name, out)
			}
		}
		if asked := args != nil; problems != "" || (status == 0) != asked {
			t.Errorf("snapctl %q: %q, exit status %d", args, problems, status)
		}
	}
	for _, args := range [][]string{{"help", "progress"}, {"progress", "--help"}} {
		if out, _, status := called(t, nil, args...); !strings.HasPrefix(out, "Usage: snapctl progress [DONE TOTAL] MESSAGE\n") || status != 0 {
			t.Errorf("snapctl %q: %q, exit status %d", args, out, status)
		}
	}
}

func TestReason(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	written := filepath.Join(dir, "reason")
	if err := os.WriteFile(written, []byte("revert\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const file = "SNAP_LIFECYCLE_REASON_FILE="
	for name, test := range map[string]struct {
		env, args      []string
		stdout, stderr string
		status         int
	}{
		"a stop command":          {env: []string{reasonEnv + "=remove"}, stdout: "remove\n"},
		"a service that is ended": {env: []string{file + written}, stdout: "revert\n"},
		"a service that is not":   {env: []string{file + filepath.Join(dir, "none")}, stderr: "nobody has asked this process to end", status: 1},
		"a run of an app":         {stderr: "nobody has asked this process to end", status: 1},
		"an argument":             {args: []string{"x"}, stderr: `reason takes no argument, and was given "x"; it is called as: snapctl reason`, status: 1},
	} {
		out, problems, status := called(t, test.env, append([]string{"reason"}, test.args...)...)
		if out != test.stdout || status != test.status || !strings.Contains(problems, test.stderr) || (test.stderr == "") != (problems == "") {
			t.Errorf("%s: %q, %q, exit status %d", name, out, problems, status)
		}
	}
}
