package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"tenure/examples/clients/snaps"
)

// Build builds tenured, tenure and snapctl as "make build" does, and returns the
// directory that they are in. Go's own cache makes a second call cheap.
func Build(ctx context.Context, failPoints bool) (string, error) {
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
