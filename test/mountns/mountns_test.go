package mountns_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure/test/mountns"
)

// What is left in there is neither there any more, nor gone for those who have it; and who has mounts of his own keeps them.
func TestOthersAreLeftAndNotRobbed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all := []string{dir, filepath.Join(dir, "shared"), filepath.Join(dir, "shared/in")}
	for n, path := range all {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tenure-test", path, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(path, 0); err != nil {
				t.Errorf("unmount %s: %v", path, err)
			}
		})
		how := [...]uintptr{unix.MS_PRIVATE, unix.MS_SHARED, unix.MS_SHARED}[n]
		if err := unix.Mount("", path, "", how, ""); err != nil {
			t.Fatal(err)
		}
	}
	for kept, want := range map[string][]string{"": nil, dir: all} {
		script := mountns.Script("leave_others " + kept + "\nfindmnt -n -r -o TARGET")
		out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "unchanged", "sh", "-ec", script).CombinedOutput()
		if err != nil {
			t.Fatalf("leave others: %v\n%s", err, out)
		}
		if diff := cmp.Diff(want, below(dir, string(out))); diff != "" {
			t.Errorf("mounts of who keeps %q (-want +got):\n%s", kept, diff)
		}
	}
	out, err := exec.CommandContext(t.Context(), "findmnt", "-n", "-r", "-o", "TARGET").Output()
	if diff := cmp.Diff(all, below(dir, string(out))); err != nil || diff != "" {
		t.Errorf("mounts of who was left: %v (-want +got):\n%s", err, diff)
	}
}

// below are the lines that name dir, or what is in it.
func below(dir, lines string) (paths []string) {
	for line := range strings.Lines(lines) {
		if path := strings.TrimSuffix(line, "\n"); strings.HasPrefix(path+"/", dir+"/") {
			paths = append(paths, path)
		}
	}
	return paths
}
