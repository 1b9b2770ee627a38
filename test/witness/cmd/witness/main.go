// Command witness is the program in a snap that tests make: a service that
// answers at a socket, or an app that prints its report.
//
//	witness serve NAME   answer at $SNAP_COMMON/NAME.sock
//	witness session      say what comes from the terminal and from signals
//	witness ...          print a report, and end with the status N after "exit N"
//
//nolint:forbidigo // The whole program is its main: it reads and ends its own process.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"tenure/test/witness"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "witness:", err)
		os.Exit(1)
	}
}

func run() error {
	inherited, err := witness.Inherited()
	if err != nil {
		return err
	}
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		return witness.Serve(ctx, witness.Config{
			Socket:     filepath.Join(os.Getenv("SNAP_COMMON"), os.Args[2]+".sock"),
			Supervisor: os.Getenv("NOTIFY_SOCKET"), Inherited: inherited,
		})
	}
	if slices.Contains(os.Args, "session") {
		status, err := witness.Session(os.Stdin, os.Stdout)
		if err == nil {
			os.Exit(status)
		}
		return err
	}
	report, err := witness.Take()
	if err != nil {
		return err
	}
	report.Files = inherited
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		return err
	}
	if at := slices.Index(os.Args, "exit"); at > 0 && at+1 < len(os.Args) {
		status, err := strconv.Atoi(os.Args[at+1])
		if err != nil {
			return err
		}
		os.Exit(status)
	}
	return nil
}
