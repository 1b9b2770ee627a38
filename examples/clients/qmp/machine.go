package qmp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// UUID asks for the machine's identity.
func (c *Client) UUID(ctx context.Context) (string, error) {
	var result struct {
		UUID string `json:"UUID"`
	}
	err := c.Execute(ctx, "query-uuid", nil, &result)
	return result.UUID, err
}

// Status asks for the machine's run state: "running", "paused", "shutdown" ….
func (c *Client) Status(ctx context.Context) (string, error) {
	var result struct {
		Status string `json:"status"`
	}
	err := c.Execute(ctx, "query-status", nil, &result)
	return result.Status, err
}

// PowerDown presses the power button; the guest decides what it does then.
func (c *Client) PowerDown(ctx context.Context) error {
	return c.Execute(ctx, "system_powerdown", nil, nil)
}

// Quit ends the machine's process without asking the guest.
func (c *Client) Quit(ctx context.Context) error {
	return c.Execute(ctx, "quit", nil, nil)
}

// HTTPModule is the file name of the QEMU module that ReadOverHTTP needs.
const HTTPModule = "block-curl.so"

// ReadOverHTTP makes the machine open a disk of the given size that is served
// over HTTP for the time of the call, and close it again. QEMU cannot do that
// before it has loaded its module HTTPModule, with some ten shared libraries
// that nothing else in it needs.
func (c *Client) ReadOverHTTP(ctx context.Context, size int) (err error) {
	var listening net.ListenConfig
	listener, err := listening.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("serve a disk over HTTP: %w", err)
	}
	content := strings.Repeat("\x00", size)
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "disk.img", time.Time{}, strings.NewReader(content))
		}),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	defer func() {
		if closed := errors.Join(server.Close(), <-ended); !errors.Is(closed, http.ErrServerClosed) {
			err = errors.Join(err, closed)
		}
	}()

	const node = "over-http"
	add := map[string]any{"driver": "http", "node-name": node, "read-only": true, "url": "http://" + listener.Addr().String() + "/disk.img"}
	if err := c.Execute(ctx, "blockdev-add", add, nil); err != nil {
		return err
	}
	return c.Execute(ctx, "blockdev-del", map[string]any{"node-name": node}, nil)
}

// pressAgain is how long a guest may ignore the power button before it is
// pressed once more: one that is still booting does not see it.
const pressAgain = time.Second

// End presses the power button until the guest switches itself off and, where
// it does not within grace, ends the process. It returns when the connection
// has ended.
func (c *Client) End(ctx context.Context, grace time.Duration) error {
	pressing := time.NewTicker(pressAgain)
	defer pressing.Stop()
	patience := time.NewTimer(grace)
	defer patience.Stop()
	press := c.PowerDown
	for {
		if err := press(ctx); err != nil && !errors.Is(err, ErrClosed) {
			return err
		}
		select {
		case <-c.Done():
			return nil
		case <-pressing.C:
		case <-patience.C:
			press = c.Quit
		case <-ctx.Done():
			return fmt.Errorf("wait for the machine to end: %w", context.Cause(ctx))
		}
	}
}
