package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"tenure"
	"tenure/examples/clients/qmp"
	"tenure/examples/clients/virtd"
	"tenure/examples/virt/process"
)

// EndFor does to all machines below common that run what the reason for which their
// manager ends asks for: they are shut down where the package goes, suspended where the
// whole machine does, and left alone otherwise. They are looked at side by side.
func EndFor(ctx context.Context, common string, reason tenure.Reason) error {
	var end func(context.Context, *qmp.Client, string) error
	switch reason {
	case tenure.ReasonRemove, tenure.ReasonDisable:
		end = func(ctx context.Context, c *qmp.Client, _ string) error { return c.End(ctx, Grace) }
	case tenure.ReasonShutdown:
		end = suspend
	case tenure.ReasonRefresh, tenure.ReasonRevert, tenure.ReasonRestart, tenure.ReasonStop:
		return nil
	default:
		return fmt.Errorf("unknown reason %q", reason)
	}
	dirs, err := filepath.Glob(filepath.Join(common, virtd.Machines, "*"))
	if err != nil {
		return fmt.Errorf("look for machines: %w", err)
	}
	results := make(chan error)
	for _, dir := range dirs {
		go func() { results <- endOne(ctx, dir, end) }()
	}
	for range dirs {
		err = errors.Join(err, <-results)
	}
	return err
}

// endOne ends the machine of a directory and waits for its process; one that does not run
// is no error.
func endOne(ctx context.Context, dir string, end func(context.Context, *qmp.Client, string) error) error {
	client, err := qmp.Dial(ctx, filepath.Join(dir, StopSocket))
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("machine %s: %w", filepath.Base(dir), err)
	}
	defer client.Close() //nolint:errcheck // The machine has ended, or goes on.
	pid, err := readPID(filepath.Join(dir, virtd.PIDFile))
	if err != nil {
		return err
	}
	handle, err := process.Open(pid)
	if err != nil {
		return err
	}
	defer handle.Close() //nolint:errcheck // Nothing was written.
	if err := end(ctx, client, dir); err != nil {
		return fmt.Errorf("machine %s: %w", filepath.Base(dir), err)
	}
	return handle.Wait(ctx)
}

// suspend ends a machine whose state is in its directory from then on.
func suspend(ctx context.Context, client *qmp.Client, dir string) error {
	file, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	if err := errors.Join(client.Save(ctx, file), file.Close()); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	if err := os.Rename(file.Name(), filepath.Join(dir, virtd.Suspended)); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return client.Quit(ctx)
}
