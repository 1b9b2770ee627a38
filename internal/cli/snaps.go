package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tenure/client"
)

func (a *app) snapCommands() []*cobra.Command {
	commands := []*cobra.Command{
		a.install(), a.refresh(), a.revert(), a.remove(),
		a.simple("enable", "Enable a snap that was disabled", "enabled"),
		a.simple("disable", "Disable a snap: nothing of it runs until it is enabled", "disabled"),
		a.list(), a.info(),
	}
	for _, c := range commands {
		c.GroupID = "snaps"
	}
	return commands
}

// files sorts arguments into files and names: what has a slash or ends in .snap is a file.
func files(args []string) (paths, names []string) {
	for _, arg := range args {
		if strings.Contains(arg, "/") || strings.HasSuffix(arg, ".snap") {
			paths = append(paths, arg)
		} else {
			names = append(names, arg)
		}
	}
	return paths, names
}

// confinement gives a command the flags about trust and confinement.
func confinement(c *cobra.Command, action *client.Action) {
	flags := c.Flags()
	flags.BoolVar(&action.Dangerous, "dangerous", false, "install files that no source vouches for")
	flags.BoolVar(&action.Classic, "classic", false, "let the snap see and change the whole machine")
	flags.BoolVar(&action.DevMode, "devmode", false, "run the snap without confinement, for development")
	flags.BoolVar(&action.JailMode, "jailmode", false, "confine the snap whatever it asks for")
}

func (a *app) waiting(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.noWait, "no-wait", false, "print the id of the change and do not wait for it")
	return c
}

func (a *app) install() *cobra.Command {
	action := client.Action{Action: "install"}
	c := &cobra.Command{
		Use: "install FILE...", Short: "Install snaps from files", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Files, action.Snaps = files(args)
			return a.act(c.Context(), action, "installed")
		},
	}
	confinement(c, &action)
	c.Flags().StringVar(&action.Name, "name", "", "install under this name (SNAP_KEY)")
	return a.waiting(c)
}

func (a *app) refresh() *cobra.Command {
	action := client.Action{Action: "refresh"}
	dryRun := false
	c := &cobra.Command{
		Use: "refresh FILE...", Short: "Refresh installed snaps to the revisions in files", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Files, action.Snaps = files(args)
			if dryRun {
				return a.plan(c.Context(), action)
			}
			return a.act(c.Context(), action, "refreshed")
		},
	}
	confinement(c, &action)
	c.Flags().StringVar(&action.Name, "name", "", "the instance to refresh (SNAP_KEY)")
	c.Flags().BoolVar(&action.IgnoreRunning, "ignore-running", false, "refresh although apps of the snap run")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done to each process, and why")
	return a.readable(a.waiting(c))
}

func (a *app) revert() *cobra.Command {
	action := client.Action{Action: "revert"}
	c := &cobra.Command{
		Use: "revert SNAP", Short: "Go back to the revision before, with its data", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Snaps = args
			return a.act(c.Context(), action, "reverted")
		},
	}
	c.Flags().StringVar(&action.Revision, "revision", "", "go back to this revision")
	return a.waiting(c)
}

func (a *app) remove() *cobra.Command {
	action := client.Action{Action: "remove"}
	c := &cobra.Command{
		Use: "remove SNAP...", Short: "Remove snaps, and end all that runs of them", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Snaps = args
			return a.act(c.Context(), action, "removed")
		},
	}
	c.Flags().StringVar(&action.Revision, "revision", "", "remove only this revision")
	c.Flags().BoolVar(&action.Purge, "purge", false, "keep no copy of the data, as remove never does")
	c.Flags().BoolVar(&action.Kill, "kill", false, "kill also what asks never to be killed")
	return a.waiting(c)
}

func (a *app) simple(verb, short, done string) *cobra.Command {
	return a.waiting(&cobra.Command{
		Use: verb + " SNAP...", Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.act(c.Context(), client.Action{Action: verb, Snaps: args}, done)
		},
	})
}

// act carries out an action on snaps, waits for it, and says what came of it.
func (a *app) act(ctx context.Context, action client.Action, done string) error {
	change, err := a.carryOut(ctx, action)
	if err != nil || change == nil {
		return err
	}
	snaps, err := a.client().Snaps(ctx, false)
	if err != nil {
		return err
	}
	for _, name := range change.Snaps() {
		at := slices.IndexFunc(snaps, func(s client.Snap) bool { return s.Name == name })
		switch {
		case at < 0 || done == "removed" && action.Revision != "":
			a.printf("%s %s\n", name, done)
		case done == "reverted":
			a.printf("%s reverted to %s\n", name, snaps[at].Version)
		default:
			a.printf("%s %s %s\n", name, snaps[at].Version, done)
		}
	}
	return nil
}

func (a *app) list() *cobra.Command {
	all := false
	c := &cobra.Command{
		Use: "list [SNAP...]", Short: "List installed snaps",
		RunE: func(c *cobra.Command, args []string) error {
			snaps, err := a.client().Snaps(c.Context(), all)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				snaps = slices.DeleteFunc(snaps, func(s client.Snap) bool { return !slices.Contains(args, s.Name) })
				if len(snaps) == 0 {
					return fmt.Errorf("no matching snaps installed")
				}
			}
			if shown, err := a.show(snaps); shown || err != nil {
				return err
			}
			if len(snaps) == 0 {
				fmt.Fprintln(a.cfg.Stderr, "No snaps are installed yet. Try 'tenure install --dangerous ./FILE.snap'.") //nolint:errcheck // See printf.
				return nil
			}
			a.table("Name\tVersion\tRev\tTracking\tPublisher\tNotes", func(row func(string)) {
				for i := range snaps {
					row(strings.Join([]string{snaps[i].Name, snaps[i].Version, snaps[i].Revision, "-", "-", notes(&snaps[i])}, "\t"))
				}
			})
			return nil
		},
	}
	c.Flags().BoolVar(&all, "all", false, "show all revisions that are kept")
	return a.readable(c)
}

func notes(s *client.Snap) string {
	var notes []string
	if s.Type != "app" {
		notes = append(notes, s.Type)
	}
	for name, set := range map[string]bool{"classic": s.Confinement == "classic", "devmode": s.DevMode, "jailmode": s.JailMode} {
		if set {
			notes = append(notes, name)
		}
	}
	if s.Status != "active" {
		notes = append(notes, map[bool]string{true: "disabled", false: "kept"}[s.Current])
	}
	slices.Sort(notes)
	if len(notes) == 0 {
		return "-"
	}
	return strings.Join(notes, ",")
}

func (a *app) info() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "info SNAP", Short: "Show what is known of a snap", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			snap, err := a.client().Snap(c.Context(), args[0])
			if err != nil {
				return err
			}
			if shown, err := a.show(snap); shown || err != nil {
				return err
			}
			a.printf("name:      %s\nsummary:   %s\n", snap.Name, snap.Summary)
			if snap.License != "" {
				a.printf("license:   %s\n", snap.License)
			}
			if snap.Description != "" {
				a.printf("description: |\n  %s\n", strings.ReplaceAll(strings.TrimSpace(snap.Description), "\n", "\n  "))
			}
			if len(snap.Apps) > 0 {
				a.printf("apps:\n")
				for i := range snap.Apps {
					a.printf("  - %s.%s%s\n", snap.Name, snap.Apps[i].Name, describe(&snap.Apps[i]))
				}
			}
			a.printf("installed: %s (%s) %d bytes\nsha256:    %s\n", snap.Version, snap.Revision, snap.InstalledSize, snap.Digest)
			return nil
		},
	})
}

func describe(s *client.Service) string {
	if s.Daemon == "" {
		return ""
	}
	state := "disabled"
	if s.Enabled {
		state = "enabled"
	}
	return fmt.Sprintf(": %s, %s, %s", s.Daemon, state, s.State)
}

// carryOut asks for an action, and waits for its change unless that was not
// wanted; then it prints the id and returns nil.
func (a *app) carryOut(ctx context.Context, action client.Action) (*client.Change, error) {
	if err := existing(action.Files); err != nil {
		return nil, err
	}
	id, err := a.client().Do(ctx, action)
	if err != nil {
		return nil, err
	}
	if a.noWait {
		a.printf("%s\n", id)
		return nil, nil //nolint:nilnil // Nothing was waited for, and that is no error.
	}
	return a.wait(ctx, id)
}

// plan prints what an action would do.
func (a *app) plan(ctx context.Context, action client.Action) error {
	if err := existing(action.Files); err != nil {
		return err
	}
	action.Dangerous = true // It only looks.
	plans, err := a.client().Plan(ctx, action)
	if err != nil {
		return err
	}
	if shown, err := a.show(plans); shown || err != nil {
		return err
	}
	for _, plan := range plans {
		a.printf("%s\n", strings.TrimRight(plan.Text, "\n"))
	}
	return nil
}
