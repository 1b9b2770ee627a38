// Command virtctl asks virtd to start, list and shut down machines.
//
//nolint:forbidigo // The whole program is its main: it reads and ends its own process.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"tenure/examples/clients/virtd"
)

var errUsage = errors.New("usage: virtctl {list | start NAME [NAME] | shutdown NAME [NAME]}")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := run(ctx, os.Stdout, virtd.Client{Common: os.Getenv("SNAP_COMMON")}, os.Args[1:])
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "virtctl:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, client virtd.Client, args []string) error {
	switch {
	case len(args) == 1 && args[0] == virtd.List:
		machines, err := client.List(ctx)
		if err != nil {
			return err
		}
		return table(out, machines)
	case len(args) > 1 && args[0] == virtd.Start:
		started := make([]virtd.Machine, 0, len(args)-1)
		for _, name := range args[1:] {
			machine, err := client.Start(ctx, name)
			if err != nil {
				return err
			}
			started = append(started, machine)
		}
		return table(out, started)
	case len(args) > 1 && args[0] == virtd.Shutdown:
		for _, name := range args[1:] {
			if err := client.Shutdown(ctx, name); err != nil {
				return err
			}
		}
		return nil
	default:
		return errUsage
	}
}

func table(out io.Writer, machines []virtd.Machine) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tPID\tREV\tUUID") //nolint:errcheck // Flush returns it.
	for _, m := range machines {
		state, pid := "off", "-"
		if m.Running {
			state, pid = "running", fmt.Sprint(m.PID)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, state, pid, m.Revision, m.UUID) //nolint:errcheck // Flush returns it.
	}
	return w.Flush()
}
