package squash_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure/internal/snapfile"
	"tenure/internal/squash"
)

// TestListDirAgreesWithList: what is checked before a snap file is built is what
// is checked of the file.
func TestListDirAgreesWithList(t *testing.T) {
	t.Parallel()
	dir := snapTree(t)
	if err := errors.Join(os.Chmod(filepath.Join(dir, "bin/a file"), 0o755|os.ModeSetuid), os.Chmod(dir, 0o700)); err != nil { //nolint:gosec // The mode is the point.
		t.Fatal(err)
	}
	before, err := squash.ListDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	after, err := squash.Open(squash.Config{}).List(t.Context(), build(t, dir, squash.BuildOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, entries := range [][]squash.Entry{before, after} {
		for i := range entries {
			entries[i].UID, entries[i].GID = 0, 0
			if entries[i].Mode.IsDir() {
				entries[i].Size = 0 // It depends on the file system.
			}
		}
	}
	if diff := cmp.Diff(after, before); diff != "" {
		t.Errorf("the directory differs from the snap file (-file +directory):\n%s", diff)
	}
}

func TestCheckSnapFindsPrograms(t *testing.T) {
	t.Parallel()
	with := func(entries ...squash.Entry) []squash.Entry { return append(sound(), entries...) }
	stop := snapfile.App{Name: "web", Command: snapfile.Command{"bin/web"}, Lifecycle: snapfile.Lifecycle{
		Workloads: []snapfile.Workload{{Name: "vm", StopCommand: snapfile.Command{"bin/stop"}}},
	}}
	web := squash.Entry{Path: "bin/web", Mode: 0o755}
	cases := []struct {
		name    string
		entries []squash.Entry
		says    string
	}{
		{"all there", with(web, squash.Entry{Path: "bin/stop", Mode: 0o755}), ""},
		{"a link", with(web, squash.Entry{Path: "bin/stop", Mode: fs.ModeSymlink | 0o777, Target: "/bin/true"}), ""},
		{"below a link", with(squash.Entry{Path: "bin", Mode: fs.ModeSymlink | 0o777, Target: "/opt"}), ""},
		{"no program", with(), `app web: there is no file "bin/web" in the snap`},
		{"no stop command", with(web), `app web: there is no file "bin/stop" in the snap`},
		{"not executable", with(web, squash.Entry{Path: "bin/stop", Mode: 0o644}), `app web: the file "bin/stop" is not executable`},
		{"a directory", with(squash.Entry{Path: "bin/web", Mode: fs.ModeDir | 0o755}), `app web: "bin/web" is a directory`},
		{"a device", with(web, squash.Entry{Path: "bin/stop", Mode: fs.ModeDevice | 0o755}), "bin/stop is a device"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := squash.CheckSnap(&snapfile.Snap{Type: snapfile.TypeApp, Apps: []snapfile.App{stop}}, c.entries)
			if (c.says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

// TestCheckSnapKnowsWhoMayHaveSetUID is DESIGN.md, section 9, 19.
func TestCheckSnapKnowsWhoMayHaveSetUID(t *testing.T) {
	t.Parallel()
	entries := append(sound(), squash.Entry{Path: "bin/su", Mode: fs.ModeSetuid | 0o755})
	for _, info := range []snapfile.Snap{{Type: snapfile.TypeBase}, {Type: snapfile.TypeOS}, {Type: snapfile.TypeApp, Confinement: snapfile.Classic}} {
		if err := squash.CheckSnap(&info, entries); err != nil {
			t.Errorf("%s, %s: %v", info.Type, info.Confinement, err)
		}
	}
	for _, confinement := range []snapfile.Confinement{snapfile.Strict, snapfile.Devmode} {
		err := squash.CheckSnap(&snapfile.Snap{Type: snapfile.TypeApp, Confinement: confinement}, entries)
		if !errors.Is(err, squash.ErrForbidden) {
			t.Errorf("%s: %v", confinement, err)
		}
	}
}
