package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"tenure/test/rig"
)

// Everybody sees what is there, how it is, and what they run themselves; the command lines of others,
// and what units and changes say, are for administrators.
func TestAUserLooks(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", probeSnap(t, i, probeYAML("1", `
plain:
	command: PROBE say:v1 run
`, `
server:
	daemon: notify
	command: PROBE notify:STATUS:at-work notify:READY:1 run
`)))
	cmd := personRuns(t, i, "plain", "1")
	server := i.Main("probe.server")
	look := func(args ...string) string {
		out, err := asUser(t, append([]string{filepath.Join(i.Bin, "tenure"), "--root", i.Root}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("tenure %q of a user: %v: %s", args, err, out)
		}
		return string(out)
	}
	shown, all := look("ps", "probe"), i.Tenure("ps", "probe")
	for _, c := range []struct {
		text           string
		mine, everyone bool
	}{
		{fmt.Sprintf("probe.plain~%d ", cmd.Process.Pid), true, true},
		{"probe plain say:v1 run", true, true},
		{"probe.server ", true, true},
		{fmt.Sprintf(" %d *", server.PID), true, true},
		{"probe server notify:", false, true},
	} {
		if got := strings.Contains(shown, c.text); got != c.mine {
			t.Errorf("ps of a user shows %q: %v\n%s", c.text, got, shown)
		}
		if got := strings.Contains(all, c.text); got != c.everyone {
			t.Errorf("ps of root shows %q: %v\n%s", c.text, got, all)
		}
	}
	if mine := look("ps", "--json", "probe"); strings.Contains(mine, "at-work") {
		t.Errorf("a user sees what a service says:\n%s", mine)
	}
	if unit := i.Units()["probe.server"]; unit.Text != "at-work" {
		t.Errorf("root does not see what a service says: %+v", unit)
	}
	for text, out := range map[string]string{
		"probe.server  enabled": look("services"),
		"probe  1 ":             look("list"),
		`Install "probe" snap`:  look("changes"),
	} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(text), " ")) {
			t.Errorf("a user does not see %q:\n%s", text, out)
		}
	}
	personEnds(t, cmd)
}
