// Package snaps builds the example packages for a test that needs one.
//
// What is returned is complete and up to date with its sources. Calls may run
// at the same time, also in several processes: the build takes turns.
package snaps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build is the path of the snap file of an example package (debian12, debian14,
// hello, virt, postgres, nginx, web) in a version of the caller's choice, such as "7"; postgres
// has the versions "broken-config" and "broken-library", whose server cannot
// start. Everything is built below the checkout that the working directory is
// in.
func Build(ctx context.Context, name, version string) (string, error) {
	return target(ctx, name+"_"+version+".snap")
}

// All builds every example package in the versions that the demo and the tests use, so
// that the others can be built without a network.
func All(ctx context.Context) error {
	root, err := Checkout()
	if err != nil {
		return err
	}
	return run(ctx, root, "all")
}

// Tree is the directory with the files that all versions of a package share,
// which must not be written to.
func Tree(ctx context.Context, name string) (string, error) {
	stamp, err := target(ctx, filepath.Join("tree", name+".stamp"))
	return strings.TrimSuffix(stamp, ".stamp"), err
}

func target(ctx context.Context, file string) (string, error) {
	root, err := Checkout()
	if err != nil {
		return "", err
	}
	if err := run(ctx, root, filepath.Join("../.cache/examples", file)); err != nil {
		return "", err
	}
	return filepath.Join(root, ".cache", "examples", file), nil
}

// run makes a target of the examples.
func run(ctx context.Context, root, target string) error {
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "-C", filepath.Join(root, "examples"), target) //nolint:gosec // A name that make does not know is its error.
	cmd.Env = withoutMake(os.Environ())
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w: %s", filepath.Base(target), err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}

// withoutMake drops what a make around the test would tell the one inside.
func withoutMake(environ []string) []string {
	kept := make([]string, 0, len(environ))
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if name != "MAKEFLAGS" && name != "MAKELEVEL" && name != "MFLAGS" && name != "EXAMPLES_LOCKED" {
			kept = append(kept, variable)
		}
	}
	return kept
}

// Checkout is the directory with go.mod above the working directory.
func Checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the checkout: no go.mod above the working directory")
		}
		dir = parent
	}
}
