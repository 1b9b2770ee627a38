package snapfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/snapfile"
)

// FuzzParse: whatever the bytes, there is either a description that keeps the
// promises of the package, or errors that can be printed.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/snaps/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "configure")
	}
	f.Add([]byte("a: &a [*a]\n<<: *a\n"), "../x")
	f.Fuzz(func(t *testing.T, data []byte, hook string) {
		snap, err := snapfile.Parse(data, []string{hook})
		again, errAgain := snapfile.Parse(data, []string{hook})
		if diff := cmp.Diff(snap, again); diff != "" {
			t.Fatalf("equal bytes, different snaps:\n%s", diff)
		}
		if err != nil {
			checkErrors(t, err, lines(string(data)))
			if errAgain == nil || err.Error() != errAgain.Error() {
				t.Fatalf("equal bytes, different errors: %v, %v", err, errAgain)
			}
			return
		}
		checkJSON(t, snap)
		checkPromises(t, snap)
	})
}

// lines counts line ends as YAML 1.1 knows them, from 1.
func lines(text string) int {
	count := 1
	for _, r := range strings.ReplaceAll(text, "\r\n", "\n") {
		if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) {
			count++
		}
	}
	return count
}

func checkErrors(t *testing.T, err error, lines int) {
	t.Helper()
	var invalid *snapfile.InvalidError
	if !errors.As(err, &invalid) || len(invalid.Problems) == 0 || len(invalid.Problems) > 50 {
		t.Fatalf("%T with no or too many problems: %v", err, err)
	}
	for _, problem := range invalid.Problems {
		text := problem.Error()
		if strings.ContainsFunc(text, unicode.IsControl) || len(text) > 4096 || problem.Found == "" || problem.Accepted == "" {
			t.Errorf("not fit to print: %q", text)
		}
		// The yaml package counts the end as one line more.
		if problem.Line > lines+1 {
			t.Errorf("line %d of %d in %q", problem.Line, lines, text)
		}
	}
}

func checkPromises(t *testing.T, snap *snapfile.Snap) {
	t.Helper()
	if tenure.CheckSnapName(snap.Name) != nil || snap.Version == "" {
		t.Errorf("name %q, version %q", snap.Name, snap.Version)
	}
	services := 0
	for i := range snap.Apps {
		if snap.Apps[i].IsService() {
			services++
		}
		checkApp(t, &snap.Apps[i])
	}
	if got := len(snap.StartOrder()); got != services {
		t.Errorf("%d services in the order, %d in the snap", got, services)
	}
	for _, hook := range snap.Hooks {
		if !filepath.IsLocal(hook.Name) || strings.Contains(hook.Name, "/") {
			t.Errorf("hook %q", hook.Name)
		}
	}
	for _, layout := range snap.Layout {
		if strings.Contains(layout.Target+"/", "/../") || strings.Contains(layout.Source+"/", "/../") {
			t.Errorf("layout %+v", layout)
		}
	}
}

func checkApp(t *testing.T, app *snapfile.App) {
	t.Helper()
	if _, err := tenure.ParseApp(string(app.Name)); err != nil || len(app.Command) == 0 {
		t.Errorf("app %q, command %q", app.Name, app.Command)
	}
	commands := append([]snapfile.Command{app.Command, app.StopCommand, app.PostStopCommand, app.ReloadCommand}, app.CommandChain...)
	for _, workload := range app.Lifecycle.Workloads {
		commands = append(commands, workload.StopCommand)
		if _, err := workload.Compile(); err != nil || tenure.CheckUnitName(workload.Name) != nil {
			t.Errorf("workload %q: %v", workload.Name, err)
		}
	}
	for _, command := range commands {
		if len(command) > 0 && !filepath.IsLocal(command[0]) {
			t.Errorf("command %q leaves the snap", command)
		}
	}
}

// FuzzTimer: this package accepts the timers that package schedule accepts.
func FuzzTimer(f *testing.F) {
	for _, timer := range []string{"mon,10:00,,fri,15:00", "00:00-24:00/24", "mon1-fri2", "~/3", "9:00~11:00", "mon4-mon1"} {
		f.Add(timer)
	}
	f.Fuzz(func(t *testing.T, timer string) {
		if strings.ContainsFunc(timer, func(r rune) bool { return r >= 0x7f || unicode.IsControl(r) }) {
			return // Go and YAML quote these differently.
		}
		checkTimer(t, timer)
	})
}
