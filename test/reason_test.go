package test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure/test/rig"
)

// told is how whatever runs for a change says why it does.
const told = `"$SNAP_REVISION $SNAP_LIFECYCLE_REASON:$SNAP_LIFECYCLE_FROM-$SNAP_LIFECYCLE_TO" >>"$SNAP_COMMON/trace"`

// reasons packs a snap whose service, its stop command, its post-stop command and its
// hooks say why they are run or ended, in one file; the hooks do more if a test wants.
func reasons(t *testing.T, i *rig.Instance, hooks map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "meta/snap.yaml"), `
name: reasons
version: '1'
base: debian12
apps:
  served:
    command: bin/served
    daemon: forking
    stop-command: bin/told stop
    post-stop-command: bin/told post
`)
	// It is ready when it hears signals. Its main process has the file alone.
	writeFile(t, filepath.Join(dir, "bin/served"), `#!/bin/sh
mkfifo "$SNAP_DATA/ready"
(
	trap 'echo "main $SNAP_REVISION $(cat "$SNAP_LIFECYCLE_REASON_FILE") $(snapctl reason)" >>"$SNAP_COMMON/trace"; exit 0' TERM
	echo "up $SNAP_REVISION" >>"$SNAP_COMMON/trace"
	echo >"$SNAP_DATA/ready"
	while :; do sleep infinity & wait $!; done
) &
read -r _ <"$SNAP_DATA/ready"
rm "$SNAP_DATA/ready"
`)
	writeFile(t, filepath.Join(dir, "bin/told"), "#!/bin/sh\necho \"$1\" "+told+"\n")
	for _, name := range []string{"install", "pre-refresh", "evacuate", "post-refresh", "configure", "remove"} {
		writeFile(t, filepath.Join(dir, "meta/hooks", name), "#!/bin/sh\necho \"${0##*/}\" "+told+"\n"+hooks[name]+"\n")
	}
	file := dir + ".snap"
	i.Tenure("pack", "--compression", "lz4", dir, file)
	return file
}

// Whatever runs for a change, and whatever is ended by one, is told why: the hooks, the
// stop command, the main process, and the post-stop command, for every reason there is, and
// when an installation or a refresh that has failed is undone.
func TestTheReasonOfEverything(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "1"))
	first, second := reasons(t, i, nil), reasons(t, i, nil)
	failing := reasons(t, i, map[string]string{"configure": "exit 1"})
	log := filepath.Join(i.Common("reasons"), "trace")
	// ends is what is said when the service is ended.
	ends := func(rev, reason, from, to string) []string {
		why := fmt.Sprintf("%s %s:%s-%s", rev, reason, from, to)
		return []string{"stop " + why, fmt.Sprintf("main %s %s %s", rev, reason, reason), "post " + why}
	}
	for _, c := range []struct {
		what  string
		args  []string
		fails bool
		want  []string
	}{
		{
			"failed install",
			[]string{"install", "--dangerous", failing},
			true,
			slices.Concat(
				[]string{"install x1 refresh:-x1", "up x1", "configure x1 refresh:-x1"},
				ends("x1", "remove", "x1", ""),
			),
		},
		{
			"install",
			[]string{"install", "--dangerous", first},
			false,
			[]string{"install x1 refresh:-x1", "up x1", "configure x1 refresh:-x1"},
		},
		{"restart", []string{"restart", "reasons.served"}, false, append(ends("x1", "restart", "x1", "x1"), "up x1")},
		{"stop", []string{"stop", "reasons"}, false, ends("x1", "stop", "x1", "x1")},
		{"start", []string{"start", "reasons"}, false, []string{"up x1"}},
		{"refresh", []string{"refresh", "--dangerous", second}, false, slices.Concat(
			[]string{"pre-refresh x1 refresh:x1-x2", "evacuate x1 refresh:x1-x2"},
			ends("x1", "refresh", "x1", "x2"),
			[]string{"post-refresh x2 refresh:x1-x2", "up x2", "configure x2 refresh:x1-x2"},
		)},
		{"failed refresh", []string{"refresh", "--dangerous", failing}, true, slices.Concat(
			[]string{"pre-refresh x2 refresh:x2-x3", "evacuate x2 refresh:x2-x3"},
			ends("x2", "refresh", "x2", "x3"),
			[]string{"post-refresh x3 refresh:x2-x3", "up x3", "configure x3 refresh:x2-x3"},
			ends("x3", "refresh", "x3", "x2"),
			[]string{"up x2"},
		)},
		{"revert", []string{"revert", "reasons"}, false, slices.Concat(
			[]string{"evacuate x2 revert:x2-x1"}, ends("x2", "revert", "x2", "x1"), []string{"up x1"},
		)},
		{"disable", []string{"disable", "reasons"}, false, ends("x1", "disable", "x1", "")},
		{"enable", []string{"enable", "reasons"}, false, []string{"up x1"}},
	} {
		words := afterwards(t, log, func() {
			if result := i.Try(c.args...); (result.Status != 0) != c.fails {
				t.Fatalf("%s: %+v", c.what, result)
			}
		})
		if diff := cmp.Diff(c.want, words); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
	words := afterwards(t, log, func() { i.Tenure("remove", "reasons") })
	if diff := cmp.Diff(append(ends("x1", "remove", "x1", ""), "remove x1 remove:x1-"), words); diff != "" {
		t.Errorf("remove (-want +got):\n%s", diff)
	}
	i.Tenure("install", "--dangerous", first)
	write(t, log, "")
	shutdown(t, i)
	text, err := os.ReadFile(log) //nolint:gosec // A file of the test's own root.
	if diff := cmp.Diff(ends("x1", "shutdown", "", ""), strings.Split(strings.TrimSpace(string(text)), "\n")); err != nil || diff != "" {
		t.Errorf("shutdown, %v (-want +got):\n%s", err, diff)
	}
}

// afterwards are the lines that are written to a file by what may remove it.
func afterwards(t *testing.T, path string, act func()) []string {
	t.Helper()
	writeFile(t, path, "")
	f, err := os.Open(path) //nolint:gosec // A file of the test's own root.
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // Only read.
	act()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// shutdown ends everything, as the end of the machine does.
func shutdown(t *testing.T, i *rig.Instance) {
	t.Helper()
	if got := i.Exec(filepath.Join(i.Bin, "tenured"), "shutdown", "--root", i.Root); got.Status != 0 {
		t.Fatalf("tenured shutdown: %+v", got)
	}
	<-i.Ended()
}
