package test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/test/rig"
	"tenure/test/witness"
)

// A user of the machine who is nobody in particular, with a home directory and a group.
const (
	someUID, someGID, otherGID = 33, 33, 100
	someHome                   = "/var/www"
)

// asUser is a command of a user who is not root.
func asUser(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: someUID, Gid: someGID, Groups: []uint32{otherGID}}}
	cmd.Dir = "/"
	return cmd
}

// reportOf is what a witness says that is run by cmd.
func reportOf(t *testing.T, cmd *exec.Cmd) *witness.Report {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var r witness.Report
	if jsonErr := json.Unmarshal(out, &r); err != nil || jsonErr != nil {
		t.Fatalf("%q: %v: %s%s", cmd.Args, err, out, stderr.String())
	}
	return &r
}

// An app that a user runs has of the user what it would have if it were executed, and no
// rights.
func TestAUserRunsAnApp(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	// As from a shell, with everything that can be inherited.
	odd := "odd\xff\xfe=\xfe\xff"
	run := func(program string) *witness.Report {
		script := `cd /tmp; umask 037; ulimit -n 77; ulimit -c 0; exec "$0" "a  b" "$1" "" 7</dev/null 9>>/dev/full`
		cmd := asUser(t, "/bin/sh", "-c", script, program, "\xff\x01")
		cmd.Env = []string{"PATH=/usr/bin:/bin", "GOTRACEBACK=crash", "LANG=C.UTF-8", odd, "TERM=vt52"}
		return reportOf(t, cmd)
	}
	direct, app := run(i.Path("snap/bare/current/bin/witness")), run(i.Path("snap/bin/bare"))
	equal(t, "user", pick(app.Status, "Uid", "Gid", "Groups"), map[string]string{"Uid": "33 33 33 33", "Gid": "33 33 33 33", "Groups": "100"})
	for _, name := range []string{"Uid", "Gid", "Groups", "Umask", "SigBlk", "SigIgn", "TracerPid", "CapInh", "CapPrm", "CapEff", "CapAmb"} {
		equal(t, name, app.Status[name], direct.Status[name])
	}
	equal(t, "no rights", pick(app.Status, "CapPrm", "CapEff", "NoNewPrivs"), map[string]string{"CapPrm": "0000000000000000", "CapEff": "0000000000000000", "NoNewPrivs": "1"})
	equal(t, "limits", app.Limits, direct.Limits)
	for _, r := range []*witness.Report{app, direct} {
		delete(r.Files, 1) // Pipes of ours.
		delete(r.Files, 2)
	}
	equal(t, "descriptors", app.Files, direct.Files)
	equal(t, "arguments", app.Args[1:], append([]string{"app"}, direct.Args[1:]...))
	equal(t, "directory", app.Dir, direct.Dir)
	for _, entry := range direct.Env {
		name, value, _ := strings.Cut(entry, "=")
		if got, _ := app.Getenv(name); name != "PATH" && got != value {
			t.Errorf("%s is %q and not %q", name, got, value)
		}
	}
	if !i.Runs("bare", app.Group) || i.Runs("bare", direct.Group) {
		t.Errorf("groups: %s, %s directly", app.Group, direct.Group)
	}

	// What is its own was made as the user, and is where it is told.
	for name, want := range map[string]string{
		"HOME": someHome + "/snap/bare/x1", "SNAP_USER_COMMON": someHome + "/snap/bare/common", "SNAP_REAL_HOME": someHome,
		"SNAP_UID": "33", "XDG_RUNTIME_DIR": "/run/user/33/snap.bare",
	} {
		got, _ := app.Getenv(name)
		equal(t, name, got, want)
	}
	for _, name := range []string{"", "snap", "snap/bare", "snap/bare/x1", "snap/bare/common"} {
		var stat unix.Stat_t
		if err := unix.Lstat(i.Path(someHome, name), &stat); err != nil || stat.Uid != someUID || stat.Mode&0o777 != 0o700 {
			t.Errorf("%s: user %d, mode %o, %v", name, stat.Uid, stat.Mode, err)
		}
	}
	if _, seen := app.Mounts[someHome+"/snap/bare"]; !seen {
		t.Errorf("the user's data is not mounted: %v", app.Mounts)
	}
}

// Each run has its exit status, for the user who runs it as for any process.
func TestAUserSeesHowAnAppEnds(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	tenure := filepath.Join(i.Bin, "tenure")
	for _, c := range []struct {
		argv   []string
		status int
		stderr string
	}{
		{[]string{i.Path("snap/bin/bare"), "exit", "7"}, 7, ""},
		{[]string{tenure, "--root", i.Root, "run", "bare", "exit", "9"}, 9, ""},
		{[]string{tenure, "--root", i.Root, "run", "bare.nosuch"}, 1, `cannot run bare.nosuch: snap "bare" has no app "nosuch"`},
		{[]string{tenure, "--root", i.Root, "run", "../../x"}, 1, `cannot run ../../x`},
		{[]string{tenure, "--root", i.Root, "run", "bare/../../../x"}, 1, `cannot run`},
		{[]string{tenure, "--root", i.Root, "run", "--hook", "nosuch", "bare"}, 1, `hooks are for root to run`},
		{[]string{tenure, "--root", i.Root, "run", "--shell", "--hook", "configure", "bare"}, 64, `do not go together`},
	} {
		cmd := asUser(t, c.argv...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		_ = cmd.Run() // The status says it.
		if status := cmd.ProcessState.ExitCode(); status != c.status || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%q: exit status %d: %s", c.argv, status, stderr.String())
		}
	}
}

// step is what a person types, and what the terminal shows then at last.
type step struct {
	resize *unix.Winsize
	typed  string
	until  string
}

// A person's session is with an app of a snap what it is without Tenure: with ^C, ^Z, fg,
// another size of the terminal, a pipe, and exit statuses.
func TestASessionOnATerminal(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", packWitness(t, i, bareYAML, nil))
	direct := personSession(t, i.Path("snap/bare/current/bin/witness"))
	app := personSession(t, i.Path("snap/bin/bare"))
	equal(t, "transcript", app, direct)
	if !strings.Contains(app, "user 33") || !strings.Contains(app, "in front true, leads its group true") {
		t.Errorf("the transcript is of nothing:\n%s", app)
	}
}

// personSession is the transcript of a session of a user with a program, which is called "it".
func personSession(t *testing.T, program string) string {
	t.Helper()
	cmd := asUser(t, "/bin/bash", "--noprofile", "--norc", "--noediting", "-i")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "PS1=ready> ", "HOME=/nonexistent", "TERM=dumb", "HISTFILE="}
	screen := onTerminal(t, cmd)
	shown := screen.until(regexp.MustCompile(`ready> $`))
	for _, s := range []step{
		{typed: program + " session\n", until: `up: .*\n`},
		{typed: "hello\n", until: `got hello\r\n`},
		{typed: "\x03", until: `heard SIGINT.*\n`},
		{resize: &unix.Winsize{Row: 30, Col: 55}, until: `heard SIGWINCH: 30x55.*\n`},
		{typed: "\x1a", until: `Stopped(?s:.*)ready> $`},
		{typed: "jobs\n", until: `Stopped(?s:.*)ready> $`},
		{typed: "fg\n", until: `heard SIGCONT.*\n`},
		{typed: "again\n", until: `got again\r\n`},
		{typed: "exit 7\n", until: `ready> $`},
		{typed: "echo status $?\n", until: `status 7\r\nready> $`},
		{typed: "echo piped | " + program + " session | cat; echo ${PIPESTATUS[@]}\n", until: `end\r\n0 0 0\r\nready> $`},
		{typed: program + " session\n", until: `up: .*\n`},
		{typed: "die\n", until: `Killed(?s:.*)ready> $`},
		{typed: "echo status $?\n", until: `status 137\r\nready> $`},
		{typed: program + " session\n", until: `up: .*\n`},
		{typed: "\x04", until: `end\r\nready> $`},
	} {
		if s.resize != nil {
			if err := unix.IoctlSetWinsize(int(screen.master.Fd()), unix.TIOCSWINSZ, s.resize); err != nil { //nolint:gosec // A small number.
				t.Fatal(err)
			}
		}
		if _, err := screen.master.WriteString(s.typed); err != nil {
			t.Fatal(err)
		}
		shown += screen.until(regexp.MustCompile(s.until))
	}
	if _, err := screen.master.WriteString("exit\n"); err != nil {
		t.Fatal(err)
	}
	shown += screen.until(nil)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the shell: %v", err)
	}
	shown = regexp.MustCompile(`line \d+: +\d+`).ReplaceAllString(shown, "line N: PID")
	// The spaces behind it are what bash fills its column with.
	return regexp.MustCompile(regexp.QuoteMeta(program)+` session +`).ReplaceAllString(strings.ReplaceAll(shown, program+" session", program+" session "), "it ")
}
