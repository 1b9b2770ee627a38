// Command vm-shutdown is the stop command of the machines: it presses the
// power button of each machine whose process is in SNAP_LIFECYCLE_PIDS, and
// returns when all of these processes have ended. A machine that does not
// switch itself off is told to quit.
//
//nolint:forbidigo // The whole program is its main: it reads and ends its own process.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"tenure/examples/clients/qmp"
	"tenure/examples/virt/manager"
	"tenure/examples/virt/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	fields := strings.FieldsFunc(os.Getenv("SNAP_LIFECYCLE_PIDS"), func(r rune) bool { return r == ' ' || r == ',' })
	reason := os.Getenv("SNAP_LIFECYCLE_REASON")
	results := make(chan error)
	for _, field := range fields {
		go func() { results <- end(ctx, field, reason) }()
	}
	var failed error
	for range fields {
		failed = errors.Join(failed, <-results)
	}
	if failed != nil {
		fmt.Fprintln(os.Stderr, "vm-shutdown:", failed)
		os.Exit(1)
	}
}

// end ends the machine of the process and waits for the process. One that has
// gone already is no error.
func end(ctx context.Context, field, reason string) error {
	pid, err := strconv.Atoi(field)
	if err != nil {
		return fmt.Errorf("SNAP_LIFECYCLE_PIDS: %w", err)
	}
	// Opened first, so that what is read below belongs to this very process.
	handle, err := process.Open(pid)
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer handle.Close() //nolint:errcheck // Nothing was written.
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return fmt.Errorf("read the command line of process %d: %w", pid, err)
	}
	socket := stopSocket(command)
	if socket == "" {
		return fmt.Errorf("process %d is no machine of virtd", pid)
	}
	client, err := qmp.Dial(ctx, socket)
	if err != nil {
		return err
	}
	if err := client.End(ctx, manager.Grace); err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	if err := handle.Wait(ctx); err != nil {
		return err
	}
	fmt.Printf("%s: machine %s, process %d, has ended\n", reason, filepath.Base(filepath.Dir(socket)), pid)
	return nil
}

// stopSocket finds the path of the QMP socket that is kept for this command
// in the arguments of QEMU.
func stopSocket(command []byte) string {
	for argument := range bytes.SplitSeq(command, []byte{0}) {
		path, isSocket := strings.CutPrefix(string(argument), "unix:")
		path, _, _ = strings.Cut(path, ",")
		if isSocket && filepath.Base(path) == manager.StopSocket {
			return path
		}
	}
	return ""
}
