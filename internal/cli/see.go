package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tenure/client"
)

func (a *app) seeCommands() []*cobra.Command {
	commands := []*cobra.Command{a.planCommand(), a.ps(), a.why()}
	for _, c := range commands {
		c.GroupID = "see"
	}
	return commands
}

func lineCount(n string) (int, error) {
	if n == "all" {
		return -1, nil
	}
	lines, err := strconv.Atoi(n)
	if err != nil || lines < 0 {
		return 0, fmt.Errorf("-n takes a number of lines or \"all\"; it is %q", n)
	}
	return lines, nil
}

func (a *app) planCommand() *cobra.Command {
	action := client.Action{}
	c := &cobra.Command{
		Use:   "plan ACTION SNAP|FILE|SERVICE...",
		Short: "Say what an action would do to each process, and why",
		Long: `plan says what an action would do to each running process, which rule decides that,
and which revisions would be kept for it. Nothing is changed.

The actions are install, refresh, revert, remove, enable, disable, stop and restart.`,
		Example:   "  tenure plan refresh ./virt_2.snap\n  tenure plan remove virt",
		Args:      cobra.MinimumNArgs(2),
		ValidArgs: []string{"install", "refresh", "revert", "remove", "enable", "disable", "stop", "restart"},
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(c.ValidArgs, args[0]) {
				return fmt.Errorf("cannot plan %q: the actions are %s", args[0], strings.Join(c.ValidArgs, ", "))
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
	c.Flags().BoolVar(&action.IgnoreRunning, "ignore-running", false, "as for refresh")
	return a.readable(c)
}

func (a *app) ps() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "ps [SNAP...]", Short: "Show what runs: units with their revisions and processes",
		RunE: func(c *cobra.Command, args []string) error {
			units, err := a.client().Units(c.Context())
			if err != nil {
				return err
			}
			if len(args) > 0 {
				units = slices.DeleteFunc(units, func(u client.Unit) bool { return !slices.Contains(args, u.Snap) })
			}
			if shown, err := a.show(units); shown || err != nil {
				return err
			}
			a.table("Unit\tKind\tRev\tState\tAge\tProcess", func(row func(string)) {
				snap := ""
				for i := range units {
					if units[i].Snap != snap {
						snap = units[i].Snap
						row(snap)
					}
					psRows(&units[i], row)
				}
			})
			return nil
		},
	})
}

func psRows(u *client.Unit, row func(string)) {
	rev := u.Revision
	switch {
	case u.StaleBase:
		rev += " (stale, on " + u.Base + ")"
	case u.Stale:
		rev += " (stale)"
	}
	row(strings.Join([]string{"  " + u.ID, u.Kind, rev, u.State, age(u.Since), ""}, "\t"))
	for i := range u.Processes {
		p := &u.Processes[i]
		mark := ""
		if p.Main {
			mark = " *"
		}
		row(strings.Join([]string{"    " + strconv.Itoa(p.PID) + mark, "", "", "", age(p.Started), shorten(p.Command)}, "\t"))
	}
}

// age is how long ago t was, to two units.
func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t).Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

func shorten(command string) string {
	const longest = 60
	command = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, command)
	if runes := []rune(command); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return command
}

func (a *app) why() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "why SNAP@REVISION", Short: "Say what keeps a revision", Example: "  tenure why virt@x1", Args: cobra.ExactArgs(1),
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
