package test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tenure/examples/clients/hello"
	"tenure/test/mountns"
	"tenure/test/rig"
)

// asAtBoot ends what runs as the machine does, has something done, and starts the daemon again.
func asAtBoot(t *testing.T, i *rig.Instance, does func()) {
	t.Helper()
	i.Stop()
	out, err := exec.CommandContext(t.Context(), filepath.Join(i.Bin, "tenured"), "shutdown", "--root", i.Root).CombinedOutput()
	if err != nil {
		t.Fatalf("tenured shutdown: %v\n%s", err, out)
	}
	does()
	i.Start()
}

// greets is what a hello says.
func greets(t *testing.T, i *rig.Instance, snap string) string {
	t.Helper()
	answer, err := hello.Ask(t.Context(), i.Path("var/snap", snap, "common/hello.sock"))
	if err != nil {
		return err.Error()
	}
	return answer.Revision
}

// warned is what tenure warnings says, on one line.
func warned(i *rig.Instance) string { return strings.Join(strings.Fields(i.Tenure("warnings")), " ") }

// TestDamagedSnapFile finds files of snaps damaged when the machine starts: others start, and what is
// said mends it.
func TestDamagedSnapFile(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	i.Tenure("install", "--dangerous", "--name", "hello_b", snap(t, "hello", "1"))
	i.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
	file := i.Path("var/lib/tenure/snaps/hello_x2.snap")
	whole := readFile(t, file)
	for _, damage := range []struct {
		name    string
		content []byte
		says    string
	}{
		{"its end is missing", whole[:len(whole)/2], "is damaged: it has"},
		{"it is another file", make([]byte, len(whole)), "as squashfs through"},
		{"it is gone", nil, "no such file or directory"},
	} {
		asAtBoot(t, i, func() {
			must(t, removeIfThere(file))
			if damage.content != nil {
				must(t, os.WriteFile(file, damage.content, 0o644)) //nolint:gosec // As it was.
			}
		})
		equal(t, damage.name+": another snap", greets(t, i, "hello_b"), "x1")
		if _, started := i.Units()["hello.hellod"]; started {
			t.Errorf("%s: the service was started", damage.name)
		}
		if got := i.Try("start", "hello"); got.Status == 0 || !strings.Contains(got.Stderr, damage.says) {
			t.Errorf("%s: start: exit status %d, %s", damage.name, got.Status, got.Stderr)
		}
		for _, want := range []string{damage.says, `revision x2 of "hello" cannot be used`, "tenure revert hello"} {
			if got := warned(i); !strings.Contains(got, want) {
				t.Errorf("%s: warnings have no %q: %s", damage.name, want, got)
			}
		}
	}
	i.Tenure("revert", "hello")
	equal(t, "after revert", greets(t, i, "hello"), "x1")
	i.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
	equal(t, "after refresh", greets(t, i, "hello"), "x3")
	i.Tenure("remove", "hello")
	if got := i.Tenure("warnings"); got != "" {
		t.Errorf("warnings when all is mended: %s", got)
	}
}

// TestUnreadableSnap has a file whose blocks are damaged, so that reading them is an error of the
// disk: what cannot start is undone, and what is said names it.
func TestUnreadableSnap(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	file := i.Path("var/lib/tenure/snaps/hello_x1.snap")
	asAtBoot(t, i, func() {
		content := readFile(t, file)
		for at := 256; at < len(content)/2; at++ { // Behind the head, before the tables.
			content[at] ^= 0xff
		}
		must(t, os.WriteFile(file, content, 0o644)) //nolint:gosec // As it was.
	})
	if got := i.Try("start", "hello"); got.Status == 0 || !strings.Contains(got.Stderr, "input/output error") {
		t.Errorf("start: exit status %d, %s", got.Status, got.Stderr)
	}
	i.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
	equal(t, "after refresh", greets(t, i, "hello"), "x2")
}

// TestNoLoopDevice has none to be had, as in a container that was given none: nothing is installed, nothing that runs
// is touched, and a machine that starts like that answers, and is well at the next start.
func TestNoLoopDevice(t *testing.T) {
	t.Parallel()
	forbidden := filepath.Join(t.TempDir(), "forbidden")
	i := rig.New(t, rig.Config{Wrap: []string{"/bin/sh", "-c", `
		if [ -e "$0" ]; then
			exec unshare --mount --propagation unchanged /bin/sh -ec "$1"'
				leave_others "$4"
				mount --make-rprivate /dev
				mount --bind "$0" /dev/loop-control
				shift
				exec "$@"' "$0" "$@"
		fi
		shift
		exec "$@"`, forbidden, mountns.Script("")}})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before := i.Main("hello.hellod")
	i.Stop()
	must(t, os.WriteFile(forbidden, nil, 0o600))
	i.Start()
	for _, args := range [][]string{
		{"install", "--dangerous", "--name", "hello_b", snap(t, "hello", "1")}, {"refresh", "--dangerous", snap(t, "hello", "2")},
	} {
		files := filesOf(t, i)
		got := i.Try(args...)
		if got.Status == 0 || !strings.Contains(got.Stderr, "there is no free loop device") || !strings.Contains(got.Stderr, "give it /dev/loop-control") {
			t.Errorf("%v: exit status %d, %s", args, got.Status, got.Stderr)
		}
		equal(t, "files", filesOf(t, i), files)
		equal(t, "main process", i.Main("hello.hellod"), before)
	}
	asAtBoot(t, i, func() {})
	if got := warned(i); !strings.Contains(got, `revision x1 of "hello" cannot be used`) || !strings.Contains(got, "there is no free loop device") {
		t.Errorf("warnings: %s", got)
	}
	i.Stop()
	must(t, os.Remove(forbidden))
	i.Start()
	equal(t, "when there are loop devices again", greets(t, i, "hello"), "x1")
}

// TestMountPointIsTaken has something else where a revision is to be mounted.
func TestMountPointIsTaken(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	before, point := i.Main("hello.hellod"), i.Path("snap/hello/x2")
	must(t, os.WriteFile(point, nil, 0o600))
	got := i.Try("refresh", "--dangerous", snap(t, "hello", "2"))
	if got.Status == 0 || !strings.Contains(got.Stderr, "mount hello/x2") && !strings.Contains(got.Stderr, point) {
		t.Errorf("exit status %d, %s", got.Status, got.Stderr)
	}
	equal(t, "main process", i.Main("hello.hellod"), before)
	must(t, removeIfThere(point))
	i.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
	asAtBoot(t, i, func() { must(t, errors.Join(os.Remove(point), os.WriteFile(point, nil, 0o600))) })
	if got := warned(i); !strings.Contains(got, `revision x2 of "hello" cannot be used`) {
		t.Errorf("warnings: %s", got)
	}
	i.Stop()
	must(t, os.Remove(point))
	i.Start()
	equal(t, "when it is free again", greets(t, i, "hello"), "x2")
}
