package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tenure/test/rig"
)

const completedYAML = `name: tool
version: '1'
base: debian12
apps:
  tool:
    command: bin/show
    completer: etc/tool.bash
    environment: {OWN: own}
  other:
    command: bin/show
    completer: etc/other.bash
  plain:
    command: bin/show
`

// toolCompleter is a completer that answers by what is asked, and that tries to be where it
// should not.
const toolCompleter = `
_tool() {
	case $2 in
	where*) COMPREPLY=("where-$SNAP_REVISION-$OWN-$(id -u)-$3") ;;
	group*) COMPREPLY=("group-$(grep -c "/tool/\|[.]scope" /proc/self/cgroup)") ;;
	tty*) COMPREPLY=("tty-$(true </dev/tty && echo yes || echo none)") ;;
	bad*) COMPREPLY=("bad;touch ESCAPED;") ;;
	expand*) COMPREPLY=('expand$(touch ESCAPED)') ;;
	in* | \"in*) COMPREPLY=('in$(touch ESCAPED)' 'inside') ;;
	file*) compopt -o filenames; COMPREPLY=('file (1);touch ESCAPED;|&<>[]{}*?#!~"\' 'file$(touch ESCAPED)' 'fileTICKtouch ESCAPEDTICK') ;;
	key*) compopt -o nospace; COMPREPLY=('key=') ;;
	hang*) echo up >"$SNAP_USER_COMMON/hangs"; sleep 1000 ;;
	*) COMPREPLY=($(compgen -W '--help --hidden one' -- "$2")) ;;
	esac
}
touch ESCAPED
complete -F _tool tool
`

// The arguments of an app and its aliases are completed by the completer of the package, which runs where
// the app would run; in the shell of the user nothing of the package runs.
func TestAnAppIsCompleted(t *testing.T) {
	t.Parallel()
	i := rig.New(t, rig.Config{})
	escaped := i.Path("escaped")
	if err := os.MkdirAll(escaped, 0o755); err != nil { //nolint:gosec // The user's.
		t.Fatal(err)
	}
	if err := os.Chown(escaped, someUID, someGID); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"bin/show":       "#!/bin/sh\nfor word do printf '<%s>' \"$word\"; done; echo .\n",
		"etc/tool.bash":  strings.NewReplacer("ESCAPED", escaped+"/it", "TICK", "`").Replace(toolCompleter),
		"etc/other.bash": "complete -W 'first second' -o nospace tool.other\n",
	}
	i.Tenure("install", "--dangerous", snap(t, "debian12", "12"))
	i.Tenure("install", "--dangerous", packWitness(t, i, completedYAML, files))
	i.Tenure("alias", "tool", "tl")
	i.Tenure("alias", "tool.plain", "pl")
	equal(t, "what is completed", names(t, filepath.Dir(i.Path("usr/share/bash-completion/completions/x"))), []string{"tl", "tool", "tool.other"})

	s := completingShell(t, i)
	s.types("tool --he\t", `--help $`)
	s.types("\n", `<--help>\.\r\nready> $`)
	s.types("tl where\t", `tl where-x1-own-33-tl $`)
	s.types("\n", `<where-x1-own-33-tl>\.\r\nready> $`)
	s.types("tool.other f\tx\n", `<firstx>\.\r\nready> $`)
	s.types(i.Path("snap/bin/tool")+" group\t\n", `<group-1>\.\r\nready> $`)
	s.types("tool a tty\t\n", `<a><tty-none>\.\r\nready> $`)
	s.types("tool key\tv\n", `<key=v>\.\r\nready> $`)
	s.types("tool --h\t\t", `--help +--hidden(?s:.*)--h$`)
	s.types("i\t\n", `<--hidden>\.\r\nready> $`)
	// What would be run, or lead away, is one word.
	s.types("tool bad\t\n", regexp.QuoteMeta(`<bad;touch `+escaped+`/it;>`)+`\.\r\nready> $`)
	s.types("tool expand\t\n", regexp.QuoteMeta(`<expand$(touch `+escaped+`/it)>`)+`\.\r\nready> $`)
	s.types("tool file\t\n", regexp.QuoteMeta(`<file (1);touch `+escaped+`/it;|&<>[]{}*?#!~"\>`)+`\.\r\nready> $`)
	s.types("tool \"in\t\n", `<inside>\.\r\nready> $`)
	s.types("declare -F _tool; echo $?\n", `\n1\r\nready> $`)
	equal(t, "done in the user's shell", names(t, escaped), []string(nil))

	// Who takes too long is ended.
	s.types("tool hang\t\n", `<hang>\.\r\nready> $`)
	s.ends()

	// They go with the app, and what is not ours stays.
	foreign := i.Path("usr/share/bash-completion/completions/tool.plain")
	writeFile(t, foreign, "# Somebody's.\n")
	second := strings.NewReplacer("'1'", "'2'", "    completer: etc/other.bash\n", "", "  plain:\n    command: bin/show\n", "  plain:\n    command: bin/show\n    completer: etc/tool.bash\n").Replace(completedYAML)
	i.Tenure("refresh", "--dangerous", packWitness(t, i, second, files))
	equal(t, "what is completed then", names(t, filepath.Dir(foreign)), []string{"pl", "tl", "tool", "tool.plain"})
	i.Tenure("revert", "tool")
	equal(t, "what is completed again", names(t, filepath.Dir(foreign)), []string{"tl", "tool", "tool.other", "tool.plain"})
	i.Tenure("unalias", "tl")
	i.Tenure("remove", "tool")
	equal(t, "what is left", names(t, filepath.Dir(foreign)), []string{"tool.plain"})
}

// shell is an interactive shell of a user that completes.
type shell struct {
	*terminal

	end func() error
}

func completingShell(t *testing.T, i *rig.Instance) shell {
	t.Helper()
	rc := filepath.Join(t.TempDir(), "bashrc")
	writeFile(t, rc, `. /usr/share/bash-completion/bash_completion
bind 'set bell-style none' 'set show-all-if-ambiguous off' 'set enable-bracketed-paste off'
PS1='ready> '
`)
	if err := os.Chmod(filepath.Dir(rc), 0o755); err != nil { //nolint:gosec // For the user.
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(rc)), 0o755); err != nil { //nolint:gosec // For the user.
		t.Fatal(err)
	}
	cmd := asUser(t, "/bin/bash", "--noprofile", "--rcfile", rc, "-i")
	cmd.Env = []string{"PATH=" + i.Path("snap/bin") + ":/usr/bin:/bin", "HOME=/nonexistent", "TERM=dumb", "HISTFILE=", "XDG_DATA_DIRS=" + i.Path("usr/share")}
	s := onWideTerminal(t, cmd)
	s.until(regexp.MustCompile(`ready> $`))
	return s
}

// onWideTerminal starts a shell on a terminal that has no line that is too long.
func onWideTerminal(t *testing.T, cmd *exec.Cmd) shell {
	t.Helper()
	screen := onTerminal(t, cmd)
	if err := unix.IoctlSetWinsize(int(screen.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 400}); err != nil { //nolint:gosec // A small number.
		t.Fatal(err)
	}
	return shell{screen, cmd.Wait}
}

// types types, and waits for what the terminal shows then.
func (s shell) types(text, until string) {
	s.t.Helper()
	if _, err := s.master.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
	s.until(regexp.MustCompile(until))
}

func (s shell) ends() {
	s.t.Helper()
	s.types("exit\n", `exit`)
	s.until(nil)
	if err := s.end(); err != nil {
		s.t.Errorf("the shell: %v", err)
	}
}
