package hook

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"tenure/internal/proc"
)

// WorkloadHost is what services do to the workloads that they name themselves. A name is
// that of a workload that the service declares, alone or with a name of its own behind
// an "@": "vm", "vm@web1".
type WorkloadHost interface {
	// StartWorkload runs a command as a workload of the caller's service.
	StartWorkload(ctx context.Context, c Caller, name string, argv []string) error
	// AdoptWorkload makes one of a process of the caller's snap.
	AdoptWorkload(ctx context.Context, c Caller, name string, pid int) error
	// StopWorkload ends one by its stop protocol. Those that were told apart by a pattern
	// have a pid in their names: "vm.4711".
	StopWorkload(ctx context.Context, c Caller, name string) error
	// Workloads are those of the caller's service, also such that have ended and have
	// a name of their own.
	Workloads(ctx context.Context, c Caller) ([]Workload, error)
}

// Workload is what there is to say about a workload.
type Workload struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Revision string `json:"revision"`
	PIDs     []int  `json:"pids,omitempty"`
	// Since is when it got into its state.
	Since time.Time `json:"since"`
	// Exit is how its main process ended, if it has and that is known.
	Exit *proc.Exit `json:"exit,omitempty"`
}

func workload(ctx context.Context, host WorkloadHost, caller Caller, args []string, w io.Writer) error {
	if len(args) == 0 {
		return usage("snapctl workload start|adopt|stop|list ...")
	}
	action, args := args[0], args[1:]
	if action == "list" {
		return listWorkloads(ctx, host, caller, args, w)
	}
	if err := caller.isRoot("workload " + action); err != nil {
		return err
	}
	switch action {
	case "start":
		names, argv := cutCommand(args)
		if len(names) != 1 || len(argv) == 0 {
			return usage("snapctl workload start NAME -- COMMAND...")
		}
		return host.StartWorkload(ctx, caller, names[0], argv)
	case "adopt":
		return adoptWorkload(ctx, host, caller, args)
	case "stop":
		if len(args) != 1 {
			return usage("snapctl workload stop NAME")
		}
		return host.StopWorkload(ctx, caller, args[0])
	}
	return fmt.Errorf("there is no command %q of workload; there are: start, adopt, stop, list", action)
}

// cutCommand takes the words before "--", and those after it.
func cutCommand(args []string) (before, command []string) {
	at := slices.Index(args, "--")
	if at < 0 {
		return args, nil
	}
	return args[:at], args[at+1:]
}

func adoptWorkload(ctx context.Context, host WorkloadHost, caller Caller, args []string) error {
	fs := flag.NewFlagSet("adopt", flag.ContinueOnError)
	pid := fs.Int("pid", 0, "")
	names, err := flags(fs, args)
	if err != nil {
		return err
	}
	if len(names) != 1 || *pid <= 0 {
		return usage("snapctl workload adopt NAME --pid PID")
	}
	return host.AdoptWorkload(ctx, caller, names[0], *pid)
}

func listWorkloads(ctx context.Context, host WorkloadHost, caller Caller, args []string, w io.Writer) error {
	fs := flag.NewFlagSet("list", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "")
	rest, err := flags(fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usage("snapctl workload list [--json]")
	}
	list, err := host.Workloads(ctx, caller)
	if err != nil {
		return err
	}
	if *asJSON {
		text, err := json.MarshalIndent(append([]Workload{}, list...), "", "  ")
		if err == nil {
			_, err = fmt.Fprintf(w, "%s\n", text)
		}
		return err
	}
	table := tabwriter.NewWriter(w, 2, 2, 2, ' ', 0)
	fmt.Fprintln(table, "Workload\tCurrent\tRev\tPIDs\tNotes") //nolint:errcheck // Flush tells.
	for _, l := range list {
		pids, notes := make([]string, 0, len(l.PIDs)), "-"
		for _, pid := range l.PIDs {
			pids = append(pids, strconv.Itoa(pid))
		}
		if l.Exit != nil {
			notes = l.Exit.String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", l.Name, l.State, l.Revision, cmp.Or(strings.Join(pids, ","), "-"), notes) //nolint:errcheck // Flush tells.
	}
	return table.Flush()
}
