// Command virtd-stop is a stop command of virtd that decides by the reason in its
// environment what becomes of the machines: they are shut down when the package is removed
// or disabled, suspended when the whole machine ends, and left alone otherwise.
//
//nolint:forbidigo // The whole program is its main: it reads and ends its own process.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"tenure"
	"tenure/examples/virt/manager"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := manager.EndFor(ctx, os.Getenv("SNAP_COMMON"), tenure.Reason(os.Getenv("SNAP_LIFECYCLE_REASON"))); err != nil {
		fmt.Fprintln(os.Stderr, "virtd-stop:", err)
		os.Exit(1)
	}
}
