package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tenure/client"
)

// forever is how a hold without an end is written.
const forever = "forever"

// refreshing are the flags of tenure refresh that are about what comes by itself, or
// only look.
type refreshing struct {
	list, times, absolute, unhold bool
	hold                          string
}

func (r *refreshing) flags(c *cobra.Command, action *client.Action) {
	flags := c.Flags()
	flags.BoolVar(&r.list, "list", false, "list what there is to refresh to, and what keeps it from coming by itself")
	flags.BoolVar(&r.times, "time", false, "say when automatic refreshes are")
	absoluteTimes(c, &r.absolute)
	flags.StringVar(&r.hold, "hold", "", "hold refreshes of the snaps, or the automatic ones of all, for this long: 24h, 7d, forever")
	flags.Lookup("hold").NoOptDefVal = forever
	flags.BoolVar(&r.unhold, "unhold", false, "end a hold")
	flags.BoolVar(&action.Amend, "amend", false, "refresh a snap that came from a file to what a source has")
}

// only carries out what is no refresh, and reports whether it was asked for that.
func (r *refreshing) only(c *cobra.Command, a *app, args []string) (bool, error) {
	asked := 0
	for _, flag := range []bool{r.list, r.times, r.hold != "", r.unhold} {
		if flag {
			asked++
		}
	}
	switch {
	case asked == 0:
		return false, nil
	case asked > 1:
		return true, misused(c, "--list, --time, --hold and --unhold exclude each other")
	case r.list:
		return true, a.listUpdates(c.Context(), args, r.absolute)
	case r.times && len(args) > 0:
		return true, misused(c, "--time goes with no snap")
	case r.times:
		return true, a.printTimes(c.Context(), r.absolute)
	}
	return true, r.changeHold(c, a, args)
}

// listUpdates shows what there is to refresh to.
func (a *app) listUpdates(ctx context.Context, names []string, absolute bool) error {
	updates, err := a.client().Updates(ctx)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		updates = slices.DeleteFunc(updates, func(u client.Update) bool { return !slices.Contains(names, u.Name) })
	}
	if shown, err := a.show(updates); shown || err != nil {
		return err
	}
	if len(updates) == 0 {
		a.warnf("All snaps up to date.")
		return nil
	}
	a.table("Name\tVersion\tRev\tSize\tPublisher\tNotes", func(row func(string)) {
		for i := range updates {
			u := &updates[i]
			row(updateRow(u, &u.Candidate, a.dueText(&u.Candidate, u.Held, absolute)))
			if u.Next != nil {
				row(updateRow(u, u.Next, a.dueText(u.Next, "", absolute)))
			}
		}
	})
	return nil
}

func updateRow(u *client.Update, c *client.Candidate, notes string) string {
	version := c.Version
	if version == "" {
		version = "-"
	}
	if u.Type != "app" {
		notes = u.Type + ", " + notes
	}
	return strings.Join([]string{u.Name, version, c.Revision, size(c.Size), "-", notes}, "\t")
}

// dueText says when a candidate comes by itself, and why not earlier.
func (a *app) dueText(c *client.Candidate, held string, absolute bool) string {
	text := "is to come by itself"
	switch {
	case c.StagedBy != "":
		return "staged by change " + c.StagedBy
	case c.Due.IsZero():
		text = "does not come by itself: " + c.Why
	case c.Why != "":
		text = fmt.Sprintf("from %s: %s", a.moment(c.Due, absolute), c.Why)
	}
	if held != "" {
		text = "held, " + text
	}
	return text
}

// printTimes says when automatic refreshes are, as snap does.
func (a *app) printTimes(ctx context.Context, absolute bool) error {
	info, err := a.client().SystemInfo(ctx)
	if err != nil {
		return err
	}
	if shown, err := a.show(info.Refresh); shown || err != nil {
		return err
	}
	a.printf("timer: %s\n", info.Refresh["timer"])
	for _, name := range []string{"last", "hold", "next"} {
		text := info.Refresh[name]
		at, err := time.Parse(time.RFC3339, text)
		switch {
		case err == nil:
			text = a.moment(at, absolute)
		case text == "" && name == "hold":
			continue
		case text == "":
			text = "n/a"
		}
		a.printf("%s: %s\n", name, text)
	}
	return nil
}

// changeHold holds refreshes, or ends that, and says so as snap does.
func (r *refreshing) changeHold(c *cobra.Command, a *app, names []string) error {
	action := client.Action{Action: "unhold", Snaps: names}
	if r.hold != "" {
		action.Action, action.Time = "hold", forever
		if r.hold != forever {
			d, err := holdTime(r.hold)
			if err != nil {
				return misused(c, "%v", err)
			}
			action.Time = time.Now().Add(d + time.Second - 1).Truncate(time.Second).Format(time.RFC3339) // Not a moment less.
		}
	}
	if change, err := a.carryOut(c.Context(), action); err != nil || change == nil {
		return err
	}
	quoted := make([]string, 0, len(names))
	for _, name := range names {
		quoted = append(quoted, strconv.Quote(name))
	}
	snaps := strings.Join(quoted, ", ")
	until := "until " + action.Time
	if action.Time == forever {
		until = "indefinitely"
	}
	switch {
	case r.unhold && len(names) == 0:
		a.printf("Removed auto-refresh hold on all snaps\n")
	case r.unhold:
		a.printf("Removed general refresh hold of %s\n", snaps)
	case len(names) == 0:
		a.printf("Auto-refresh of all snaps held %s\n", until)
	default:
		a.printf("General refreshes of %s held %s\n", snaps, until)
	}
	return nil
}

// holdTime reads how long to hold.
func holdTime(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if count, isDays := strings.CutSuffix(text, "d"); isDays {
		var n int
		n, err = strconv.Atoi(count)
		d = time.Duration(min(n, 1<<16)) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("--hold takes a time like 24h, 7d or forever, with \"=\" in front, and not %q", text)
	}
	return d, nil
}

// refreshAll refreshes all snaps, each by a change of its own, and waits for all of them.
func (a *app) refreshAll(ctx context.Context, action client.Action) error {
	asking := a.progress("Ask tenured to refresh all snaps")
	begun, err := a.client().RefreshAll(ctx, action)
	asking.end()
	if err != nil {
		return err
	}
	if len(begun) == 0 {
		a.warnf("All snaps up to date.")
		return nil
	}
	var failures []error
	for _, b := range begun {
		if b.Message != "" {
			a.warnf("%s", b.Message)
			continue
		}
		change, err := a.finish(ctx, b.Change, nil)
		if err == nil && change != nil {
			err = a.sayDone(ctx, change, action, "refreshed")
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", b.Snap, err))
		}
	}
	return errors.Join(failures...)
}

// noUpdate says, as snap does, that there is nothing to refresh to, which is no error.
func (a *app) noUpdate(err error) error {
	if failed, ok := errors.AsType[*client.Error](err); ok && failed.Kind == "snap-no-update-available" {
		_, plain, _ := strings.Cut(failed.Message, ": ")
		a.warnf("%s", plain)
		return nil
	}
	return err
}

func (a *app) switchCommand() *cobra.Command {
	action := client.Action{Action: "switch"}
	c := &cobra.Command{
		Use: "switch SNAP...", Short: "Let snaps track another channel or source", Args: takes(1, -1, "snap"), GroupID: "snaps",
		Long: `switch says which channel, and which source, updates of snaps come from. Nothing is
refreshed by it. A risk alone, as in --channel=edge, keeps the track.`,
		Example:           "  tenure switch --channel=edge hello\n  tenure switch --source=lab hello",
		ValidArgsFunction: a.complete(a.snapNames, -1),
		RunE: func(c *cobra.Command, args []string) error {
			if action.Channel == "" && action.Source == "" {
				return misused(c, "give --channel or --source")
			}
			action.Snaps = args
			change, err := a.carryOut(c.Context(), action)
			if err != nil || change == nil {
				return err
			}
			for _, name := range args {
				snap, err := a.client().Snap(c.Context(), name)
				if err != nil {
					return err
				}
				a.printf("%q switched to the %q channel\n", name, snap.TrackingChannel)
			}
			return nil
		},
	}
	channels(c, &action)
	return a.waiting(c)
}

func (a *app) findCommand() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "find [TEXT]", Short: "Find snaps in the sources", Args: takes(0, 1, "text"), GroupID: "snaps",
		Long:    "find lists the snaps that sources have whose name or summary has a text in it.",
		Example: "  tenure find\n  tenure find database", ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			found, err := a.client().Find(c.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			if shown, err := a.show(found); shown || err != nil {
				return err
			}
			if len(found) == 0 {
				return errors.New("no matching snaps: see tenure source list")
			}
			a.table("Name\tVersion\tPublisher\tNotes\tSummary", func(row func(string)) {
				for i := range found {
					row(strings.Join([]string{found[i].Name, found[i].Version, "-", found[i].Source, found[i].Summary}, "\t"))
				}
			})
			return nil
		},
	})
}

// printRemote shows what sources have of a snap, and what comes by itself.
func (a *app) printRemote(ctx context.Context, name string, absolute bool) error {
	snap, _, _ := strings.Cut(name, "_")
	offers, err := a.client().Offers(ctx, snap)
	if err != nil {
		return nil //nolint:nilerr // Where no source has it there are no channels.
	}
	for i := range offers {
		a.printf("channels of %s:\n", offers[i].Source)
		for _, channel := range offers[i].Order {
			r := offers[i].Channels[channel]
			a.printf("  %-16s %s %s (%s) %s\n", channel+":", r.Version, r.Released.Format(time.DateOnly), r.Revision, size(r.Size))
		}
	}
	updates, err := a.client().Updates(ctx)
	if err != nil {
		return err
	}
	for i := range updates {
		if updates[i].Name != name {
			continue
		}
		for _, c := range []*client.Candidate{&updates[i].Candidate, updates[i].Next} {
			if c != nil {
				a.printf("update:       %s (%s) %s\n", c.Version, c.Revision, a.dueText(c, updates[i].Held, absolute))
			}
		}
	}
	return nil
}

// known is an installed snap, or, in status "available", one that a source has.
func (a *app) known(ctx context.Context, name string) (client.Snap, error) {
	snap, err := a.client().Snap(ctx, name)
	if err == nil {
		return snap, nil
	}
	if offers, offerErr := a.client().Offers(ctx, name); offerErr != nil || len(offers) == 0 {
		return snap, err
	}
	return client.Snap{Name: name, Status: "available"}, nil
}

// foundNames are those of the snaps that sources have.
func (a *app) foundNames(ctx context.Context) []cobra.Completion {
	found, err := a.client().Find(ctx, "")
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for i := range found {
		names = append(names, found[i].Name)
	}
	return names
}

func (a *app) sourceNames(ctx context.Context) []cobra.Completion {
	sources, err := a.client().Sources(ctx)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for i := range sources {
		names = append(names, sources[i].Name)
	}
	return names
}
