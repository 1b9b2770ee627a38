package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tenure"
	"tenure/client"
)

func (a *app) remove() *cobra.Command {
	action := client.Action{Action: "remove"}
	c := &cobra.Command{
		Use: "remove SNAP...", Short: "Remove snaps, and end all that runs of them", Args: takes(1, -1, "snap"),
		Long: `remove ends all that runs of the snaps, each by its stop protocol, and removes their
revisions and data. What people would miss, the apps that they run and workloads like
virtual machines, it names before it begins, with their processes and how they end; tenure
plan remove says all of it and changes nothing. With --revision only that revision goes,
which nothing may be using.

The data is saved first (tenure saved), and kept for 31 days, or for as long as
snapshots.automatic.retention says; not with --purge.

Apps that people run get SIGTERM, and SIGKILL when their grace period is over. That
is so with --terminate and without it.`,
		Example: `  tenure plan remove virt
  tenure remove virt
  tenure remove --revision x1 virt`,
		ValidArgsFunction: a.complete(a.snapNames, -1),
		RunE: func(c *cobra.Command, args []string) error {
			if action.Revision != "" && len(args) > 1 {
				return misused(c, "--revision goes with a single snap")
			}
			action.Snaps = args
			a.sayEnding(c.Context(), action)
			err := a.act(c.Context(), action, "removed")
			// As with snap: what is not there need not be removed.
			if failed, ok := errors.AsType[*client.Error](err); ok && failed.Kind == "snap-not-installed" && len(args) == 1 {
				a.warnf("snap %q is not installed", args[0])
				return nil
			}
			return err
		},
	}
	c.Flags().StringVar(&action.Revision, "revision", "", "remove only this revision")
	c.Flags().BoolVar(&action.Purge, "purge", false, "save nothing of the data")
	c.Flags().BoolVar(&action.Terminate, "terminate", false, "end what runs of the snaps first, as remove always does")
	overrides(c, &action, overrideForce, overrideNow, overrideLeave, overrideKill)
	return a.waiting(c)
}

// ending is what a plan says of a unit and its end.
type ending struct {
	Unit      tenure.UnitID    `json:"unit"`
	Verdict   tenure.Verdict   `json:"verdict"`
	Processes []tenure.Process `json:"processes"`
	Stop      *struct {
		Command bool          `json:"command"`
		Signal  string        `json:"signal"`
		Timeout time.Duration `json:"timeout"`
		Kill    string        `json:"kill"`
	} `json:"stop"`
}

// sayEnding names the apps and workloads that a removal will end, before it does. Where there
// is no plan the removal says why; who has to give a password for it gives it once.
func (a *app) sayEnding(ctx context.Context, action client.Action) {
	plans, err := a.aside().Plan(ctx, action)
	if err != nil {
		return
	}
	for _, plan := range plans {
		var decided struct {
			Items   []ending        `json:"items"`
			Refusal json.RawMessage `json:"refusal"`
		}
		if json.Unmarshal(plan.Plan, &decided) != nil || decided.Refusal != nil {
			continue
		}
		for _, item := range decided.Items {
			if item.Verdict == tenure.Stop && item.Unit.Kind != tenure.Service {
				a.warnf("%s", item)
			}
		}
	}
}

// String is one line: who ends, and how.
func (e ending) String() string {
	var pids []string
	for _, process := range e.Processes {
		pids = append(pids, strconv.Itoa(process.PID))
	}
	text := fmt.Sprintf("%s (%s) runs, and ends now", e.Unit, strings.Join(pids, " "))
	if e.Stop == nil {
		return text
	}
	text += ": " + cmp.Or(e.Stop.Signal, "SIGTERM")
	if e.Stop.Command {
		text += " after its stop command"
	}
	if e.Stop.Timeout > 0 && e.Stop.Kill != "never" {
		text += fmt.Sprintf(", SIGKILL after %s", e.Stop.Timeout)
	}
	return text
}
