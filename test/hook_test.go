package test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure/test/rig"
)

// every is what every hook of a test begins with: it says that it runs.
const every = "#!/bin/sh\nset -e\n" +
	`echo "${0##*/} $SNAP_REVISION $SNAP_LIFECYCLE_REASON:$SNAP_LIFECYCLE_FROM-$SNAP_LIFECYCLE_TO" >>"$SNAP_COMMON/trace"` + "\n"

// hooked packs a snap with a service and hooks: what they do beside saying that
// they run, by their names.
func hooked(t *testing.T, i *rig.Instance, hooks map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), `
name: hooked
version: '1'
base: debian12
apps:
  served:
    command: bin/served
    daemon: forking
    plugs: [network]
  say:
    command: bin/say
`)
	writeFile(t, filepath.Join(dir, "bin/served"), "#!/bin/sh\n"+`echo "served $SNAP_REVISION" >>"$SNAP_COMMON/trace"; sleep infinity &`+"\n")
	writeFile(t, filepath.Join(dir, "bin/say"), "#!/bin/sh\nexec \"$@\"\n")
	for name, text := range hooks {
		writeFile(t, filepath.Join(dir, "meta/hooks", name), every+text+"\n")
	}
	file := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

// hookTrace are the lines that hooks and services have written, and from now on others.
func hookTrace(t *testing.T, i *rig.Instance) []string {
	t.Helper()
	path := filepath.Join(i.Common("hooked"), "trace")
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func allHooks() map[string]string {
	hooks := map[string]string{}
	for _, name := range []string{"install", "default-configure", "configure", "check-health", "pre-refresh", "post-refresh", "remove"} {
		hooks[name] = ""
	}
	return hooks
}

// Hooks run at their places in an install, a refresh and a removal, each from the
// revision that it is about, and are told why.
func TestHooksRunInTheirOrder(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	i.Tenure("install", "--dangerous", hooked(t, i, allHooks()))
	want := []string{
		"install x1 refresh:-x1", "default-configure x1 refresh:-x1", "served x1",
		"configure x1 refresh:-x1", "check-health x1 refresh:-x1",
	}
	if diff := cmp.Diff(want, hookTrace(t, i)); diff != "" {
		t.Errorf("install (-want +got):\n%s", diff)
	}
	i.Tenure("refresh", "--dangerous", hooked(t, i, allHooks()))
	want = []string{
		"pre-refresh x1 refresh:x1-x2", "post-refresh x2 refresh:x1-x2", "served x2",
		"configure x2 refresh:x1-x2", "check-health x2 refresh:x1-x2",
	}
	if diff := cmp.Diff(want, hookTrace(t, i)); diff != "" {
		t.Errorf("refresh (-want +got):\n%s", diff)
	}
	if logs, err := filepath.Glob(i.Path("var/lib/tenure/logs/*hook*")); err != nil || len(logs) > 0 {
		t.Errorf("logs of hooks that have ended: %v, %v", logs, err)
	}
	// The data goes with the snap, but for who has it open.
	seen, err := os.Open(filepath.Join(i.Common("hooked"), "trace"))
	if err != nil {
		t.Fatal(err)
	}
	defer seen.Close() //nolint:errcheck // Only read.
	i.Tenure("remove", "hooked")
	if text, err := io.ReadAll(seen); err != nil || string(text) != "remove x2 remove:x2-\n" {
		t.Errorf("remove: %q, %v", text, err)
	}
}

// A hook that fails makes its change fail, with what it has said, and the change is
// undone; that of a removal is told of and counts for nothing.
func TestAFailingHookUndoesItsChange(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	result := i.Try("install", "--dangerous", hooked(t, i, map[string]string{"install": "echo no room for it; exit 3"}))
	if result.Status == 0 || !strings.Contains(result.Stderr, "no room for it") {
		t.Errorf("an install whose hook fails: %+v", result)
	}
	if result := i.Try("list", "hooked"); result.Status == 0 {
		t.Errorf("a snap whose install hook has failed is installed: %+v", result)
	}
	i.Tenure("install", "--dangerous", hooked(t, i, map[string]string{"remove": "exit 1", "check-health": "exit 1"}))
	hookTrace(t, i)
	before := i.Main("hooked.served")
	for _, name := range []string{"pre-refresh", "post-refresh", "configure", "check-health"} {
		old := map[string]string{"remove": "exit 1", "pre-refresh": `test ! -e "$SNAP_COMMON/refuse" || { echo I refuse; exit 1; }`}
		failing := map[string]string{name: "echo I refuse >&2; exit 1"}
		if name == "pre-refresh" {
			// It is the old revision that is asked.
			i.Tenure("refresh", "--dangerous", hooked(t, i, old))
			before = i.Main("hooked.served")
			if err := os.WriteFile(filepath.Join(i.Common("hooked"), "refuse"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			failing = nil
		}
		result := i.Try("refresh", "--dangerous", hooked(t, i, failing))
		if result.Status == 0 || !strings.Contains(result.Stderr, "I refuse") {
			t.Errorf("a refresh whose %s hook fails: %+v", name, result)
		}
		if unit := i.Units()["hooked.served"]; unit.Revision != "x2" {
			t.Errorf("after %s has failed the service is %+v", name, unit)
		}
		if after := i.Main("hooked.served"); name == "pre-refresh" && after != before {
			t.Errorf("the service was %v and is %v, though nothing was to be touched yet", before, after)
		}
		if err := os.RemoveAll(filepath.Join(i.Common("hooked"), "refuse")); err != nil {
			t.Fatal(err)
		}
	}
	i.Tenure("remove", "hooked")
}

// A hook goes on when the daemon dies, and its change goes on with it.
func TestAHookOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	names := []string{"pre-refresh", "post-refresh"}
	waits := map[string]string{}
	for _, name := range names {
		waits[name] = `read -r line <"$SNAP_COMMON/${0##*/}"`
	}
	i.Tenure("install", "--dangerous", hooked(t, i, waits))
	for _, name := range names {
		if err := unix.Mkfifo(filepath.Join(i.Common("hooked"), name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hookTrace(t, i)
	id := strings.TrimSpace(i.Tenure("refresh", "--no-wait", "--dangerous", hooked(t, i, waits)))
	for _, name := range names {
		// It is open when the hook has opened it too.
		f, err := os.OpenFile(filepath.Join(i.Common("hooked"), name), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		i.Kill()
		i.Start()
		if _, err := fmt.Fprintln(f, "go on"); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	i.Tenure("watch", id)
	want := []string{"pre-refresh x1 refresh:x1-x2", "post-refresh x2 refresh:x1-x2", "served x2"}
	if diff := cmp.Diff(want, hookTrace(t, i)); diff != "" {
		t.Errorf("refresh (-want +got):\n%s", diff)
	}
}

// say runs a command inside of the snap, as a person's app.
func say(i *rig.Instance, args ...string) rig.Result {
	return i.Exec(i.Path("snap/bin/hooked.say"), args...)
}

// Configuration is set by people and by the snap itself; a configure hook sees what is
// to be set, adds to it and refuses it; a failed refresh and a revert bring it back.
func TestConfigurationGoesWithTheSnap(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	const configure = `
port=$(snapctl get port)
if [ "$port" = 0 ]; then
	snapctl set refused=true
	echo "port must not be 0"
	exit 1
fi
[ -z "$port" ] || snapctl set "url=http://localhost:$port" seen.revision=$SNAP_REVISION`
	i.Tenure("install", "--dangerous", hooked(t, i, map[string]string{
		"configure": configure, "install": `snapctl set -s motd=42 nested='{"a":{"b":1.50}}' && snapctl set nested2.a=true`,
	}))
	expect := func(want string, args ...string) {
		t.Helper()
		if got := strings.TrimSpace(i.Tenure(append([]string{"get"}, args...)...)); got != want {
			t.Errorf("tenure get %v is %q, want %q", args, got, want)
		}
	}
	expect("42", "hooked", "motd")
	expect(`"42"`, "-t", "hooked", "motd")
	expect("true", "hooked", "nested2.a")
	i.Tenure("set", "hooked", "port=8080", `list=[1,"two"]`)
	expect("http://localhost:8080", "hooked", "url")
	expect(`[1,"two"]`, "hooked", "list")
	if result := i.Try("set", "hooked", "port=0", "motd=lost"); result.Status == 0 || !strings.Contains(result.Stderr, "port must not be 0") {
		t.Errorf("what the configure hook refuses: %+v", result)
	}
	expect("8080", "hooked", "port")
	expect("42", "hooked", "motd")
	if result := i.Try("get", "hooked", "refused"); result.Status == 0 || !strings.Contains(result.Stderr, `snap "hooked" has no "refused" configuration option`) {
		t.Errorf("what was set by a hook that failed: %+v", result)
	}
	// An app of the snap sets at once; nobody from outside is the snap.
	if result := say(i, "snapctl", "set", "motd=hello"); result.Status != 0 {
		t.Errorf("snapctl in an app: %+v", result)
	}
	expect("hello", "hooked", "motd")
	if result := say(i, "snapctl", "get", "port", "motd"); result.Stdout != "{\n\t\"motd\": \"hello\",\n\t\"port\": 8080\n}\n" {
		t.Errorf("snapctl get: %+v", result)
	}
	nobody := i.Exec("/usr/bin/env", "TENURE_SNAPCTL_SOCKET="+i.Path("run/tenure/snapctl/snapctl.sock"), "SNAP_NAME=hooked",
		filepath.Join(i.Bin, "snapctl"), "get", "motd")
	if nobody.Status == 0 || !strings.Contains(nobody.Stderr, "of no unit") {
		t.Errorf("snapctl of nobody: %+v", nobody)
	}
	failing := hooked(t, i, map[string]string{
		"post-refresh": "snapctl set motd=other", "configure": "snapctl unset port", "check-health": "snapctl set-health error 'it aches'",
	})
	if result := i.Try("refresh", "--dangerous", failing); result.Status == 0 || !strings.Contains(result.Stderr, "it aches") {
		t.Errorf("a refresh to a snap that is not well: %+v", result)
	}
	expect("hello", "hooked", "motd")
	expect("8080", "hooked", "port")
	i.Tenure("refresh", "--dangerous", hooked(t, i, map[string]string{"configure": configure, "post-refresh": "snapctl set motd=other"}))
	expect("other", "hooked", "motd")
	expect("x2", "hooked", "seen.revision")
	i.Tenure("revert", "hooked")
	expect("hello", "hooked", "motd")
	// It is kept of a revision that ceases to be current while the snap is disabled, too.
	i.Tenure("disable", "hooked")
	i.Tenure("refresh", "--dangerous", hooked(t, i, map[string]string{"configure": configure}))
	i.Tenure("enable", "hooked")
	i.Tenure("set", "hooked", "motd=newer")
	i.Tenure("revert", "hooked")
	expect("hello", "hooked", "motd")
	i.Tenure("unset", "hooked", "motd")
	if result := i.Try("get", "hooked", "motd"); result.Status == 0 {
		t.Errorf("what was unset: %+v", result)
	}
	i.Tenure("remove", "hooked")
	i.Tenure("install", "--dangerous", hooked(t, i, nil))
	if result := i.Try("get", "hooked"); result.Status == 0 {
		t.Errorf("what was set before the snap was removed: %+v", result)
	}
	if result := i.Try("set", "hooked", "a=b"); result.Status == 0 || !strings.Contains(result.Stderr, `has no "configure" hook`) {
		t.Errorf("a snap without a configure hook: %+v", result)
	}
}

// A package controls its own services, and no others: from a hook when that has ended.
func TestAPackageControlsItsServices(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	i.Tenure("install", "--dangerous", hooked(t, i, map[string]string{
		"install":   "snapctl stop --disable hooked.served",
		"configure": `[ -z "$(snapctl get run)" ] || snapctl restart hooked.served; [ "$(snapctl get run)" != true ] || snapctl start --enable hooked.served`,
	}))
	if lines := hookTrace(t, i); lines[len(lines)-1] == "served x1" || len(i.Units()) > 0 {
		t.Errorf("the service runs, though the install hook has disabled it: %q", lines)
	}
	if out := say(i, "snapctl", "services").Stdout; !strings.Contains(out, "hooked.served  disabled  inactive") {
		t.Errorf("snapctl services: %s", out)
	}
	i.Tenure("set", "hooked", "run=true")
	first := i.Main("hooked.served")
	i.Tenure("set", "hooked", "run=again")
	if second := i.Main("hooked.served"); second == first {
		t.Errorf("the service was not restarted")
	}
	if result := say(i, "snapctl", "stop", "hooked.served"); result.Status != 0 {
		t.Errorf("snapctl stop in an app: %+v", result)
	}
	if _, runs := i.Units()["hooked.served"]; runs {
		t.Error("the service runs after snapctl stop")
	}
	if result := say(i, "snapctl", "start", "debian12.served"); result.Status == 0 {
		t.Errorf("snapctl start of another snap's service: %+v", result)
	}
	if out := i.Tenure("services", "hooked"); !strings.Contains(out, "enabled") {
		t.Errorf("start --enable has not enabled it: %s", out)
	}
}
