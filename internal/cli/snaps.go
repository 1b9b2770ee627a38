package cli

import (
	"cmp"
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
		a.enable(), a.disable(),
		a.list(), a.info(),
	}
	for _, c := range commands {
		c.GroupID = "snaps"
	}
	return commands
}

// files sorts arguments into files and names: what has a slash or a dot, which no
// name has, is a file.
func files(args []string) (paths, names []string) {
	for _, arg := range args {
		if strings.ContainsAny(arg, "/.") {
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

// override is the name of a flag by which the administrator overrules a plan.
type override string

const (
	overrideForce  override = "force"
	overrideNow    override = "now"
	overrideLeave  override = "leave"
	overrideKill   override = "kill"
	overrideIgnore override = "ignore-running"
)

// overrides give a command those flags by which the administrator overrules a plan.
func overrides(c *cobra.Command, action *client.Action, names ...override) {
	flags := c.Flags()
	for _, name := range names {
		switch name {
		case overrideForce:
			flags.BoolVar(&action.Force, string(name), false, "do it whatever it costs: end, or do not wait for, what stands in the way")
		case overrideNow:
			flags.BoolVar(&action.Now, string(name), false, "do not wait for what asks to be waited for")
		case overrideLeave:
			flags.BoolVar(&action.Leave, string(name), false, "leave running what the snap wants to outlive it")
		case overrideKill:
			flags.BoolVar(&action.Kill, string(name), false, "kill also what asks never to be killed")
		case overrideIgnore:
			flags.BoolVar(&action.IgnoreRunning, string(name), false, "go on although apps of the snap run; they keep their revision")
		}
	}
}

func (a *app) waiting(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.noWait, "no-wait", false, "print the id of the change and do not wait for it")
	return c
}

// channels gives a command the flags that pick a channel. A channel belongs to a
// source of snaps.
func channels(c *cobra.Command, action *client.Action) {
	c.Flags().StringVar(&action.Channel, "channel", "", "the channel to take it from ([TRACK/]RISK[/BRANCH])")
	c.Flags().StringVar(&action.Source, "source", "", "the source to take it from (see tenure source list)")
}

// confined refuses what contradicts itself.
func confined(c *cobra.Command, action *client.Action) error {
	if action.JailMode && (action.DevMode || action.Classic) {
		return misused(c, "--jailmode goes with neither --devmode nor --classic")
	}
	return nil
}

func (a *app) install() *cobra.Command {
	action := client.Action{Action: "install"}
	c := &cobra.Command{
		Use: "install SNAP|FILE...", Short: "Install snaps from sources or files", Args: takes(1, -1, "snap or snap file"),
		Long: `install installs snaps, all of them or none: from the first source that has them (see
tenure help source), or from files. Bases that they need come from a source, too; from
files they may come in the same command. What is in a file and is installed already is
refreshed.

A file that no source vouches for needs --dangerous. A snap that is made for classic
confinement or for development mode needs --classic or --devmode: it is not confined.`,
		Example: `  tenure install hello --channel=edge
  tenure install --dangerous ./hello_1.snap
  tenure install --dangerous ./debian12_1.snap ./postgres_15.snap
  tenure install --dangerous --name hello_two ./hello_1.snap`,
		ValidArgsFunction: a.namesOrFiles(a.foundNames),
		RunE: func(c *cobra.Command, args []string) error {
			if err := confined(c, &action); err != nil {
				return err
			}
			action.Files, action.Snaps = files(args)
			if len(action.Files) > 0 && len(action.Snaps) > 0 {
				return misused(c, "files and names of snaps go in commands of their own")
			}
			return a.act(c.Context(), action, "installed")
		},
	}
	confinement(c, &action)
	channels(c, &action)
	c.Flags().StringVar(&action.Name, "name", "", "install under this name (SNAP_KEY)")
	return a.waiting(c)
}

func (a *app) refresh() *cobra.Command {
	action := client.Action{Action: "refresh"}
	dryRun, other := false, refreshing{}
	c := &cobra.Command{
		Use: "refresh [SNAP...|FILE...]", Short: "Refresh installed snaps to newer revisions", Args: takes(0, -1, ""),
		Long: `refresh brings installed snaps to the newest revisions of their channels, all that are
named or none; without a name every snap that there is an update of, each for itself,
but for those that are held. With files it brings snaps to the revisions in them. What
becomes of each running process is decided by the rules that tenure plan, or --dry-run,
shows. The old revision is kept for tenure revert, and for as long as anything runs
from it.

Snaps from sources are also refreshed automatically, at the times of the system option
refresh.timer, when a release is as old as refresh.minimum-age, and unless it is held
or has failed before. --list says when each update comes, and --time when updates are
looked for. --hold keeps snaps that are named from being refreshed by itself or with
all others; without a name it holds the automatic refreshes of all.

A service may ask to be waited for. The revision is then staged, and the command
returns: the change goes on when the service ends, is restarted or the machine starts,
or when --now is given, with the files or later with the name of the snap.`,
		Example: `  tenure refresh
  tenure refresh virt --channel=edge
  tenure refresh --hold=7d virt
  tenure refresh --dry-run ./virt_2.snap
  tenure refresh --dangerous ./virt_2.snap
  tenure refresh --now postgres`,
		ValidArgsFunction: a.namesOrFiles(a.snapNames),
		RunE: func(c *cobra.Command, args []string) error {
			if done, err := other.only(c, a, args); done {
				return err
			}
			if err := confined(c, &action); err != nil {
				return err
			}
			action.Files, action.Snaps = files(args)
			if len(action.Files) > 0 && len(action.Snaps) > 0 {
				return misused(c, "files and names of snaps go in commands of their own")
			}
			if dryRun {
				return a.plan(c.Context(), action)
			}
			if a.asJSON {
				return misused(c, "--json goes with --dry-run, --list and --time")
			}
			if len(args) == 0 {
				return a.refreshAll(c.Context(), action)
			}
			return a.noUpdate(a.act(c.Context(), action, "refreshed"))
		},
	}
	confinement(c, &action)
	channels(c, &action)
	c.Flags().StringVar(&action.Name, "name", "", "the instance to refresh (SNAP_KEY)")
	overrides(c, &action, overrideIgnore, overrideForce, overrideNow, overrideKill)
	other.flags(c, &action)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done to each process, and why")
	return a.readable(a.waiting(c))
}

func (a *app) revert() *cobra.Command {
	action := client.Action{Action: "revert"}
	c := &cobra.Command{
		Use: "revert SNAP", Short: "Go back to the revision before, with its data", Args: takes(1, 1, "snap"),
		Long: `revert makes the revision before the current one current again, with the data that it
had then ($SNAP_DATA). What all revisions share ($SNAP_COMMON) stays as it is. Further
reverts go further back; tenure list --all shows what there is.`,
		Example:           "  tenure revert virt\n  tenure revert --revision x1 virt",
		ValidArgsFunction: a.complete(a.snapNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Snaps = args
			return a.act(c.Context(), action, "reverted")
		},
	}
	c.Flags().StringVar(&action.Revision, "revision", "", "go back to this revision")
	overrides(c, &action, overrideIgnore, overrideForce, overrideNow, overrideKill)
	return a.waiting(c)
}

func (a *app) enable() *cobra.Command {
	return a.simple(&cobra.Command{
		Use: "enable SNAP...", Short: "Enable a snap that was disabled",
		Long:    "enable makes the commands of a disabled snap available again, and starts its services.",
		Example: "  tenure enable hello",
	}, "enable", "enabled")
}

func (a *app) disable() *cobra.Command {
	return a.simple(&cobra.Command{
		Use: "disable SNAP...", Short: "Disable a snap: nothing of it runs until it is enabled",
		Long: `disable ends all that runs of the snap, each by its stop protocol, and takes its
commands away. Its revisions and data stay.`,
		Example: "  tenure disable hello",
	}, "disable", "disabled", overrideForce, overrideNow, overrideLeave, overrideKill)
}

func (a *app) simple(c *cobra.Command, verb, done string, flags ...override) *cobra.Command {
	action := client.Action{Action: verb}
	overrides(c, &action, flags...)
	c.Args, c.ValidArgsFunction = takes(1, -1, "snap"), a.complete(a.snapNames, -1)
	c.RunE = func(c *cobra.Command, args []string) error {
		action.Snaps = args
		return a.act(c.Context(), action, done)
	}
	return a.waiting(c)
}

// act carries out an action on snaps, waits for it, and says what came of it.
func (a *app) act(ctx context.Context, action client.Action, done string) error {
	change, err := a.carryOut(ctx, action)
	if err != nil || change == nil {
		return err
	}
	return a.sayDone(ctx, change, action, done)
}

// sayDone says what came of a change.
func (a *app) sayDone(ctx context.Context, change *client.Change, action client.Action, done string) error {
	if change.Status == statusWait && !change.Observed() {
		return a.sayWaiting(change)
	}
	snaps, err := a.client().Snaps(ctx, false)
	if err != nil {
		return err
	}
	for _, name := range change.Snaps() {
		a.warnOfClassic(action, snaps, name)
		at := slices.IndexFunc(snaps, func(s client.Snap) bool { return s.Name == name })
		switch {
		case done == "removed" && action.Revision != "":
			a.printf("%s (revision %s) removed\n", name, action.Revision)
		case at < 0:
			a.printf("%s %s\n", name, done)
		case done == "reverted":
			a.printf("%s reverted to %s\n", name, snaps[at].Version)
		default:
			a.printf("%s %s %s\n", name, snaps[at].Version, done)
		}
	}
	if change.Observed() {
		a.sayObserved(change)
	}
	return nil
}

// warnOfClassic says that --classic is in vain for a snap that is confined all the same.
func (a *app) warnOfClassic(action client.Action, snaps []client.Snap, name string) {
	strict := func(s client.Snap) bool { return s.Name == name && s.Confinement == "strict" }
	if action.Classic && slices.ContainsFunc(snaps, strict) {
		a.warnf("Warning: flag --classic ignored for strictly confined snap %s", name)
	}
}

func (a *app) list() *cobra.Command {
	all := false
	c := &cobra.Command{
		Use: "list [SNAP...]", Short: "List installed snaps",
		Long: `list shows the installed snaps, with their current revisions. With --all it shows
every revision that is kept; tenure why says what for.`,
		Example:           "  tenure list\n  tenure list --all virt",
		ValidArgsFunction: a.complete(a.snapNames, -1),
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
					row(strings.Join([]string{snaps[i].Name, snaps[i].Version, snaps[i].Revision, cmp.Or(snaps[i].TrackingChannel, "-"), "-", notes(&snaps[i])}, "\t"))
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
	if s.Hold != "" {
		notes = append(notes, "held")
	}
	switch {
	case s.StagedBy != "":
		notes = append(notes, "staged")
	case s.Status != "active":
		notes = append(notes, "disabled")
	}
	if s.Health != nil && s.Health.Status != "okay" {
		notes = append(notes, s.Health.Status)
	}
	slices.Sort(notes)
	if len(notes) == 0 {
		return "-"
	}
	return strings.Join(notes, ",")
}

func (a *app) info() *cobra.Command {
	absolute := false
	c := &cobra.Command{
		Use: "info SNAP...", Short: "Show what is known of snaps", Args: takes(1, -1, "snap"),
		Long: `info shows what an installed snap says of itself, which commands and services it has,
and how the services are; and which channels the sources have of it, and what comes of
them by itself, and when.`,
		Example:           "  tenure info virt",
		ValidArgsFunction: a.complete(a.snapNames, -1),
		RunE: func(c *cobra.Command, args []string) error {
			snaps := []client.Snap{}
			for _, name := range args {
				snap, err := a.known(c.Context(), name)
				if err != nil {
					return err
				}
				snaps = append(snaps, snap)
			}
			if a.asJSON && len(snaps) == 1 {
				_, err := a.show(snaps[0])
				return err
			}
			if shown, err := a.show(snaps); shown || err != nil {
				return err
			}
			for i := range snaps {
				if i > 0 {
					a.printf("---\n")
				}
				a.printInfo(&snaps[i], absolute)
				if err := a.printRemote(c.Context(), args[i], absolute); err != nil {
					return err
				}
			}
			return nil
		},
	}
	absoluteTimes(c, &absolute)
	return a.readable(c)
}

func (a *app) printInfo(snap *client.Snap, absolute bool) {
	field := func(name, value string) { a.printf("%-13s %s\n", name+":", value) }
	field("name", snap.Name)
	if snap.Revision == "" {
		return // It is not installed.
	}
	field("summary", snap.Summary)
	field("publisher", "-")
	field("license", cmp.Or(snap.License, "unset"))
	if snap.Contact != "" {
		field("contact", snap.Contact)
	}
	if snap.Base != "" {
		field("base", snap.Base)
	}
	if h := snap.Health; h != nil {
		a.printf("health:\n  status:   %s\n", h.Status)
		if h.Message != "" {
			a.printf("  message:  %s\n", h.Message)
		}
		if h.Code != "" {
			a.printf("  code:     %s\n", h.Code)
		}
		a.printf("  checked:  %s\n  revision: %s\n", a.moment(h.Timestamp, absolute), h.Revision)
	}
	if snap.Description != "" {
		a.printf("description: |\n  %s\n", strings.ReplaceAll(strings.TrimSpace(snap.Description), "\n", "\n  "))
	}
	var commands, services []string
	for i := range snap.Apps {
		app := &snap.Apps[i]
		if app.Daemon == "" {
			commands = append(commands, "  - "+command(snap.Name, app.Name))
		} else {
			services = append(services, fmt.Sprintf("  %s.%s: %s, %s, %s", snap.Name, app.Name, app.Daemon, startup(app), app.State))
		}
	}
	if len(commands) > 0 {
		a.printf("commands:\n%s\n", strings.Join(commands, "\n"))
	}
	if len(services) > 0 {
		a.printf("services:\n%s\n", strings.Join(services, "\n"))
	}
	if snap.TrackingChannel != "" {
		field("tracking", snap.TrackingChannel)
	}
	if snap.Hold != "" {
		field("hold", snap.Hold)
	}
	field("refresh-date", a.moment(snap.InstallDate, absolute))
	field("installed", fmt.Sprintf("%s (%s) %s %s", snap.Version, snap.Revision, size(snap.InstalledSize), notes(snap)))
	field("sha256", snap.Digest)
}

func startup(s *client.Service) string {
	if s.Enabled {
		return "enabled"
	}
	return "disabled"
}

// size is n bytes in the units of storage, as snap writes them: 12kB, 3MB.
func size(n int64) string {
	const unit = 1000
	value, suffixes := float64(n), []string{"B", "kB", "MB", "GB", "TB"}
	for len(suffixes) > 1 && value >= unit {
		value, suffixes = value/unit, suffixes[1:]
	}
	return fmt.Sprintf("%.0f%s", value, suffixes[0])
}

// plan prints what an action would do.
func (a *app) plan(ctx context.Context, action client.Action) error {
	if err := existing(action.Files); err != nil {
		return err
	}
	action.Dangerous = true // It only looks.
	asking := a.progress("Ask tenured for the plan")
	plans, err := a.client().Plan(ctx, action)
	asking.end()
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
