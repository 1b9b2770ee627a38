// Command virtd is the manager of the example package virt. SIGTERM ends it
// and leaves its machines running.
//
//nolint:forbidigo // The whole program is its main: it reads and ends its own process.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"tenure/examples/clients/notify"
	"tenure/examples/virt/manager"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config := manager.Config{
		Snap:     os.Getenv("SNAP"),
		Common:   os.Getenv("SNAP_COMMON"),
		Revision: os.Getenv("SNAP_REVISION"),
		Template: os.Getenv("VIRTD_TEMPLATE"),
		Log:      slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if config.Snap == "" || config.Common == "" {
		fmt.Fprintln(os.Stderr, "virtd: SNAP and SNAP_COMMON must be set; start it as the service virt.virtd")
		os.Exit(2)
	}
	if accel := os.Getenv("VIRTD_ACCEL"); accel != "" {
		config.Accel = strings.Split(accel, ",")
	}
	ready := func(ctx context.Context) error {
		return notify.Send(ctx, os.Getenv("NOTIFY_SOCKET"), "READY=1")
	}
	if err := manager.New(config).Run(ctx, ready); err != nil {
		fmt.Fprintln(os.Stderr, "virtd:", err)
		os.Exit(1)
	}
}
