package cli

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tenure/client"
)

func (a *app) seeCommands() []*cobra.Command {
	commands := []*cobra.Command{a.planCommand(), a.ps(), a.why(), a.timeline(), a.refreshTest()}
	for _, c := range commands {
		c.GroupID = "see"
	}
	return commands
}

func (a *app) planCommand() *cobra.Command {
	action := client.Action{}
	c := &cobra.Command{
		Use:   "plan ACTION SNAP|FILE|SERVICE...",
		Short: "Say what an action would do to each process, and why",
		Long: `plan says what an action would do to each running process, which rule decides that,
and which revisions would be kept for it. Nothing is changed.

The actions are install, refresh, revert, remove, enable, disable, start, stop and
restart.`,
		Example: "  tenure plan refresh ./virt_2.snap\n  tenure plan remove virt",
		Args:    takes(2, -1, "an action and what to do it to"), ValidArgsFunction: a.completePlan,
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(planned(), args[0]) {
				return misused(c, "cannot plan %q: the actions are %s", args[0], strings.Join(planned(), ", "))
			}
			if err := confined(c, &action); err != nil {
				return err
			}
			action.Action = args[0]
			action.Files, action.Snaps = files(args[1:])
			if action.OnServices() {
				action.Names, action.Snaps, action.Files = args[1:], nil, nil
			}
			return a.plan(c.Context(), action)
		},
	}
	confinement(c, &action)
	c.Flags().StringVar(&action.Revision, "revision", "", "the revision to revert to or to remove")
	c.Flags().StringVar(&action.Name, "name", "", "the instance that a file becomes (SNAP_KEY)")
	overrides(c, &action, overrideIgnore, overrideForce, overrideNow, overrideLeave, overrideKill)
	return a.readable(c)
}

// planned are the actions that can be planned.
func planned() []string {
	return []string{"install", "refresh", "revert", "remove", "enable", "disable", "start", "stop", "restart"}
}

func (a *app) completePlan(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	switch {
	case len(args) == 0:
		return planned(), cobra.ShellCompDirectiveNoFileComp
	case args[0] == "install", args[0] == "refresh":
		return snapFiles(c, args, toComplete)
	case args[0] == "start", args[0] == "stop", args[0] == "restart":
		return a.complete(a.unitNames, -1)(c, args, toComplete)
	default:
		return a.complete(a.snapNames, -1)(c, args, toComplete)
	}
}

func (a *app) ps() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "ps [SNAP...]", Short: "Show what runs: units with their revisions and processes",
		Long: `ps shows every unit (service, workload, run of an app or hook) that is alive, with the
revision that it runs from, its age and its processes; * marks the main process. A
unit is stale when its revision is not the current one; where lifecycle.max-endure is
set, or a rule of the administrator says it, ps says until when it may be.

Everybody sees that; command lines only of their own processes, unless they are root or in
the group tenure.`,
		Example:           "  tenure ps\n  tenure ps virt",
		ValidArgsFunction: a.complete(a.snapNames, -1),
		RunE: func(c *cobra.Command, args []string) error {
			units, err := a.unitsOf(c.Context(), args)
			if err != nil {
				return err
			}
			if shown, err := a.show(units); shown || err != nil {
				return err
			}
			if len(units) == 0 {
				a.warnf("nothing runs%s", strings.Join(prefixed(" of ", args), ","))
				return nil
			}
			a.table("Unit\tKind\tRev\tState\tAge\tProcess", func(row func(string)) {
				snap := ""
				for i := range units {
					if units[i].Snap != snap {
						snap = units[i].Snap
						row(snap + "\t\t\t\t\t")
					}
					psRows(&units[i], row)
				}
			})
			return nil
		},
	})
}

func prefixed(prefix string, names []string) []string {
	if len(names) == 0 {
		return nil
	}
	return append([]string{prefix + names[0]}, prefixed(" ", names[1:])...)
}

// unitsOf are the units of the named snaps, of all if none is named. A snap that has
// neither units nor an installation is an error.
func (a *app) unitsOf(ctx context.Context, names []string) ([]client.Unit, error) {
	units, err := a.client().Units(ctx)
	if err != nil || len(names) == 0 {
		return units, err
	}
	has := func(name string) bool {
		return slices.ContainsFunc(units, func(u client.Unit) bool { return u.Snap == name })
	}
	for _, name := range names {
		if has(name) {
			continue
		}
		if _, err := a.client().Snap(ctx, name); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(units, func(u client.Unit) bool { return !slices.Contains(names, u.Snap) }), nil
}

func psRows(u *client.Unit, row func(string)) {
	rev := u.Revision
	switch {
	case u.StaleBase:
		rev += " (stale, on " + u.Base + ")"
	case u.Stale:
		rev += " (stale)"
	case u.Staged != "":
		rev += " (" + u.Staged + " staged)"
	}
	rev += endurance(u, time.Now())
	row(strings.Join([]string{"  " + u.ID, u.Kind, rev, u.State, age(u.Since), ""}, "\t"))
	for i := range u.Processes {
		p := &u.Processes[i]
		mark := ""
		if p.Main {
			mark = " *"
		}
		row(strings.Join([]string{"    " + strconv.Itoa(p.PID) + mark, "", "", "", age(p.Started), cmp.Or(cut(p.Command, 60), "-")}, "\t"))
	}
}

// endurance says how long a stale unit may go on, and by which rule of the administrator:
// " until 2026-11-26 09:00 UTC by rule machines".
func endurance(u *client.Unit, now time.Time) string {
	if u.EnduresUntil.IsZero() {
		return ""
	}
	word, by := " until ", ""
	if !now.Before(u.EnduresUntil) {
		word = " overdue since "
	}
	if u.EndureRule != "" {
		by = " by rule " + u.EndureRule
	}
	return word + u.EnduresUntil.UTC().Format("2006-01-02 15:04 MST") + by
}

func (a *app) why() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "why SNAP@REVISION", Short: "Say what keeps a revision", Example: "  tenure why virt@x1", Args: takes(1, 1, "revision (SNAP@REVISION)"),
		Long: `why lists every reason to keep a revision: that it is current, that it is retained
for tenure revert, and which units, processes and changes use it. A revision goes by
itself when its last reason has gone.`,
		ValidArgsFunction: a.complete(a.refs, 1),
		RunE: func(c *cobra.Command, args []string) error {
			pins, err := a.client().Pins(c.Context(), args[0])
			if err != nil {
				return err
			}
			if shown, err := a.show(pins); shown || err != nil {
				return err
			}
			if len(pins) == 0 {
				a.printf("nothing keeps %s; it is about to go\n", args[0])
			}
			for _, pin := range pins {
				a.printf("%s\n", pin.Text)
			}
			return nil
		},
	})
}
