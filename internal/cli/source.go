package cli

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"tenure/client"
)

// sourceCommand are the commands about where packages come from.
func (a *app) sourceCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "source", Short: "Say where snaps come from", GroupID: "snaps",
		Long: `source adds, lists and removes the places that snaps come from. A source vouches for
what it has: tenure install NAME takes a snap from the first source that has it, and
tenure refresh, and automatic refreshes, take newer revisions from the same source.

A source of the kind "dir" is a directory, in which only root may write, with snap
files and a description beside each: hello_12.snap and hello_12.yaml. See
docs/sources.md.`,
		Example: "  tenure source add dir /srv/snaps\n  tenure install hello --channel=edge",
		Args:    takes(0, 0, ""), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.sourceAdd(), a.sourceList(), a.sourceRemove())
	return c
}

func (a *app) sourceAdd() *cobra.Command {
	name := ""
	c := &cobra.Command{
		Use: "add dir PATH", Short: "Add a directory as a source", Args: takes(2, 2, "a kind (dir) and a path"),
		Long: `add makes a directory a source of snaps, under the name of the directory or another one.
Nobody but root may be able to write to it: what is in it can be installed.`,
		Example: "  tenure source add dir /srv/snaps\n  tenure source add dir /mnt/mirror --name lab",
		ValidArgsFunction: func(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return []cobra.Completion{"dir"}, cobra.ShellCompDirectiveNoFileComp
			}
			return directories(c, args, toComplete)
		},
		RunE: func(c *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			added, err := a.client().ChangeSource(c.Context(), client.SourceAction{Action: "add", Kind: args[0], Location: path, Name: name})
			if err != nil {
				return err
			}
			a.printf("source %s added\n", added.Name)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "the name of the source")
	return c
}

func (a *app) sourceList() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "list", Short: "List the sources, in the order in which they are asked", Args: takes(0, 0, ""),
		Long:    "list shows the sources, what they have, and what is wrong with it.",
		Example: "  tenure source list", ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			sources, err := a.client().Sources(c.Context())
			if err != nil {
				return err
			}
			if shown, err := a.show(sources); shown || err != nil {
				return err
			}
			if len(sources) == 0 {
				a.warnf("No sources are configured. Try 'tenure source add dir PATH'.")
				return nil
			}
			a.table("Name\tKind\tLocation\tSnaps\tRevisions\tUsed by", func(row func(string)) {
				for i := range sources {
					s := &sources[i]
					used := strings.Join(s.UsedBy, ",")
					if used == "" {
						used = "-"
					}
					row(strings.Join([]string{s.Name, s.Kind, s.Location, strconv.Itoa(s.Snaps), strconv.Itoa(s.Releases), used}, "\t"))
				}
			})
			for i := range sources {
				for _, problem := range sources[i].Problems {
					a.warnf("%s: %s", sources[i].Name, problem)
				}
			}
			return nil
		},
	})
}

func (a *app) sourceRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Remove a source", Args: takes(1, 1, "source"),
		Long: `remove takes a source away. What came from it stays installed, and gets no updates any
more until it is switched to another source.`,
		Example:           "  tenure source remove lab",
		ValidArgsFunction: a.complete(a.sourceNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			removed, err := a.client().ChangeSource(c.Context(), client.SourceAction{Action: "remove", Name: args[0]})
			if err != nil {
				return err
			}
			a.printf("source %s removed\n", args[0])
			if len(removed.UsedBy) > 0 {
				a.warnf("%s came from it and will get no updates: see tenure help switch", strings.Join(removed.UsedBy, ", "))
			}
			return nil
		},
	}
}
