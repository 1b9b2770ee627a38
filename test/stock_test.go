package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"tenure/client"
	"tenure/test/rig"
)

// TestTheStockSnapCommand runs the sessions in stock/ with Debian's own snap program,
// as it is in the package, against the socket that tenured has for it. What it prints is
// compared with the transcript at the end of each session.
//
// The commands are those of TestScripts, and:
//
//	snap ARGUMENT...    run it, and add what it says to the transcript
//
// Times, processes and the root are masked. The lines that snap shows in passing, of
// tasks that are being done when it happens to look, are left out.
func TestTheStockSnapCommand(t *testing.T) {
	t.Parallel()
	sessionsWith(t, "bookworm", "stock/*.txtar")
}

// TestANewerSnapCommand runs the sessions in stock/trixie with the snap program of Debian 13.
func TestANewerSnapCommand(t *testing.T) {
	t.Parallel()
	sessionsWith(t, "trixie", "stock/trixie/*.txtar")
}

func sessionsWith(t *testing.T, debian, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no sessions: %v", err)
	}
	program, err := stockProgram(t.Context(), debian)
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{
		"TZ": "UTC", "HELLO1": snap(t, "hello", "1"), "HELLO2": snap(t, "hello", "2"), "BASE": snap(t, "debian12", "1"),
		"LIFE1": packedSnap(t, "stock/life", "1"), "LIFE2": packedSnap(t, "stock/life", "2"), "LIFE": unpacked(t, "stock/life", "3"),
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			s := &session{Instance: rig.New(t, rig.Config{Snapd: true, Observe: true})}
			testscript.RunT(inTurn{t}, testscript.Params{
				Files: []string{file}, RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: os.Getenv("TENURE_UPDATE") != "",
				Setup: func(env *testscript.Env) error {
					for name, value := range vars {
						env.Setenv(name, value)
					}
					env.Setenv("PATH", s.Path("snap", "bin")+":"+s.Bin+":"+env.Getenv("PATH"))
					env.Setenv("TENURE_ROOT", s.Root)
					// Where it looks for the socket, and what it was told of warnings.
					env.Setenv("SNAPPY_GLOBAL_ROOT", s.Root)
					env.Setenv("SNAPD_LAST_WARNING_TIMESTAMP_FILENAME", filepath.Join(env.WorkDir, "warnings.json"))
					return nil
				},
				Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
					"snap": s.stock(program), "daemon": s.daemon, "await": s.await, "said": s.said, "release": releaseFile,
					"fields": fields,
				},
			})
		})
	}
}

// TestWhatClientsOf277Ask asks what the snap program does from 2.77 on, which is in no
// release of Debian yet: to install what is installed is a change that does nothing there,
// and an error for older ones; what was removed is read from the tasks.
func TestWhatClientsOf277Ask(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{Snapd: true})
	lab := newShelf(t, i)
	lab.release(snap(t, "debian12", "1"), "debian12_1", time.Now().Add(-time.Hour))
	lab.release(snap(t, "hello", "1"), "hello_1", time.Now().Add(-time.Hour))
	i.Tenure("install", "hello")

	const newer, older, install = "snapd/2.77.1-2 (series 16; classic)", "snapd/2.68.3 (series 16; classic)", `{"action":"install","transaction":"per-snap"}`
	var refused client.Error
	if status := askSnapd(t, i, older, "/v2/snaps/hello", install, &refused).StatusCode; status != http.StatusBadRequest || refused.Kind != "snap-already-installed" {
		t.Errorf("2.68 is told %d, %q", status, refused.Kind)
	}
	begun := askSnapd(t, i, newer, "/v2/snaps/hello", install, nil)
	var nothing, removal client.Change
	askSnapd(t, i, newer, "/v2/changes/"+begun.Change, "", &nothing)
	if snaps := nothing.Snaps(); !nothing.Ready || nothing.Status != "Done" || len(snaps) != 0 {
		t.Errorf("2.77 is told of a change that is %s and has done something with %q", nothing.Status, snaps)
	}
	removing := askSnapd(t, i, newer, "/v2/snaps", `{"action":"remove","snaps":["nosuch","hello"]}`, nil)
	askSnapd(t, i, newer, "/v2/changes/"+removing.Change, "", &removal)
	for _, task := range removal.Tasks {
		if got := string(task.Data["affected-snaps"]); got != `["hello"]` {
			t.Errorf("task %q is about %s", task.Summary, got)
		}
	}
	if len(removal.Tasks) == 0 {
		t.Error("a removal has no tasks")
	}
}

// askSnapd asks the socket for snapd's clients, as one of them: a body is posted.
func askSnapd(t *testing.T, i *rig.Instance, agent, path, body string, result any) client.Response {
	t.Helper()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", agent)
	request.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", i.Path("run", "snapd.socket"))
	}}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var response client.Response
	if err := json.NewDecoder(answer.Body).Decode(&response); err != nil {
		t.Fatal(err)
	}
	if result != nil {
		if err := json.Unmarshal(response.Result, result); err != nil {
			t.Fatal(err)
		}
	}
	return response
}

// transcript is the file that a session is written to.
const transcript = "transcript"

// stock is the command snap of a session.
func (s *session) stock(program string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		cmd := exec.Command(program, args...) //nolint:noctx // It ends with its daemon.
		cmd.Dir, cmd.Env = ts.Getenv("WORK"), nil
		for _, name := range []string{"PATH", "HOME", "TZ", "SNAPPY_GLOBAL_ROOT", "SNAPD_LAST_WARNING_TIMESTAMP_FILENAME"} {
			cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
		}
		out, err := cmd.CombinedOutput()
		failed, ended := errors.AsType[*exec.ExitError](err)
		if err != nil && !ended {
			ts.Fatalf("run snap: %v", err)
		}
		ts.Logf("$ snap %s\n%s", strings.Join(args, " "), out)
		if ended != neg {
			ts.Fatalf("snap %s: %v", strings.Join(args, " "), err)
		}
		text := string(out)
		// Where an error is broken into lines depends on the length of paths.
		text = wrapped.ReplaceAllString(text, " $1")
		switch args[0] {
		case "tasks":
		case "warnings":
			// So it is with these.
			text = strings.ReplaceAll(text, "\n  ", " ")
		default:
			text = inPassing.ReplaceAllString(text, "")
		}
		entry := fmt.Sprintf("$ snap %s\n%s", s.short(ts, strings.Join(args, " ")), s.short(ts, masked(text)))
		if ended {
			entry += fmt.Sprintf("[exit status %d]\n", failed.ExitCode())
		}
		path := ts.MkAbs(transcript)
		before, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			ts.Fatalf("%v", err)
		}
		ts.Check(os.WriteFile(path, append(before, entry...), 0o600))
	}
}

// short replaces paths that differ from run to run.
func (s *session) short(ts *testscript.TestScript, text string) string {
	for _, name := range []string{"BASE", "HELLO1", "HELLO2", "LIFE1", "LIFE2", "LIFE", "WORK"} {
		text = strings.ReplaceAll(text, ts.Getenv(name), "$"+name)
	}
	return strings.ReplaceAll(text, s.Root, "$ROOT")
}

//nolint:gochecknoglobals // Compiled once, and never set.
var (
	wrapped   = regexp.MustCompile(`\n {7}(\S)`)
	inPassing = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\S+ INFO .*\n`)
	masks     = []struct {
		found *regexp.Regexp
		mask  string
	}{
		{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|\+00:00)`), "2026-01-02T03:04:05Z"},
		{regexp.MustCompile(`\[\d+\]:`), "[PID]:"},
		// How far times compress is not the same every day.
		{regexp.MustCompile(`\b\d{3}B\b`), "500B"},
		{regexp.MustCompile(`(?m)^(snapd|debian|kernel)( +).*$`), "$1$2..."},
		// An automatic refresh comes when it wants, within its window.
		{regexp.MustCompile(`(?m)^(last|next): .*$`), "$1: ..."},
	}
)

func masked(text string) string {
	for _, m := range masks {
		text = m.found.ReplaceAllString(text, m.mask)
	}
	return text
}

// unpacked is the package in a directory, in a version, as it is before it is packed.
func unpacked(t *testing.T, from, version string) string {
	t.Helper()
	return strings.TrimSuffix(packedSnap(t, from, version), ".snap")
}
