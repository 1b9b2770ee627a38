// Command tenure-run becomes an app of a snap. It is installed by tenured with the
// capabilities that entering a mount namespace needs, and does nothing else
// (docs/adr/0015-apps.md).
//
//	#!…/tenure-run --command=SNAP.APP         an entry of snap/bin
//	tenure-run app|shell SNAP[.APP] [ARGUMENT...]
//	tenure-run hook NAME SNAP [ARGUMENT...]
//	tenure-run complete SNAP.APP PLACE... WORD...
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"tenure/internal/entry"
)

// usage is the exit status for what cannot be understood.
const usage = 64

func main() {
	q, err := parse(os.Args)
	status := usage
	if err == nil {
		status = 1
		err = entry.Enter(q, os.Stderr)
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(status)
}

var errUsage = errors.New("tenure-run is for the commands in snap/bin and for tenure run")

func parse(args []string) (entry.Question, error) {
	if len(args) < 3 {
		return entry.Question{}, errUsage
	}
	if name, ok := strings.CutPrefix(args[1], "--command="); ok {
		// What follows is the path of the entry, as the kernel gives it.
		return entry.Question{Mode: entry.App, Name: name, Args: args[3:]}, nil
	}
	switch mode := entry.Mode(args[1]); {
	case mode == entry.Hook && len(args) > 3:
		return entry.Question{Mode: mode, Hook: args[2], Name: args[3], Args: args[4:]}, nil
	case mode == entry.App, mode == entry.Shell, mode == entry.Complete:
		return entry.Question{Mode: mode, Name: args[2], Args: args[3:]}, nil
	}
	return entry.Question{}, errUsage
}
