package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"tenure/client"
	"tenure/examples/clients/snaps"
	"tenure/examples/clients/unixdial"
	"tenure/test/rig"
)

// TestCompat runs the sessions in scripts/compat: what people who know snapd expect
// of services, refreshes, hooks and removals. docs/compat.md lists them. They look at
// what the command line, logs and processes say, and at nothing of the supervisor.
//
// Beside the commands of the other scripts there are:
//
//	build NAME VERSION...   pack the directory NAME as NAME_VERSION.snap, with @VERSION@ in its files, what
//	                        is in NAME.VERSION over it, and the probe (test/probe) as bin/probe
//	listen SNAP             hear the probes of a snap from now on
//	heard PROBE REPORT...   the next reports of a probe are these
//	[!] heard PROBE         it has reported nothing more
//	main UNIT VARIABLE      the variable is the main process of a unit, as soon as there is one
//	comes KIND SNAP STATUS  wait for one more change of a kind, to a snap, that nobody has asked for, and until
//	                        it has come to that status; its id is $CHANGE
//	dial SOCKET PATTERN     what answers at a socket, a path, says this
//
// $OPEN and $CLOSED are values of refresh.timer: a window that is open now, and one that is not.
func TestCompat(t *testing.T) {
	t.Parallel()
	probe := buildProbe(t)
	open, closed := windows(time.Now())
	vars := map[string]string{"OPEN": open, "CLOSED": closed, "TZ": "UTC"}
	for _, name := range compatScripts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &scenario{session: newSession(t), probe: probe, seen: map[string]bool{}}
			s.run(t, filepath.Join("scripts/compat", name+".txtar"), vars, map[string]command{
				"build": s.build, "listen": s.listen, "heard": s.heard, "main": s.main, "comes": s.comes, "dial": dialed,
			})
		})
	}
}

// compatScripts are the names of the scripts, sorted.
func compatScripts(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("scripts/compat/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for i, file := range files {
		files[i] = strings.TrimSuffix(filepath.Base(file), ".txtar")
	}
	slices.Sort(files)
	return files
}

// Every script is in the table of docs/compat.md, and everything in the table is a script.
func TestCompatTable(t *testing.T) {
	t.Parallel()
	root, err := snaps.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "compat.md"))
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		listed = append(listed, row[1])
	}
	slices.Sort(listed)
	if scripts := compatScripts(t); !slices.Equal(listed, scripts) {
		t.Errorf("docs/compat.md lists\n%q\nand there are\n%q", listed, scripts)
	}
}

// scenario is a script of scripts/compat that runs.
type scenario struct {
	*session
	probe string
	trace *trace
	// seen are the changes that comes has waited for.
	seen map[string]bool
}

func (s *scenario) build(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: build NAME VERSION...")
	}
	name := args[0]
	for _, version := range args[1:] {
		dir := ts.MkAbs(filepath.Join("build", name+"_"+version))
		for _, layer := range []string{name, name + "." + version} {
			ts.Check(layOver(dir, ts.MkAbs(layer), version))
		}
		ts.Check(os.MkdirAll(filepath.Join(dir, "bin"), 0o755)) //nolint:gosec // As in any snap.
		ts.Check(linkOrCopy(s.probe, filepath.Join(dir, "bin/probe")))
		ts.Check(ts.Exec("tenure", "pack", "--compression", "lz4", dir, ts.MkAbs(name+"_"+version+".snap")))
	}
}

// layOver copies a directory over another, if there is one, for a version. Hooks and
// what is in bin are programs.
func layOver(dir, layer, version string) error {
	err := filepath.WalkDir(layer, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // Of the script.
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(path, layer))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil { //nolint:gosec // As in any snap.
			return err
		}
		text = bytes.ReplaceAll(text, []byte("@VERSION@"), []byte(version))
		return os.WriteFile(to, text, 0o755) //nolint:gosec // Some are programs.
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// linkOrCopy makes a program another name of a file where that can be, and a copy elsewhere.
func linkOrCopy(program, path string) error {
	if os.Link(program, path) == nil {
		return nil
	}
	text, err := os.ReadFile(program) //nolint:gosec // Of the checkout.
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o755) //nolint:gosec // As in any snap.
}

func (s *scenario) listen(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: listen SNAP")
	}
	heard, err := hear(s.Common(args[0]))
	ts.Check(err)
	ts.Defer(func() {
		heard.close()
		ts.Logf("probes of %s have reported: %q", args[0], heard.reports())
	})
	s.trace = heard
}

func (s *scenario) heard(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 || s.trace == nil || neg != (len(args) == 1) {
		ts.Fatalf("usage: heard PROBE REPORT..., or ! heard PROBE, after listen SNAP")
	}
	if neg {
		if left := s.trace.untaken(args[0]); len(left) > 0 {
			ts.Fatalf("also reported: %q", left)
		}
		return
	}
	for _, want := range args[1:] {
		got, err := s.trace.take(args[0])
		ts.Check(err)
		if got != want {
			ts.Fatalf("%s reports %q, want %q", args[0], got, want)
		}
	}
}

func (s *scenario) main(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: main UNIT VARIABLE")
	}
	ts.Check(again(func(ctx context.Context) (bool, error) {
		units, err := s.Client().Units(ctx)
		for _, unit := range units {
			if unit.ID != args[0] && !strings.HasPrefix(unit.ID, args[0]+"~") {
				continue
			}
			for _, p := range unit.Processes {
				if p.Main {
					ts.Setenv(args[1], strconv.Itoa(p.PID))
					return true, err
				}
			}
		}
		return false, err
	}))
}

func (s *scenario) comes(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: comes KIND SNAP STATUS")
	}
	var found client.Change
	ts.Check(again(func(ctx context.Context) (bool, error) {
		changes, err := s.Client().Changes(ctx, "all", args[1])
		for _, change := range changes {
			if change.Kind == args[0] && !s.seen[change.ID] {
				found = change
				return true, err
			}
		}
		return false, err
	}))
	s.seen[found.ID] = true
	ts.Setenv("CHANGE", found.ID)
	s.await(ts, false, []string{found.ID, args[2]})
}

// again asks again and again, where nobody tells, until the answer is yes.
func again(ask func(context.Context) (bool, error)) error {
	ctx, done := context.WithTimeout(context.Background(), rig.Patience)
	defer done()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		yes, err := ask(ctx)
		if yes || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not in %s", rig.Patience)
		}
	}
}

// dialed asks a unix socket or an address.
func dialed(ts *testscript.TestScript, neg bool, args []string) {
	if neg && len(args) != 1 || !neg && len(args) != 2 {
		ts.Fatalf("usage: dial SOCKET PATTERN, or ! dial SOCKET")
	}
	ctx, done := context.WithTimeout(context.Background(), rig.Patience)
	defer done()
	conn, err := unixdial.Dial(ctx, args[0])
	if neg {
		if err == nil {
			ts.Fatalf("somebody listens at %s", args[0])
		}
		return
	}
	ts.Check(err)
	defer conn.Close() //nolint:errcheck // Only read.
	deadline, _ := ctx.Deadline()
	ts.Check(conn.SetDeadline(deadline))
	answer, err := io.ReadAll(conn)
	ts.Check(err)
	if matched, err := regexp.Match(args[1], answer); err != nil || !matched {
		ts.Fatalf("%s answers %q, want %s (%v)", args[0], answer, args[1], err)
	}
}
