package test

import (
	"bytes"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tenure/test/rig"
)

// A person looks around where an app runs, with a shell on the terminal that has the environment of
// the app, its user and its rights, and ends as a shell does.
func TestAUsersShellInAnApp(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "12"))
	i.Tenure("install", "--dangerous", hooked(t, i, nil))
	tenure := filepath.Join(i.Bin, "tenure")
	cmd := asUser(t, tenure, "--root", i.Root, "run", "--shell", "hooked.say", "an", "argument")
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin", "PS1=ready> ", "TERM=dumb", "COLUMNS=400", "MINE=mine"}, "/tmp"
	// The arguments are for the shell.
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "an: No such file") {
		t.Errorf("a shell that is to read a file: %v: %s", err, stderr.String())
	}

	cmd = asUser(t, tenure, "--root", i.Root, "run", "--shell", "hooked.say")
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin", "TERM=dumb", "MINE=mine"}, "/tmp"
	s := onWideTerminal(t, cmd)
	s.types("PS1='ready> '\n", `ready> $`)
	for typed, shown := range map[string]string{
		"echo $SNAP_NAME:$SNAP_REVISION:$MINE:$(id -u):$PWD":         `\nhooked:x1:mine:33:/tmp\r\n`,
		"echo $HOME; test -w ~ && echo writable":                     `\n/var/www/snap/hooked/x1\r\nwritable\r\n`,
		"ls /snap/hooked/x1":                                         `\nbin +meta\r\n`,
		"test -e " + i.Root + " || echo confined":                    `\nconfined\r\n`,
		"grep -c CapEff:.0000000000000000$ /proc/self/status":        `\n1\r\n`,
		"grep -q '[/.]hooked[/.]' /proc/self/cgroup && echo tracked": `\ntracked\r\n`,
		"grep -h NoNewPrivs /proc/self/status | tr '\\t' ' '":        `\nNoNewPrivs: 1\r\n`,
		"test -t 0 && echo on terminal":                              `\non terminal\r\n`,
	} {
		s.types(typed+"\n", shown+`(?s:.*)ready> $`)
	}
	s.types("sed -u s/up/down/\n", `down/\r\n`)
	s.types("up\n", `down\r\n`)
	s.types("\x1a", `Stopped(?s:.*)ready> $`)
	// The shell says what it continues before that has the terminal.
	s.types("fg\n", `fg\r\nsed -u s/up/down/\r\n`)
	s.types("up\n", `down\r\n`)
	s.types("\x03", `ready> $`)
	if _, err := s.master.WriteString("exit 7\n"); err != nil {
		t.Fatal(err)
	}
	s.until(nil)
	if _ = s.end(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("the shell ended: %s", cmd.ProcessState)
	}
}

// Root runs a hook by hand, as it is run for a change, and nobody else does.
func TestAHookIsRunByHand(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	i.Tenure("install", "--dangerous", snap(t, "debian12", "12"))
	i.Tenure("install", "--dangerous", hooked(t, i, map[string]string{
		"configure": `echo "$(id -u) $MINE $(snapctl get greeting) $*" >>"$SNAP_COMMON/trace"
! grep -q "[/.]hooked[/.]" /proc/self/cgroup || echo tracked >>"$SNAP_COMMON/trace"
[ "$*" != fail ] || exit 9`,
	}))
	i.Tenure("set", "hooked", "greeting=hello")
	hookTrace(t, i)
	tenure := filepath.Join(i.Bin, "tenure")
	result := i.Exec("/usr/bin/env", "MINE=mine", tenure, "run", "--hook", "configure", "hooked", "with", "words")
	equal(t, "exit status", result.Status, 0)
	equal(t, "what the hook saw", hookTrace(t, i), []string{"configure x1 :-", "0 mine hello with words", "tracked"})
	equal(t, "exit status of one that fails", i.Try("run", "--hook=configure", "hooked", "fail").Status, 9)

	if r := i.Try("run", "--hook=nosuch", "hooked"); r.Status != 1 || !strings.Contains(r.Stderr, `snap "hooked" has no hook "nosuch"`) {
		t.Errorf("a hook that is not there: %+v", r)
	}

	hookTrace(t, i)
	cmd := asUser(t, tenure, "--root", i.Root, "run", "--hook=configure", "hooked")
	if out, err := cmd.CombinedOutput(); err == nil || !regexp.MustCompile(`^error: cannot run hooked: hooks are for root to run\n$`).Match(out) {
		t.Errorf("a user runs a hook: %v: %s", err, out)
	}
	equal(t, "what the hook did for a user", hookTrace(t, i), []string{""})
}
