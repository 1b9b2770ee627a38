package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tenure/client"
)

func (a *app) aliasCommands() []*cobra.Command {
	commands := []*cobra.Command{a.aliasesCommand(), a.aliasCommand(), a.unaliasCommand(), a.preferCommand()}
	for _, c := range commands {
		c.GroupID = "snaps"
	}
	return commands
}

func (a *app) aliasesCommand() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "aliases [SNAP]", Short: "List other names of commands", Args: takes(0, 1, "snap"),
		Example:           "  tenure aliases\n  tenure aliases virt",
		ValidArgsFunction: a.complete(a.snapNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			all, err := a.client().Aliases(c.Context())
			if err != nil {
				return err
			}
			if len(args) > 0 {
				if _, err := a.client().Snap(c.Context(), args[0]); err != nil {
					return err
				}
				maps.DeleteFunc(all, func(snap string, _ map[string]client.Alias) bool { return snap != args[0] })
			}
			if shown, err := a.show(all); shown || err != nil {
				return err
			}
			a.printAliases(all)
			return nil
		},
	})
}

func (a *app) printAliases(all map[string]map[string]client.Alias) {
	if len(all) == 0 {
		a.warnf("No aliases are defined.")
		return
	}
	a.table("Command\tAlias\tNotes", func(row func(string)) {
		for _, snap := range slices.Sorted(maps.Keys(all)) {
			for _, alias := range slices.Sorted(maps.Keys(all[snap])) {
				row(strings.Join([]string{all[snap][alias].Command, alias, all[snap][alias].Status}, "\t"))
			}
		}
	})
}

func (a *app) aliasCommand() *cobra.Command {
	return a.waiting(&cobra.Command{
		Use: "alias SNAP.APP ALIAS", Short: "Give a command another name", Args: takes(2, 2, "command and alias"),
		Long: `alias makes a command of a snap available under another name, as a link in snap/bin.
It lasts until tenure unalias, or until the snap is removed. Two snaps cannot have the
same one; tenure prefer decides between them.`,
		Example:           "  tenure alias virt.virtctl virtctl",
		ValidArgsFunction: a.complete(a.snapNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			snap, command, found := strings.Cut(args[0], ".")
			if !found {
				command = snap
			}
			return a.changeAliases(c, client.AliasAction{Action: "alias", Snap: snap, App: command, Alias: args[1]})
		},
	})
}

func (a *app) unaliasCommand() *cobra.Command {
	return a.waiting(&cobra.Command{
		Use: "unalias ALIAS|SNAP", Short: "Take names of commands away again", Args: takes(1, 1, "alias or snap"),
		Long:              `unalias removes one alias, or all aliases of a snap.`,
		Example:           "  tenure unalias virtctl\n  tenure unalias virt",
		ValidArgsFunction: a.complete(a.snapNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.changeAliases(c, client.AliasAction{Action: "unalias", Snap: args[0], Alias: args[0]})
		},
	})
}

func (a *app) preferCommand() *cobra.Command {
	return a.waiting(&cobra.Command{
		Use: "prefer SNAP", Short: "Give a snap all aliases that its package names", Args: takes(1, 1, "snap"),
		Long: `prefer sets up all aliases that the package of a snap names for its apps (aliases, in
snap.yaml), and takes them away from snaps that have them. Nothing sets them up by itself.`,
		Example:           "  tenure prefer virt",
		ValidArgsFunction: a.complete(a.snapNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.changeAliases(c, client.AliasAction{Action: "prefer", Snap: args[0]})
		},
	})
}

// changeAliases asks for a change of aliases, waits for it, and says what came and went.
func (a *app) changeAliases(c *cobra.Command, action client.AliasAction) error {
	id, err := a.client().ChangeAliases(c.Context(), action)
	if err != nil {
		return err
	}
	change, err := a.finish(c.Context(), id, nil)
	if err != nil || change == nil {
		return err
	}
	added, removed := change.Aliases()
	a.sayAliases("Added", added)
	a.sayAliases("Removed", removed)
	return nil
}

func (a *app) sayAliases(what string, list []client.ChangedAlias) {
	if len(list) == 0 {
		return
	}
	a.printf("%s:\n", what)
	for _, alias := range list {
		name := fmt.Sprintf("%s.%s", alias.Snap, alias.App)
		if alias.Snap == alias.App {
			name = alias.Snap
		}
		a.printf("  - %s as %s\n", name, alias.Alias)
	}
}
