package test

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"tenure/examples/clients/snaps"
)

// write is one thing that a daemon does to the machine: a call of test/mortal.
type effect struct{ call, about string }

// Words for what differs from run to run.
var (
	randomName = regexp.MustCompile(`(-|\.put-|\.new|upload-)\d{3,}`) //nolint:gochecknoglobals // Compiled once.
	hashNumber = regexp.MustCompile(`#\d+|tenure-[0-9a-f]{8}`)        //nolint:gochecknoglobals // Compiled once.
)

// class is what kind of thing it is, for the table.
func (e effect) class() string {
	switch {
	case strings.Contains(e.about, "/state.db"):
		return "journal"
	case e.call == "mount", e.call == "umount":
		return "mounts"
	case e.about == "(process)", strings.HasPrefix(e.about, "/sys/fs/cgroup"), strings.HasPrefix(e.about, "/run/tenure/u"):
		return "units"
	}
	return "files"
}

// String is the same for the same thing in another run.
func (e effect) String() string {
	return e.call + " " + hashNumber.ReplaceAllString(randomName.ReplaceAllString(e.about, "$1*"), "*")
}

// mortality is who kills the daemon of an instance at one of its calls.
type mortality struct {
	t    *testing.T
	path string
	root string
	log  string
	cmd  *exec.Cmd
}

func newMortality(t *testing.T, program, root string) *mortality {
	t.Helper()
	return &mortality{t: t, path: program, root: root, log: filepath.Join(t.TempDir(), "calls")}
}

// buildMortal builds the program that kills at calls, and gives its path.
func buildMortal(t *testing.T) string {
	t.Helper()
	root, err := snaps.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, ".cache", "test-bin-mortal", "mortal")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "flock", program+".lock", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./test/mortal") //nolint:gosec // Only paths of the checkout.
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build mortal: %v\n%s", err, out)
	}
	return program
}

// attach has the daemon die at its call at; 0 is at none.
func (m *mortality) attach(pid, at int) {
	m.t.Helper()
	m.forget()
	m.cmd = exec.CommandContext(context.Background(), m.path, "attach", strconv.Itoa(pid), m.root, strconv.Itoa(at), m.log) //nolint:gosec // Ours; it ends in release.
	m.cmd.Stderr = os.Stderr
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := m.cmd.StdoutPipe()
	if err == nil {
		err = m.cmd.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		m.t.Fatalf("attach to the daemon: %q, %v", line, err)
	}
}

// await has the next daemon die at its call at.
func (m *mortality) await(at int) {
	m.t.Helper()
	m.forget()
	if err := os.WriteFile(filepath.Join(m.root, ".mortal"), []byte(strconv.Itoa(at)+" "+m.log), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mortality) forget() {
	m.t.Helper()
	if err := os.Remove(m.log); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
}

// release leaves the daemon alone, and gives what it has done since attach or await.
func (m *mortality) release() []effect {
	m.t.Helper()
	text, err := os.ReadFile(m.log)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
	first, rest, _ := strings.Cut(string(text), "\n")
	if m.cmd != nil {
		_ = m.cmd.Process.Kill() // It may have ended, with the daemon.
		_ = m.cmd.Wait()
		m.cmd = nil
	} else if pid, err := strconv.Atoi(strings.TrimPrefix(first, "by ")); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // A child of the daemon, which it does not know.
	}
	if text, err := os.ReadFile(m.log); err == nil {
		_, rest, _ = strings.Cut(string(text), "\n")
	}
	var done []effect
	for line := range strings.Lines(rest) {
		call, about, _ := strings.Cut(strings.TrimSpace(line), " ")
		done = append(done, effect{call, about})
	}
	return done
}
