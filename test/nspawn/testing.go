package nspawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tenure/examples/clients/snaps"
)

// New boots a machine for a test, which ends it, and fails over what is left of it.
func New(tb testing.TB, cfg Config) *Machine {
	tb.Helper()
	m, err := Boot(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			journal := m.Run(context.WithoutCancel(tb.Context()), "journalctl", "--no-pager", "--boot")
			tb.Logf("the machine said:\n%s%s%s", m.Console(), journal.Stdout, journal.Stderr)
		}
		if err := m.Close(); err != nil {
			tb.Error(err)
		}
	})
	return m
}

// Inside is set, to the name of the machine, in the environment of a test binary that
// Main runs in one.
const Inside = "TENURE_TEST_MACHINE"

// Main is for TestMain of a package whose tests need systemd. It runs them in a machine
// of their own: boots it, runs this binary in it with the arguments, environment,
// directory, input and output that it has here, and returns with what it ended. In the
// machine it runs the tests.
//
// The machine has the checkout, Go's caches and the binary where the host has them.
func Main(m *testing.M) int {
	if os.Getenv(Inside) != "" { //nolint:forbidigo // This is the main function of test binaries.
		return m.Run()
	}
	status, err := inside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests in a machine:", err)
		return 1
	}
	return status
}

func inside() (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	p, err := self(ctx)
	if err != nil {
		return 0, err
	}
	binds, err := binds(ctx, p.Argv[0])
	if err != nil {
		return 0, err
	}
	m, err := Boot(ctx, Config{Binds: binds})
	if err != nil {
		return 0, err
	}
	p.Env[Inside] = m.Name
	cmd := m.Command(ctx, p)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	return cmd.ProcessState.ExitCode(), errors.Join(err, m.Close())
}

// self is this process as a program for a machine.
func self(ctx context.Context) (Program, error) {
	binary, err := os.Executable()
	if err != nil {
		return Program{}, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return Program{}, err
	}
	flags, err := goEnv(ctx, "GOFLAGS")
	if err != nil {
		return Program{}, err
	}
	// What goes by the user's configuration, which the machine does not have.
	env := map[string]string{"GOFLAGS": flags[0]}
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		env[name] = value
	}
	return Program{Argv: append([]string{binary}, os.Args[1:]...), Dir: dir, Env: env}, nil
}

// binds are what a test binary needs of the host.
func binds(ctx context.Context, binary string) (map[string]string, error) {
	checkout, err := snaps.Checkout()
	if err != nil {
		return nil, err
	}
	dirs, err := goEnv(ctx, "GOCACHE", "GOMODCACHE")
	if err != nil {
		return nil, err
	}
	binds := map[string]string{}
	for _, dir := range append(dirs, checkout, filepath.Dir(binary)) {
		binds[dir] = dir
	}
	return binds, nil
}

// goEnv are the values of settings of Go.
func goEnv(ctx context.Context, names ...string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("ask go for its settings: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"), nil
}
