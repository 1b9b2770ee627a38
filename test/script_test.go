package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tenure/client"
	"tenure/test/rig"
)

// TestScripts runs the sessions in scripts/, each with an instance of its own. They
// are the documentation of the command line that runs.
//
// Beside the commands of testscript there are:
//
//	daemon start|stop|kill        what is done to tenured
//	await CHANGE STATUS [TASK]    wait until a change, or its task of that kind, has come to it
//	status N PROGRAM ARGUMENT...  the program ends with N
//	fields NAME...                the JSON on stdout (the first of a list) has these fields
//	release DIR NAME_REV FILE WHEN [LINE...]
//	                              put a snap file into a directory that is a source, released WHEN (-2h), with
//	                              more LINEs in its description
//	follow SERVICE BEFORE [AFTER] follow a log until it has a line, and then, after a restart, another
//	said SERVICE N TEXT           wait until a log has a line N times
//
// $HELLO1 and $HELLO2 are the files of the example hello, in versions 1 and 2, $TALKER1
// and $TALKER2 those of scripts/talker.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("scripts/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	vars := map[string]string{"HELLO1": snap(t, "hello", "1"), "HELLO2": snap(t, "hello", "2"), "TZ": "UTC"}
	for _, version := range []string{"1", "2"} {
		vars["TALKER"+version] = talkerSnap(t, version)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			newSession(t).run(t, file, vars, nil)
		})
	}
}

// command is a command of scripts.
type command = func(ts *testscript.TestScript, neg bool, args []string)

// run runs a script in the session, with what the variables say and with more commands.
func (s *session) run(t *testing.T, file string, vars map[string]string, more map[string]command) {
	t.Helper()
	commands := map[string]command{
		"daemon": s.daemon, "await": s.await, "fields": fields, "follow": s.follow, "said": s.said, "status": status,
		"release": releaseFile,
	}
	maps.Copy(commands, more)
	testscript.RunT(inTurn{t}, testscript.Params{
		Files:               []string{file},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TENURE_ROOT", s.Root)
			env.Setenv("PATH", s.Bin+":"+s.Path("snap/bin")+":"+env.Getenv("PATH"))
			for name, value := range vars {
				env.Setenv(name, value)
			}
			return nil
		},
		Cmds: commands,
	})
}

// inTurn is a test whose turn it is already. testscript has scripts wait for another, and
// all of them would wait with a daemon of their own that runs.
type inTurn struct{ *testing.T }

func (t inTurn) Parallel()     {}
func (t inTurn) Verbose() bool { return testing.Verbose() }

func (t inTurn) Run(name string, script func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { script(inTurn{t}) })
}

// talkerSnap is the file of the package in scripts/talker in a version.
func talkerSnap(t *testing.T, version string) string {
	t.Helper()
	return packedSnap(t, "scripts/talker", version)
}

// packedSnap is the file of the package in a directory, in a version.
func packedSnap(t *testing.T, from, version string) string {
	t.Helper()
	bin, err := rig.Build(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), filepath.Base(from))
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	yaml := filepath.Join(dir, "meta", "snap.yaml")
	text, err := os.ReadFile(yaml)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(yaml, bytes.ReplaceAll(text, []byte("@VERSION@"), []byte(version)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "tenure"), "pack", "--compression", "lz4", dir, dir+".snap").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir + ".snap"
}

// session is a script that runs, and its instance.
type session struct{ *rig.Instance }

func newSession(t *testing.T) *session {
	t.Helper()
	return &session{Instance: rig.New(t, rig.Config{})}
}

func (s *session) daemon(ts *testscript.TestScript, _ bool, args []string) {
	switch strings.Join(args, " ") {
	case "start":
		ts.Check(s.TryStart())
	case "stop":
		s.Stop()
	case "kill":
		s.Kill()
	default:
		ts.Fatalf("usage: daemon start|stop|kill")
	}
}

func (s *session) await(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 && len(args) != 3 {
		ts.Fatalf("usage: await CHANGE STATUS [TASK]")
	}
	ctx, done := context.WithTimeout(context.Background(), rig.Patience)
	defer done()
	var seen client.Change
	reached := func() bool {
		if len(args) == 2 {
			return seen.Status == args[1]
		}
		return slices.ContainsFunc(seen.Tasks, func(t client.Task) bool { return t.Kind == args[2] && t.Status == args[1] })
	}
	for !reached() {
		if seen.Ready {
			ts.Fatalf("change %s has ended (%s)", seen.ID, seen.Status)
		}
		next, err := s.Client().Follow(ctx, args[0], seen.Revision)
		var failed *client.Error
		if errors.As(err, &failed) && seen.ID == "" {
			// It is about to be made.
			_, err = s.Client().Units(ctx)
		}
		ts.Check(err)
		seen = next
	}
}

// status runs a program that should end with an exit status.
func status(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM ARGUMENT...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		got = failed.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d: %v", got, err)
	}
}

// fields looks for names in the JSON on stdout.
func fields(ts *testscript.TestScript, _ bool, args []string) {
	var document any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &document))
	if list, ok := document.([]any); ok {
		if len(list) == 0 {
			ts.Fatalf("the list is empty")
		}
		document = list[0]
	}
	object, ok := document.(map[string]any)
	if !ok {
		ts.Fatalf("there is no object: %v", document)
	}
	for _, name := range args {
		if _, found := object[name]; !found {
			ts.Fatalf("there is no %q in %v", name, object)
		}
	}
}

// follow sees a line that was there, and one that comes after it has been seen.
func (s *session) follow(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 && len(args) != 3 {
		ts.Fatalf("usage: follow SERVICE BEFORE [AFTER]")
	}
	ts.Check(s.read(args[0], func(lines *bufio.Scanner) error {
		err := until(lines, args[1])
		if err != nil || len(args) == 2 {
			return err
		}
		if _, err := s.Client().Do(context.Background(), client.Action{Action: "restart", Names: args[:1]}); err != nil {
			return err
		}
		return until(lines, args[2])
	}))
}

func (s *session) said(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: said SERVICE N TEXT")
	}
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(s.read(args[0], func(lines *bufio.Scanner) error {
		for range count {
			if err := until(lines, args[2]); err != nil {
				return err
			}
		}
		return nil
	}))
}

// read follows the log of a service from its first line on for as long as what reads it takes.
func (s *session) read(service string, wait func(*bufio.Scanner) error) error {
	ctx, done := context.WithTimeout(context.Background(), rig.Patience)
	defer done()
	cmd := exec.CommandContext(ctx, filepath.Join(s.Bin, "tenure"), "logs", "-f", "-n=all", service)
	cmd.Env = append(os.Environ(), "TENURE_ROOT="+s.Root)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = errors.Join(wait(bufio.NewScanner(stdout)), cmd.Process.Signal(os.Interrupt))
	_, _ = io.Copy(io.Discard, stdout) // To its end, so that Wait can close it.
	return errors.Join(err, cmd.Wait())
}

func until(lines *bufio.Scanner, pattern string) error {
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	for lines.Scan() {
		if wanted.MatchString(lines.Text()) {
			return nil
		}
	}
	return fmt.Errorf("the log ended before %q: %w", pattern, lines.Err())
}
