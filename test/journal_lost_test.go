package test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tenure/examples/clients/hello"
	"tenure/test/rig"
)

// TestLostJournal damages and removes the journal of a machine on which services run, and what backups there
// are: the daemon starts, takes over what there is, says what it has lost, and goes on.
func TestLostJournal(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	journal := i.Path("var/lib/tenure/state.db")
	i.Stop()
	old := readFile(t, journal+".bak")
	i.Start()
	i.Tenure("refresh", "--dangerous", snap(t, "hello", "2"))
	i.Tenure("set", "system", "refresh.retain=3")
	before := i.Main("hello.hellod")
	last := "x2"
	for _, damage := range []struct {
		name string
		does func()
		says []string
	}{
		{"the file is garbage", func() {
			garbage(t, journal)
		}, []string{"the journal was damaged", "from the backup of", "kept: " + journal + ".damaged-"}},
		{"it is gone, and the backup is from before the refresh", func() {
			must(t, errors.Join(os.Remove(journal), os.WriteFile(journal+".bak", old, 0o600)))
		}, []string{"the journal was lost", "from the backup of", "are lost"}},
		{"there is nothing but the machine", func() {
			must(t, errors.Join(os.Remove(journal), os.Remove(journal+".bak"), removeIfThere(journal+".bak.1")))
		}, []string{"the journal was lost", "from what is on the machine", "are lost"}},
	} {
		i.Stop()
		damage.does()
		i.Start()
		if after := i.Main("hello.hellod"); after != before {
			t.Fatalf("%s: the main process was %v and is %v", damage.name, before, after)
		}
		list := i.Tenure("list")
		if !strings.Contains(list, last) {
			t.Errorf("%s: tenure list has not %s:\n%s", damage.name, last, list)
		}
		warnings, changes := i.Tenure("warnings"), i.Tenure("changes")
		for _, want := range damage.says {
			if !strings.Contains(strings.Join(strings.Fields(warnings), " "), want) {
				t.Errorf("%s: tenure warnings has not %q:\n%s", damage.name, want, warnings)
			}
		}
		if !strings.Contains(changes, "Restore the state of Tenure") {
			t.Errorf("%s: tenure changes:\n%s", damage.name, changes)
		}
		i.Tenure("okay")
		if left := i.Tenure("warnings"); left != "" {
			t.Errorf("%s: after okay: %s", damage.name, left)
		}
		if answer, err := hello.Ask(t.Context(), i.Path("var/snap/hello/common/hello.sock")); err != nil || answer.PID != before.PID {
			t.Errorf("%s: %v, %v", damage.name, answer, err)
		}
	}
	// Its own revision is not taken for another's, and what follows is as ever.
	i.Tenure("refresh", "--dangerous", snap(t, "hello", "1"))
	if answer, err := hello.Ask(t.Context(), i.Path("var/snap/hello/common/hello.sock")); err != nil || answer.Revision != "x3" {
		t.Errorf("after a refresh: %v, %v", answer, err)
	}
	i.Tenure("revert", "hello")
	i.Tenure("remove", "hello")
	if left, err := filepath.Glob(i.Path("var/lib/tenure/snaps/*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// garbage writes over all of a file.
func garbage(t *testing.T, path string) {
	t.Helper()
	must(t, os.WriteFile(path, bytes.Repeat([]byte{0xa5}, len(readFile(t, path))), 0o600))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	return content
}
