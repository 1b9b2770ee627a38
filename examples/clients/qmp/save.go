package qmp

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Save stops a running machine and writes its whole state to a file, durably. The machine
// goes on where that fails.
func (c *Client) Save(ctx context.Context, to *os.File) error {
	if err := c.migrate(ctx, to, "migrate"); err != nil {
		return err
	}
	if err := to.Sync(); err != nil {
		return fmt.Errorf("keep the state of the machine: %w", errors.Join(err, c.Execute(ctx, "cont", nil, nil)))
	}
	return nil
}

// Resume reads the state of a machine that was saved, in one that was started with
// "-incoming defer" and is the same otherwise; it runs on from there.
func (c *Client) Resume(ctx context.Context, from *os.File) error {
	return c.migrate(ctx, from, "migrate-incoming")
}

// migrate has QEMU write its state to a file, or read it, and waits until it has.
func (c *Client) migrate(ctx context.Context, file *os.File, command string) error {
	events := map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}
	if err := c.Execute(ctx, "migrate-set-capabilities", events, nil); err != nil {
		return err
	}
	const name = "state"
	if err := c.executeWith(ctx, file, "getfd", map[string]any{"fdname": name}, nil); err != nil {
		return err
	}
	if err := c.Execute(ctx, command, map[string]any{"uri": "fd:" + name}, nil); err != nil {
		return err
	}
	for {
		select {
		case status := <-c.migration:
			switch status {
			case "completed":
				return nil
			case "failed", "cancelled":
				return fmt.Errorf("%s: %s", command, status) //nolint:err113 // For people.
			}
		case <-c.done:
			return fmt.Errorf("%s: %w", command, ErrClosed)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", command, context.Cause(ctx))
		}
	}
}
