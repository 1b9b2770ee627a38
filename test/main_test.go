package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tenure/examples/clients/snaps"
	"tenure/test/nspawn"
)

// TestMain runs the tests here, or below a systemd of their own.
func TestMain(m *testing.M) {
	if !underSystemd() {
		os.Exit(m.Run())
	}
	if os.Getenv(nspawn.Inside) == "" {
		if err := fetched(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "tests in a machine:", err)
			os.Exit(1)
		}
	}
	os.Exit(nspawn.Main(m))
}

// underSystemd reports whether systemd starts what the tests run.
func underSystemd() bool { return os.Getenv("TENURE_SUPERVISOR") == "systemd" }

// often is how often a test repeats what it does again and again for the rare case: under
// systemd, where all tests run for the second time, less often than natively.
func often(natively, again int) int {
	if underSystemd() {
		return again
	}
	return natively
}

// fetched returns when there is all that tests use and that has to be downloaded: the
// machine has no network.
func fetched(ctx context.Context) error {
	if err := snaps.All(ctx); err != nil {
		return err
	}
	_, err := stockProgram(ctx, "bookworm")
	_, errOfNewer := stockProgram(ctx, "trixie")
	_, errOfClient := publicClient(ctx)
	return errors.Join(err, errOfNewer, errOfClient)
}

// stockProgram is the path of the snap program of a release of Debian.
func stockProgram(ctx context.Context, debian string) (string, error) {
	return got(ctx, "stock-snap", debian)
}

// publicClient is the path of a program that uses snapd's client package (testdata/public).
func publicClient(ctx context.Context) (string, error) { return got(ctx, "public-client") }

// got is the path that a script prints of what it gets for tests.
func got(ctx context.Context, script string, args ...string) (string, error) {
	root, err := snaps.Checkout()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "scripts", script), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", script, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}
