package cli

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"tenure/client"
)

func (a *app) snapshotCommands() []*cobra.Command {
	commands := []*cobra.Command{a.savedCommand(), a.saveCommand(), a.restoreCommand(), a.checkSnapshotCommand(), a.forgetCommand()}
	for _, c := range commands {
		c.GroupID = "snaps"
	}
	return commands
}

func (a *app) savedCommand() *cobra.Command {
	var set uint64
	var absolute bool
	c := &cobra.Command{
		Use: "saved [SNAP...]", Short: "List what is saved of the data of snaps", Args: takes(0, -1, "snap"),
		Long: `saved lists what tenure save has saved, and what was saved when snaps were removed, which
is noted as auto and goes after 31 days, or when snapshots.automatic.retention says.`,
		Example: "  tenure saved\n  tenure saved --id 3", ValidArgsFunction: a.complete(a.snapNames, -1),
		RunE: func(c *cobra.Command, args []string) error { return a.saved(c.Context(), set, args, absolute) },
	}
	c.Flags().Uint64Var(&set, "id", 0, "only the set of this number")
	absoluteTimes(c, &absolute)
	return a.readable(c)
}

func (a *app) saved(ctx context.Context, set uint64, snaps []string, absolute bool) error {
	sets, err := a.client().Snapshots(ctx, set, snaps)
	if err != nil {
		return err
	}
	if shown, err := a.show(sets); shown || err != nil {
		return err
	}
	if len(sets) == 0 {
		a.warnf("No snapshots found.")
		return nil
	}
	a.table("Set\tSnap\tSaved\tVersion\tRev\tSize\tNotes", func(row func(string)) {
		for i := range sets {
			for j := range sets[i].Snapshots {
				s := &sets[i].Snapshots[j]
				row(strings.Join([]string{
					strconv.FormatUint(s.SetID, 10), s.Snap, a.moment(s.Time, absolute), cmp.Or(s.Version, "-"), s.Revision, size(s.Size), notesOf(s),
				}, "\t"))
			}
		}
	})
	return nil
}

func notesOf(s *client.Snapshot) string {
	var notes []string
	if s.Auto {
		notes = append(notes, "auto")
	}
	if s.Broken != "" {
		notes = append(notes, "broken: "+s.Broken)
	}
	return cmp.Or(strings.Join(notes, ", "), "-")
}

// ofUsers gives a command the flag that picks users.
func ofUsers(c *cobra.Command, users *[]string) {
	c.Flags().StringSliceVar(users, "users", nil, "of users' data only that of these")
}

func (a *app) saveCommand() *cobra.Command {
	var users []string
	c := &cobra.Command{
		Use: "save [SNAP...]", Short: "Save the data of snaps", Args: takes(0, -1, "snap"),
		Long: `save makes a snapshot of the data of snaps, of all if none is named: of the current
revision and of what all share, the system's and that of users, and the configuration.

What runs goes on meanwhile. What it is writing is saved as it is found: stop it first
if that would not do.`,
		Example: "  tenure save virt\n  tenure save --users ann virt", ValidArgsFunction: a.complete(a.snapNames, -1),
		RunE: func(c *cobra.Command, args []string) error {
			set, id, err := a.client().Save(c.Context(), args, users)
			if err != nil {
				return err
			}
			change, err := a.finish(c.Context(), id, nil)
			if err != nil || change == nil {
				return err
			}
			return a.saved(c.Context(), set, nil, false)
		},
	}
	ofUsers(c, &users)
	return a.waiting(c)
}

func (a *app) restoreCommand() *cobra.Command {
	var users []string
	c := &cobra.Command{
		Use: "restore SET [SNAP...]", Short: "Replace the data of snaps by what was saved", Args: takes(1, -1, "set"),
		Long: `restore replaces the data of snaps, and their configuration, by what a set has of them: of
all of it, or none. What the current revision can read becomes its data, whatever
revision it was saved from.

Nothing of the snaps may run: tenure stop ends it, and start starts it again.`,
		Example: "  tenure stop virt && tenure restore 3 virt && tenure start virt",
		RunE: func(c *cobra.Command, args []string) error {
			return a.onSet(c, client.SnapshotAction{Action: "restore", Users: users}, args, "restored")
		},
	}
	ofUsers(c, &users)
	return a.waiting(c)
}

func (a *app) checkSnapshotCommand() *cobra.Command {
	var users []string
	c := &cobra.Command{
		Use: "check-snapshot SET [SNAP...]", Short: "See whether what was saved is whole", Args: takes(1, -1, "set"),
		Long:    "check-snapshot reads all of what was saved, and fails if it is not what it was.",
		Example: "  tenure check-snapshot 3",
		RunE: func(c *cobra.Command, args []string) error {
			return a.onSet(c, client.SnapshotAction{Action: "check", Users: users}, args, "is whole")
		},
	}
	ofUsers(c, &users)
	return a.waiting(c)
}

func (a *app) forgetCommand() *cobra.Command {
	return a.waiting(&cobra.Command{
		Use: "forget SET [SNAP...]", Short: "Remove what was saved", Args: takes(1, -1, "set"),
		Long:    "forget removes a set, or what it has of some snaps, for ever.",
		Example: "  tenure forget 3\n  tenure forget 3 virt",
		RunE: func(c *cobra.Command, args []string) error {
			return a.onSet(c, client.SnapshotAction{Action: "forget"}, args, "forgotten")
		},
	})
}

// onSet does something with the set that is the first of args, and the snaps that follow.
func (a *app) onSet(c *cobra.Command, action client.SnapshotAction, args []string, done string) error {
	set, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil || set == 0 {
		return misused(c, "%q is not the number of a set; see tenure saved", args[0])
	}
	action.Set, action.Snaps = set, args[1:]
	id, err := a.client().ChangeSnapshots(c.Context(), action)
	if err != nil {
		return err
	}
	change, err := a.finish(c.Context(), id, nil)
	if err != nil || change == nil {
		return err
	}
	of := ""
	if len(action.Snaps) > 0 {
		of = fmt.Sprintf(" of %s", strings.Join(action.Snaps, ", "))
	}
	a.printf("Snapshot #%d%s %s.\n", set, of, done)
	return nil
}
