package test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tenure/examples/clients/snaps"
	"tenure/internal/proc"
	"tenure/test/rig"
	"tenure/test/sysbus"
)

// polkitRules let one user of every Debian do everything; for others the defaults hold.
const (
	polkitRules = `polkit.addRule(function(action, subject) { if (subject.user == "games") return polkit.Result.YES; });`
	gamesUID    = 5
)

// withPolkit is an instance with hello, which others than root reach, on a machine with
// the real polkit at the address.
func withPolkit(t *testing.T) (i *rig.Instance, address string) {
	t.Helper()
	checkout, err := snaps.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	address = sysbus.New(t)
	sysbus.Polkit(t, address, checkout, polkitRules)
	i = rig.New(t, rig.Config{Snapd: true, Env: []string{"DBUS_SYSTEM_BUS_ADDRESS=" + address}})
	if err := os.Chmod(i.Root, 0o755); err != nil { //nolint:gosec // So that others reach the socket.
		t.Fatal(err)
	}
	i.Tenure("install", "--dangerous", snap(t, "hello", "1"))
	return i, address
}

// onWord is a command of a user's that becomes another as soon as it is told to begin.
func onWord(t *testing.T, i *rig.Instance, argv ...string) (cmd *exec.Cmd, begin func()) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd = asUser(t, append([]string{"sh", "-c", `read -r go <&3; exec 3<&- "$0" "$@"`}, argv...)...)
	cmd.ExtraFiles = []*os.File{read}
	cmd.Env = append(os.Environ(), "TENURE_ROOT="+i.Root, "SNAPPY_GLOBAL_ROOT="+i.Root)
	t.Cleanup(func() {
		_ = read.Close()
		_ = write.Close()
	})
	return cmd, func() { fmt.Fprintln(write) } //nolint:errcheck // Then it waits forever.
}

// sitAt has a person sit at a command that has been started.
func sitAt(t *testing.T, address string, cmd *exec.Cmd) *sysbus.Person {
	t.Helper()
	seen, err := proc.Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return sysbus.Sit(t, address, seen.Process, someUID)
}

// Whom polkit lets may do what administrators may, without a password or with one.
func TestPolkitLetsPeopleIn(t *testing.T) {
	t.Parallel()
	i, address := withPolkit(t)
	free := asUser(t, filepath.Join(i.Bin, "tenure"), "--root", i.Root, "set", "system", "refresh.retain=3")
	free.SysProcAttr.Credential.Uid = gamesUID
	if out, err := free.CombinedOutput(); err != nil {
		t.Errorf("a user with a rule: %v: %s", err, out)
	}
	if got := strings.TrimSpace(i.Tenure("get", "system", "refresh.retain")); got != "3" {
		t.Errorf("refresh.retain is %q after it was set to 3", got)
	}
	program, err := stockProgram(t.Context(), "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	tenure := filepath.Join(i.Bin, "tenure")
	for _, c := range []struct {
		name   string
		argv   []string
		answer func(*sysbus.Question)
		says   string
		status int
	}{
		{"closes the dialog", []string{tenure, "disable", "hello"}, (*sysbus.Question).Dismiss, "error: access denied: the authentication was cancelled", 1},
		{"knows the password", []string{tenure, "disable", "hello"}, (*sysbus.Question).Know, "hello 1 disabled", 0},
		{"closes snap's dialog", []string{program, "enable", "hello"}, (*sysbus.Question).Dismiss, "error: access denied: the authentication was cancelled", 1},
		{"knows the password for snap", []string{program, "enable", "hello"}, (*sysbus.Question).Know, "hello enabled", 0},
	} {
		cmd, begin := onWord(t, i, c.argv...)
		screen := onTerminal(t, cmd)
		person := sitAt(t, address, cmd)
		begin()
		c.answer(person.Asked())
		// snap breaks its lines.
		shown := strings.Join(strings.Fields(screen.until(nil)), " ")
		_ = cmd.Wait() // The status says it.
		if got := cmd.ProcessState.ExitCode(); got != c.status || !strings.HasSuffix(shown, c.says) {
			t.Errorf("who %s: status %d and %q, want %d and %q", c.name, got, shown, c.status, c.says)
		}
	}
	if changes := i.Tenure("changes"); strings.Count(changes, "Disable") != 1 || strings.Count(changes, "Enable") != 1 {
		t.Errorf("not each of them was done once:\n%s", changes)
	}
}

// Nobody is asked who is not there: a script's request is refused at once, and the question
// for a request goes with who has made it, though all of a file is still to be sent.
func TestPolkitAsksNobodyForNothing(t *testing.T) {
	t.Parallel()
	i, address := withPolkit(t)
	before := i.Tenure("changes")
	script, begin := onWord(t, i, filepath.Join(i.Bin, "tenure"), "disable", "hello")
	var said strings.Builder
	script.Stderr = &said
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	person := sitAt(t, address, script)
	begin()
	_ = script.Wait() // What it says is looked at.
	if !strings.HasPrefix(said.String(), "error: access denied: this is for root") {
		t.Errorf("a script that may nothing is told %q", &said)
	}
	person.Unasked()

	large := i.Path("large.snap")
	sparse(t, large, 64<<20)
	cmd, begin := onWord(t, i, filepath.Join(i.Bin, "tenure"), "install", "--dangerous", large)
	screen := onTerminal(t, cmd)
	person = sitAt(t, address, cmd)
	begin()
	question := person.Asked()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // It is killed.
	question.TakenBack()
	screen.until(nil)
	if after := i.Tenure("changes"); after != before {
		t.Errorf("changes:\n%s\nbefore:\n%s", after, before)
	}
}

// sparse makes a file of a size that everybody may read.
func sparse(t *testing.T, path string, size int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // See above.
	if err == nil {
		_, err = file.Seek(size-1, io.SeekStart)
	}
	if err == nil {
		_, err = file.Write([]byte{0})
	}
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
