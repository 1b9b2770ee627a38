package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// command is one command of snapctl, for people.
type command struct {
	name, args, about string
}

// commands are all of them, those that the daemon carries out too: help is there when no
// daemon is, and for those who belong to no package.
func commands() []command {
	return []command{
		{"get", "[-d] [-t] OPTION...", "print configuration options of the snap"},
		{"set", "[-s] [-t] OPTION=VALUE...", "set configuration options of the snap; OPTION! unsets one"},
		{"unset", "OPTION...", "unset configuration options of the snap"},
		{"services", "[SERVICE...]", "list the services of the snap"},
		{"start", "[--no-wait] [--enable] SERVICE... [-- ARGS]", "start services; ARGS are for an instance of a template"},
		{"stop", "[--no-wait] [--disable] SERVICE...", "stop services"},
		{"restart", "[--no-wait] [--reload] SERVICE...", "restart services, or have them reload"},
		{"workload", "start|adopt|list|stop ...", "name the workloads of a service, each a unit of its own"},
		{"refresh", "--pending|--tracking|--hold|--proceed", "see what there is to refresh to, and hold it"},
		{"set-health", "[--code=CODE] STATUS [MESSAGE]", "say how the snap is: okay, waiting, blocked or error"},
		{"is-ready", "CHANGE", "exit with 0 if a change is done, 3 if it goes on, 2 if it ended otherwise"},
		{"tasks", "[--format=json] [CHANGE]", "list the tasks of a change, in a hook of its own"},
		{"change", "[--format=json] [CHANGE]", "the same as tasks"},
		{"fail", "MESSAGE", "make the change of the hook that calls fail"},
		{"progress", "[DONE TOTAL] MESSAGE", "say how far a hook has come"},
		{"reason", "", "print why this process is being ended"},
		{"version", "", "print the version of Tenure"},
		{"help", "[COMMAND]", "print this list, or how a command is called"},
	}
}

// helpAsked reports whether args ask for help, and about which command; empty is all.
func helpAsked(args []string) (about string, asked bool) {
	isFlag := func(arg string) bool { return arg == "--help" || arg == "-h" }
	switch {
	case len(args) == 0 || len(args) == 1 && (isFlag(args[0]) || args[0] == "help"):
		return "", true
	case len(args) == 2 && args[0] == "help":
		return args[1], true
	case len(args) == 2 && isFlag(args[1]):
		return args[0], true
	}
	return "", false
}

// help prints how a command is called, or all of them.
func help(w io.Writer, about string) error {
	all := commands()
	if about == "" {
		fmt.Fprint(w, "snapctl is what a snap calls from inside.\n\nUsage: snapctl COMMAND [ARGS]\n\n") //nolint:errcheck // Flush tells.
		table := tabwriter.NewWriter(w, 2, 2, 2, ' ', 0)
		for _, c := range all {
			fmt.Fprintf(table, "  %s\t%s\n", c.name, c.about) //nolint:errcheck // Flush tells.
		}
		return table.Flush()
	}
	at := slices.IndexFunc(all, func(c command) bool { return c.name == about })
	if at < 0 {
		return fmt.Errorf("there is no command %q here; snapctl help lists all", about)
	}
	usage := "snapctl " + about
	if all[at].args != "" {
		usage += " " + all[at].args
	}
	_, err := fmt.Fprintf(w, "Usage: %s\n\n%s: %s\n", usage, about, all[at].about)
	return err
}
