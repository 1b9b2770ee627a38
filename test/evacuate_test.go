package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure/client"
	"tenure/test/rig"
)

// evacuated is a snap on x1 whose evacuate hook does what a test wants, with fifos that
// it can wait at.
func evacuated(t *testing.T, hook string, fifos ...string) *rig.Instance {
	t.Helper()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	i.Tenure("install", "--dangerous", hooked(t, i, map[string]string{"evacuate": hook}))
	for _, name := range fifos {
		if err := unix.Mkfifo(filepath.Join(i.Common("hooked"), name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hookTrace(t, i)
	return i
}

// gate is a fifo that a hook reads from. It is open when the hook stands at it, which goes
// on when something is written.
func gate(t *testing.T, i *rig.Instance, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(i.Common("hooked"), name), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func open(t *testing.T, gate *os.File) {
	t.Helper()
	if _, err := fmt.Fprintln(gate, "go on"); err != nil {
		t.Fatal(err)
	}
}

// awaitProgress waits until a hook of a change has said how far it is.
func awaitProgress(t *testing.T, i *rig.Instance, id string, want client.Progress) {
	t.Helper()
	awaitTurn(t, i, id, func(c client.Change) bool {
		return slices.ContainsFunc(c.Tasks, func(task client.Task) bool { return task.Status == "Doing" && task.Progress == want })
	})
}

// Before anything stops, the revision that runs moves its work away. It says how far it
// is, lives through the end of the daemon, and lets the refresh go on.
func TestAnEvacuationComesBeforeTheGap(t *testing.T) {
	t.Parallel()
	i := evacuated(t, `
snapctl progress 1 3 "moving web1"
read -r line <"$SNAP_COMMON/first"
snapctl progress 2 3 moving  web2
read -r line <"$SNAP_COMMON/second"
snapctl change >"$SNAP_COMMON/change"`, "first", "second")
	next := hooked(t, i, nil)
	if plan := i.Tenure("refresh", "--dangerous", "--dry-run", next); !strings.Contains(plan, "before anything stops: the evacuate hook of x1 is run, and can refuse; it may take 10m") {
		t.Errorf("the plan does not say that the package is asked:\n%s", plan)
	}
	before := i.Main("hooked.served")
	id := strings.TrimSpace(i.Tenure("refresh", "--no-wait", "--dangerous", next))
	first := gate(t, i, "first")
	awaitProgress(t, i, id, client.Progress{Label: "moving web1", Done: 1, Total: 3})
	for _, command := range []string{"tasks " + id, "changes hooked"} {
		if out := i.Tenure(strings.Fields(command)...); !strings.Contains(out, "33%: moving web1") {
			t.Errorf("tenure %s does not say how far it is:\n%s", command, out)
		}
	}
	i.Kill()
	open(t, first)
	i.Start()
	second := gate(t, i, "second")
	awaitProgress(t, i, id, client.Progress{Label: "moving web2", Done: 2, Total: 3})
	if unit := i.Units()["hooked.served"]; i.Main("hooked.served") != before || unit.Revision != "x1" {
		t.Errorf("the service was %v and is %+v while the package moves its work away", before, unit)
	}
	open(t, second)
	i.Tenure("watch", id)
	if diff := cmp.Diff([]string{"evacuate x1 refresh:x1-x2", "served x2"}, hookTrace(t, i)); diff != "" {
		t.Errorf("refresh (-want +got):\n%s", diff)
	}
	if text, err := os.ReadFile(filepath.Join(i.Common("hooked"), "change")); err != nil || !strings.Contains(string(text), `Run evacuate hook of "hooked" snap`) {
		t.Errorf("snapctl change in a hook: %q, %v", text, err)
	}
}

// What the package has asked of its services before anything stopped is done, as it is for all
// other hooks of a refresh.
func TestAnEvacuationEndsAService(t *testing.T) {
	t.Parallel()
	i := evacuated(t, "snapctl stop hooked.served")
	i.Tenure("refresh", "--dangerous", hooked(t, i, nil))
	if unit, runs := i.Units()["hooked.served"]; runs {
		t.Errorf("the service was to be stopped, and is %+v", unit)
	}
	i.Tenure("start", "hooked.served")
	if unit := i.Units()["hooked.served"]; unit.Revision != "x2" {
		t.Errorf("started again it is %+v", unit)
	}
}

// A package that does not let go holds the refresh, and nothing was touched: when it
// says so by its exit status, by snapctl fail, or by taking too long; also when the
// administrator gives up. "Whatever it costs" does not ask it.
func TestAnEvacuationThatIsRefused(t *testing.T) {
	t.Parallel()
	i := evacuated(t, `
case $(cat "$SNAP_COMMON/mood") in
refuses) echo "three guests cannot move"; exit 3;;
fails) snapctl fail "not now: a backup runs"; exit 0;;
dawdles) sleep infinity;;
waits) read -r line <"$SNAP_COMMON/gate";;
esac`, "gate")
	next := hooked(t, i, nil)
	before := i.Main("hooked.served")
	check := func(mood string) {
		t.Helper()
		if unit := i.Units()["hooked.served"]; i.Main("hooked.served") != before || unit.Revision != "x1" {
			t.Errorf("the service was %v and is %+v, though the package %s", before, unit, mood)
		}
		if left, err := filepath.Glob(i.Path("var/snap/hooked/x[2-9]")); err != nil || len(left) > 0 {
			t.Errorf("data of a revision that was refused: %v, %v", left, err)
		}
	}
	i.Tenure("set", "system", "lifecycle.max-evacuate=1s")
	for _, c := range []struct{ mood, want string }{
		{"refuses", "three guests cannot move"},
		{"fails", "not now: a backup runs"},
		{"dawdles", "it may take at most 1s"},
	} {
		write(t, filepath.Join(i.Common("hooked"), "mood"), c.mood)
		result := i.Try("refresh", "--dangerous", next)
		const held = "the snap does not let go, and nothing of it was stopped (try again later, or use --force)"
		if result.Status != 1 || !strings.Contains(result.Stderr, held) || !strings.Contains(result.Stderr, c.want) {
			t.Errorf("a refresh of a snap that %s: %+v", c.mood, result)
		}
		check(c.mood)
	}
	i.Tenure("unset", "system", "lifecycle.max-evacuate")
	write(t, filepath.Join(i.Common("hooked"), "mood"), "waits")
	id := strings.TrimSpace(i.Tenure("refresh", "--no-wait", "--dangerous", next))
	gate(t, i, "gate")
	if result := say(i, "snapctl", "is-ready", id); result.Status != 3 || result.Stdout+result.Stderr != "" {
		t.Errorf("is-ready of a change that goes on: %+v", result)
	}
	i.Tenure("abort", id)
	if status := endOf(t, i, id); status != "Undone" {
		t.Errorf("a change that was given up while it asked is %s", status)
	}
	check("was not waited for")
	hookTrace(t, i)
	i.Tenure("refresh", "--force", "--dangerous", next)
	if lines := hookTrace(t, i); len(lines) != 1 || !strings.HasPrefix(lines[0], "served ") {
		t.Errorf("a refresh whatever it costs: %q", lines)
	}
}

// Where several snaps are refreshed at once, each is asked before any of them stops, and
// once.
func TestAnEvacuationComesBeforeTheGapsOfOthers(t *testing.T) {
	t.Parallel()
	i := evacuated(t, `[ "$(cat "$SNAP_COMMON/mood")" != refuses ]`)
	const another = "{name: another, version: '1', base: debian12, apps: {idle: {command: bin/idle, daemon: simple}}}"
	file := obedientSnap(t, i, another)
	i.Tenure("install", "--dangerous", file)
	write(t, filepath.Join(i.Common("hooked"), "mood"), "refuses")
	next := hooked(t, i, nil)
	before := i.Main("another.idle")
	result := i.Try("refresh", "--dangerous", file, next)
	if result.Status != 1 || !strings.Contains(result.Stderr, "the snap does not let go, and nothing of it was stopped") {
		t.Errorf("a refresh that one of two refuses: %+v", result)
	}
	if unit := i.Units()["another.idle"]; i.Main("another.idle") != before || unit.Revision != "x1" {
		t.Errorf("the service was %v and is %+v, though another snap does not let go", before, unit)
	}
	write(t, filepath.Join(i.Common("hooked"), "mood"), "agrees")
	hookTrace(t, i)
	i.Tenure("refresh", "--dangerous", file, next)
	lines := hookTrace(t, i)
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "evacuate x1") || !strings.HasPrefix(lines[1], "served ") || i.Main("another.idle") == before {
		t.Errorf("a refresh that both agree to: %q", lines)
	}
}

// A package follows the changes that concern it, and no others.
func TestAPackageFollowsItsChanges(t *testing.T) {
	t.Parallel()
	i := evacuated(t, `snapctl fail "no, never"; exit 1`)
	id := strings.TrimSpace(say(i, "snapctl", "restart", "--no-wait", "hooked.served").Stdout)
	i.Tenure("watch", id)
	if result := say(i, "snapctl", "is-ready", id); result.Status != 0 || result.Stdout+result.Stderr != "" {
		t.Errorf("is-ready of a change that is done: %+v", result)
	}
	var shown struct {
		ID, Kind, Status string
		Ready            bool
		Tasks            []struct{ Status string }
	}
	result := say(i, "snapctl", "tasks", "--format=json", id)
	if err := json.Unmarshal([]byte(result.Stdout), &shown); err != nil {
		t.Fatalf("tasks --format=json: %+v: %v", result, err)
	}
	if shown.ID != id || shown.Kind != "service-control" || !shown.Ready || shown.Status != "Done" || len(shown.Tasks) == 0 {
		t.Errorf("tasks --format=json: %+v", shown)
	}
	id = strings.TrimSpace(i.Tenure("refresh", "--no-wait", "--dangerous", hooked(t, i, nil)))
	endOf(t, i, id)
	if result := say(i, "snapctl", "is-ready", id); result.Status != 2 || result.Stdout+result.Stderr != "" {
		t.Errorf("is-ready of a change that has failed: %+v", result)
	}
	if result := say(i, "snapctl", "tasks", id); result.Status != 0 || !strings.Contains(result.Stdout, "Error") {
		t.Errorf("tasks of a change that has failed: %+v", result)
	}
	for want, args := range map[string][]string{
		`change "1" not found`:                     {"is-ready", "1"}, // It has installed another snap.
		`change "999" not found`:                   {"tasks", "999"},
		`want a number like 12`:                    {"is-ready", "-1"},
		`it is called as: snapctl is-ready CHANGE`: {"is-ready"},
		`outside of a hook it must be named`:       {"change"},
		`it is called as: snapctl change`:          {"change", "--format=xml", id},
		`only a hook can do that`:                  {"fail", "x"},
		`only a hook can do that, for`:             {"progress", "1", "2", "x"},
		`between 0 and the total`:                  {"progress", "3", "2", "x"},
	} {
		result := say(i, append([]string{"snapctl"}, args...)...)
		if !strings.Contains(result.Stderr, want) || result.Status != 1 {
			t.Errorf("snapctl %v: %+v, want %q", args, result, want)
		}
	}
}
