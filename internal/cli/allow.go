package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"tenure/client"
)

func (a *app) allow() *cobra.Command {
	list := false
	c := &cobra.Command{
		Use: "allow MANAGER to start SNAP.APP", Short: "Let a snap start instances of another's template",
		Long: `allow lets a snap start instances of a template of another snap, by
"snapctl start SNAP.APP@NAME", and end those that it has started. It holds until
tenure disallow, or until one of both snaps is removed. With --list it shows what is
allowed.`,
		Example:           "  tenure allow virt to start qemu.vm\n  tenure allow --list",
		ValidArgsFunction: a.completeAllow,
		RunE: func(c *cobra.Command, args []string) error {
			if list {
				return a.listAllowed(c, args)
			}
			allowance, err := allowanceOf(c, args)
			if err != nil {
				return err
			}
			if err := a.client().Allow(c.Context(), allowance, true); err != nil {
				return err
			}
			a.printf("%s may start instances of %s.\n", allowance.Manager, allowance.App)
			return nil
		},
	}
	c.Flags().BoolVar(&list, "list", false, "show what is allowed")
	return a.readable(c)
}

func (a *app) disallow() *cobra.Command {
	return &cobra.Command{
		Use: "disallow MANAGER to start SNAP.APP", Short: "Take back what tenure allow gave",
		Long: `disallow takes back that a snap may start instances of a template of another. What
it has started goes on, and it can still end that.`,
		Example:           "  tenure disallow virt to start qemu.vm",
		ValidArgsFunction: a.completeAllow,
		RunE: func(c *cobra.Command, args []string) error {
			allowance, err := allowanceOf(c, args)
			if err != nil {
				return err
			}
			if err := a.client().Allow(c.Context(), allowance, false); err != nil {
				return err
			}
			a.printf("%s may no longer start instances of %s.\n", allowance.Manager, allowance.App)
			return nil
		},
	}
}

// toStart are the words between the two snaps.
func toStart() []string { return []string{"to", "start"} }

func allowanceOf(c *cobra.Command, args []string) (client.Allowance, error) {
	if len(args) != 4 || !slices.Equal(args[1:3], toStart()) {
		return client.Allowance{}, misused(c, "it is called as: %s", c.UseLine())
	}
	return client.Allowance{Manager: args[0], App: args[3]}, nil
}

func (a *app) listAllowed(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return misused(c, "--list takes no arguments, and there is %q", args[0])
	}
	all, err := a.client().Allowances(c.Context())
	if err != nil {
		return err
	}
	if shown, err := a.show(all); shown || err != nil {
		return err
	}
	a.table("Snap\tMay start", func(row func(string)) {
		for _, allowance := range all {
			row(allowance.Manager + "\t" + allowance.App)
		}
	})
	return nil
}

// completeAllow proposes the next word of "MANAGER to start SNAP.APP".
func (a *app) completeAllow(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []cobra.Completion
	switch len(args) {
	case 0:
		found = a.snapNames(c.Context())
	case 1, 2:
		found = []cobra.Completion{toStart()[len(args)-1]}
	case 3:
		found = a.templateNames(c.Context())
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) templateNames(ctx context.Context) []cobra.Completion {
	services, err := a.client().Services(ctx, nil)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for i := range services {
		if slices.Contains(services[i].Notes, "template") {
			names = append(names, services[i].Snap+"."+services[i].Name)
		}
	}
	return names
}
