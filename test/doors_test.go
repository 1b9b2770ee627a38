package test

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tenure/test/rig"
)

// openToAll are the places below a root that every user may open, of what is the daemon's.
const openToAll = `^(run/tenure(|/snapctl|/snapctl/snapctl\.sock|/tenured\.sock|/snapd\.socket|/entry\.sock|/programs(/.*)?|/etc(/.*)?|/tmp|/units)` +
	`|run/tenure/u(/[^/]*(/notify|/reason)?)?` +
	`|var/lib/tenure(|/snaps|/logs|/staging|/units|/helper|/helper/tenure-run|/helper/complete\.bash|/mounts))$`

// TestWhatUsersMayOpen looks at the modes of all that the daemon has made, while a service of a
// package runs: what is not a door is closed.
func TestWhatUsersMayOpen(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	i.Tenure("save", "bare")
	allowed := regexp.MustCompile(openToAll)
	for _, top := range []string{"run/tenure", "var/lib/tenure"} {
		err := filepath.WalkDir(i.Path(top), func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			name, err := filepath.Rel(i.Root, path)
			if err != nil || info.Mode().Type() == fs.ModeSymlink {
				return err
			}
			if info.Mode().Perm()&0o007 != 0 && !allowed.MatchString(name) {
				t.Errorf("%s is %s", name, info.Mode())
			}
			if info.IsDir() && info.Mode().Perm()&0o001 == 0 {
				return filepath.SkipDir // Whatever is in there.
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestAServiceSeesNoOthersDoors looks for the sockets of the daemon and of other services as a
// confined service does that is root.
func TestAServiceSeesNoOthersDoors(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	one := served(t, i, "bare", "one")
	for dir, want := range map[string]string{"/run/tenure": "bin snapctl", "/run/tenure/snapctl": "snapctl.sock", "/run/tenure-unit": "notify"} {
		equal(t, dir, strings.Join(strings.Fields(one.do("list", dir, "")), " "), want)
	}
	for _, path := range []string{i.Path("run/tenure/tenured.sock"), i.Path("run/tenure/u"), "/run/tenure/tenured.sock", "/run/snapd.socket", "/run/tenure/entry.sock"} {
		if a := one.ask("mode", path, ""); a.Err == "" {
			t.Errorf("it sees %s", path)
		}
	}
	// Processes with more rights are not a way out either.
	if a := one.ask("list", "/proc/1/root/", ""); !strings.Contains(a.Err, "permission denied") {
		t.Errorf("the root of the machine: %q", a.Err)
	}
}
