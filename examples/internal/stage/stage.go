// Package stage runs the programs of an example package as its units will be
// run, without a daemon: with the base as root, the package below /snap and
// $SNAP_COMMON in its place.
//
// A program gets a mount namespace of its own that holds nothing else of the
// machine; the mounts go with the last process in it. Stages are independent
// of each other, but those with the same Common share it.
package stage

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"tenure/examples/clients/snaps"
)

//go:embed stage.sh
var script string

// Config says what runs where.
type Config struct {
	// Name is the package, Revision what it is mounted as.
	Name, Revision string
	// Tree holds the files of the package; those that all its versions share
	// by default.
	Tree string
	// Common becomes $SNAP_COMMON; Root is an empty directory to build in.
	Common, Root string
	// Notify is the socket that READY=1 is sent to, if any. Its directory is
	// seen at its own path.
	Notify string
	// Env is added to the environment.
	Env []string
}

// Command prepares the program at path, relative to the package.
func Command(ctx context.Context, config Config, path string, args ...string) (*exec.Cmd, error) {
	base, err := snaps.Tree(ctx, "debian12")
	if err != nil {
		return nil, err
	}
	if config.Tree == "" {
		if config.Tree, err = snaps.Tree(ctx, config.Name); err != nil {
			return nil, err
		}
	}
	snap := filepath.Join("/snap", config.Name, config.Revision)
	common := filepath.Join("/var/snap", config.Name, "common")
	notify := ""
	if config.Notify != "" {
		notify = filepath.Dir(config.Notify)
	}
	stage := []string{"--mount", "--propagation", "private", "bash", "-c", script, "stage", config.Root, base, config.Tree, snap, config.Common, common, notify}
	cmd := exec.CommandContext(ctx, "unshare", append(append(stage, filepath.Join(snap, path)), args...)...) //nolint:gosec // A test names what it runs.
	cmd.Stderr = os.Stderr
	cmd.Env = append([]string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"SNAP=" + snap,
		"SNAP_NAME=" + config.Name,
		"SNAP_REVISION=" + config.Revision,
		"SNAP_COMMON=" + common,
	}, config.Env...)
	if config.Notify != "" {
		cmd.Env = append(cmd.Env, fmt.Sprintf("NOTIFY_SOCKET=/run/%s/%s", filepath.Base(notify), filepath.Base(config.Notify)))
	}
	return cmd, nil
}
