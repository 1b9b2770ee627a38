package rulefile_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tenure/internal/rules/rulefile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type place struct {
	t    *testing.T
	path string
	kept string
	said *log
}

type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newPlace(t *testing.T) place {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	return place{t, filepath.Join(dir, "etc", "policy.yaml"), filepath.Join(dir, "kept.yaml"), &log{}}
}

func (p place) keeper() *rulefile.Keeper {
	return rulefile.New(rulefile.Config{Path: p.path, Kept: p.kept, Logger: slog.New(slog.NewTextHandler(p.said, nil))})
}

// write replaces the file as a careful administrator does.
func (p place) write(text string) {
	p.t.Helper()
	fresh := p.path + ".new"
	if err := os.WriteFile(fresh, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(fresh, p.path); err != nil {
		p.t.Fatal(err)
	}
}

func rule(name string) string {
	return fmt.Sprintf("- {name: %s, when: true, do: {kill: never}}\n", name)
}

// holds fails the test unless these are the rules that hold, and the file is broken or not.
func (p place) holds(k *rulefile.Keeper, broken bool, names ...string) {
	p.t.Helper()
	set, status := k.Rules()
	var got []string
	if set != nil {
		got = set.Names()
	}
	if !slices.Equal(got, names) || !slices.Equal(status.Rules, names) || (len(status.Broken) > 0) != broken || (status.Warning() != "") != broken {
		p.t.Errorf("rules %v, status %+v; want %v, broken %v", got, status, names, broken)
	}
}

func TestTheLastGoodFileHolds(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	k := p.keeper()
	p.holds(k, false)
	p.write(rule("one"))
	p.holds(k, false, "one")
	p.write("- {name: two, when: tru, do: {}}")
	p.holds(k, true, "one")
	if warning := p.said.String(); !strings.Contains(warning, "unknown name") || !strings.Contains(warning, "level=WARN") {
		t.Errorf("the log says: %s", warning)
	}
	p.write("")
	p.holds(k, true, "one")

	// Another daemon has them from the copy, and nobody else's.
	again := p.keeper()
	p.holds(again, true, "one")
	if _, status := again.Rules(); !status.Since.IsZero() || !strings.Contains(status.Warning(), "those that held before") {
		t.Errorf("after a restart: %q", status.Warning())
	}
	p.write(rule("three") + rule("four"))
	p.holds(again, false, "three", "four")
	p.holds(k, false, "three", "four")

	// What is removed is wanted to be gone, also for the next daemon.
	if err := os.Remove(p.path); err != nil {
		t.Fatal(err)
	}
	p.holds(k, false)
	p.write("broken")
	p.holds(p.keeper(), true)
	if _, status := p.keeper().Rules(); !strings.Contains(status.Warning(), "no rules from before") {
		t.Errorf("without rules from before: %q", status.Warning())
	}
}

// TestWhatIsNoFile: nothing that stands at the place makes anybody wait.
func TestWhatIsNoFile(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(path string) error{
		"a directory": func(path string) error { return os.Mkdir(path, 0o755) },
		"a pipe":      func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"a loop":      func(path string) error { return os.Symlink("policy.yaml", path) },
		"a device":    func(path string) error { return os.Symlink("/dev/zero", path) },
		"a large one": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("#\n"), 1<<20), 0o644) },
	} {
		p := newPlace(t)
		if err := make(p.path); err != nil {
			t.Fatal(err)
		}
		k := p.keeper()
		p.holds(k, true)
		_, status := k.Rules()
		t.Logf("%s: %s", name, status.Warning())
	}
	// A link to a file is that file.
	p := newPlace(t)
	elsewhere := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(elsewhere, []byte(rule("linked")), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, p.path); err != nil {
		t.Fatal(err)
	}
	p.holds(p.keeper(), false, "linked")
}

// TestWatch: whoever waits is told, of a file that is replaced, written in place, broken
// and removed.
func TestWatch(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	k := p.keeper()
	ctx, cancel := context.WithCancel(t.Context())
	p.holds(k, false)
	told, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- k.Watch(ctx, func() {
			select {
			case told <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	until := func(what string, done func() bool) {
		t.Helper()
		for !done() {
			select {
			case <-told:
			case <-time.After(30 * time.Second):
				t.Fatalf("nobody is told of %s", what)
			}
		}
	}
	logged := func(text string) func() bool {
		return func() bool { return strings.Contains(p.said.String(), text) }
	}
	// The log is written by the watch alone: nobody here asks for the rules.
	p.write(rule("first"))
	until("the first file", logged("first"))
	p.write(rule("replaced"))
	until("a file that was replaced", logged("replaced"))
	if err := os.WriteFile(p.path, []byte(rule("in-place")), 0o644); err != nil {
		t.Fatal(err)
	}
	until("a file that was written in place", logged("in-place"))
	p.write("- broken")
	until("a broken file", logged("cannot be used"))
	if err := os.Remove(p.path); err != nil {
		t.Fatal(err)
	}
	until("a file that is gone", func() bool {
		_, status := k.Rules()
		return !status.Present
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
