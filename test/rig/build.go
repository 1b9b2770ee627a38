package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"tenure/examples/clients/snaps"
)

// Build builds tenured, tenure and snapctl as "make build" does, once in the life
// of a test binary, and returns the directory that they are in.
func Build(ctx context.Context, failPoints bool) (string, error) {
	if failPoints {
		return buildFailing(ctx)
	}
	return buildPlain(ctx)
}

//nolint:gochecknoglobals // Each is set once, before anybody can look.
var (
	buildPlain   = once(func(ctx context.Context) (string, error) { return build(ctx, false) })
	buildFailing = once(func(ctx context.Context) (string, error) { return build(ctx, true) })
)

// once calls f for the first caller, whose end does not end it, and gives all of
// them what it returned.
func once(f func(context.Context) (string, error)) func(context.Context) (string, error) {
	var first sync.Once
	var dir string
	var err error
	return func(ctx context.Context) (string, error) {
		first.Do(func() { dir, err = f(context.WithoutCancel(ctx)) })
		return dir, err
	}
}

// Next is the version that the programs of BuildNext say.
const Next = "next"

// BuildNext builds another version of the daemon, once in the life of a test binary, and returns the path of
// the program. It has fail points, and fails where the name of the directory that it is executed from
// says so (internal/daemon/fault_failpoints.go); where that begins with "next" its journal
// has a newer schema.
func BuildNext(ctx context.Context) (string, error) { return buildNext(ctx) }

//nolint:gochecknoglobals // As above.
var buildNext = once(func(ctx context.Context) (string, error) {
	root, err := snaps.Checkout()
	if err != nil {
		return "", err
	}
	program := filepath.Join(root, ".cache", "test-bin-next", "tenured")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return "", fmt.Errorf("build the next tenured: %w", err)
	}
	cmd := exec.CommandContext(ctx, "flock", program+".lock", //nolint:gosec // Only paths of the checkout.
		"go", "build", "-trimpath", "-tags", "failpoints", "-ldflags", "-s -w -X tenure/internal/daemon.Version="+Next, "-o", program, "./cmd/tenured")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the next tenured: %w\n%s", err, out)
	}
	return program, nil
})

func build(ctx context.Context, failPoints bool) (string, error) {
	root, err := snaps.Checkout()
	if err != nil {
		return "", err
	}
	bin, tags := filepath.Join(root, ".cache", "test-bin"), ""
	if failPoints {
		bin, tags = bin+"-failpoints", "failpoints"
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", fmt.Errorf("build the programs: %w", err)
	}
	// Test binaries of several packages may build at the same time: take turns.
	cmd := exec.CommandContext(ctx, "flock", bin+".lock", //nolint:gosec // Only paths of the checkout.
		"go", "build", "-trimpath", "-tags", tags, "-o", bin+"/", "./cmd/...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return bin, nil
}
