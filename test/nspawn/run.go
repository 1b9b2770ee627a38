package nspawn

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Program is something to run in a machine. It runs as a service, with the rights of
// root, and ends with the machine at the latest.
type Program struct {
	// Argv is the program, by a path of the machine or by a name that its systemd finds,
	// and its arguments.
	Argv []string
	// Dir is the working directory, by default "/".
	Dir string
	// Env is what its environment has beside what every service gets.
	Env map[string]string
	// Unit is the name of the service, by default one that nobody else has.
	Unit string
}

// Command is a command of the host that runs a program in the machine, connected to
// the command's standard input and output, and ends with its exit status, or with 255
// where it was ended by a signal. One that is not waited for runs on.
func (m *Machine) Command(ctx context.Context, p Program) *exec.Cmd {
	args := []string{"systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"}
	if p.Dir != "" {
		args = append(args, "--working-directory="+p.Dir)
	}
	if p.Unit != "" {
		args = append(args, "--unit="+p.Unit)
	}
	// Only the names: what is on a command line everybody can read.
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		args = append(args, "--setenv="+name)
	}
	args = append(args, "--")
	for _, arg := range p.Argv {
		// systemd would put variables in.
		args = append(args, strings.ReplaceAll(arg, "$", "$$"))
	}
	cmd := m.enter(ctx, args...)
	cmd.Env = os.Environ()
	for name, value := range p.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

// enter is a command in all namespaces of the machine, but not below its systemd.
func (m *Machine) enter(ctx context.Context, argv ...string) *exec.Cmd {
	args := append([]string{"--target", strconv.Itoa(m.Leader()), "--all", "--"}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	// Where ctx ends before, what it has started has its files for longer.
	cmd.WaitDelay = time.Second
	return cmd
}

// Result is what a program came to.
type Result struct {
	Stdout, Stderr string
	// Status is the exit status, 255 for a signal, -1 where it could not be run.
	Status int
}

// Run runs a program until its end.
func (m *Machine) Run(ctx context.Context, argv ...string) Result {
	cmd := m.Command(ctx, Program{Argv: argv})
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return Result{Stderr: fmt.Sprint(err), Status: -1}
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Status: cmd.ProcessState.ExitCode()}
}
