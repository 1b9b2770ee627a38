package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// candidates are what an argument can be completed to. Completion is no place for
// errors: where nothing can be found out, nothing is proposed.
type candidates func(ctx context.Context) []cobra.Completion

// complete proposes what is not there yet, for up to most arguments; any number
// where most is negative.
func (a *app) complete(propose candidates, most int) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found := slices.DeleteFunc(propose(c.Context()), func(s string) bool { return slices.Contains(args, s) })
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// snapFiles completes to files that end in .snap.
func snapFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return []cobra.Completion{"snap"}, cobra.ShellCompDirectiveFilterFileExt
}

// namesOrFiles completes to names of snaps, and to files where one is begun.
func (a *app) namesOrFiles(names candidates) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		proposed, _ := a.complete(names, -1)(c, args, toComplete)
		if len(proposed) == 0 || strings.ContainsAny(toComplete, "/.") {
			return snapFiles(c, args, toComplete)
		}
		return proposed, cobra.ShellCompDirectiveNoFileComp
	}
}

func directories(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func (a *app) snapNames(ctx context.Context) []cobra.Completion {
	snaps, err := a.client().Snaps(ctx, false)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for i := range snaps {
		names = append(names, snaps[i].Name)
	}
	return names
}

// refs are all revisions that are kept.
func (a *app) refs(ctx context.Context) []cobra.Completion {
	snaps, err := a.client().Snaps(ctx, true)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for i := range snaps {
		names = append(names, snaps[i].Name+"@"+snaps[i].Revision)
	}
	return names
}

// serviceNames are those of snaps with services, and of the services.
func (a *app) serviceNames(ctx context.Context) []cobra.Completion {
	services, err := a.client().Services(ctx, nil)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for i := range services {
		if !slices.Contains(names, services[i].Snap) {
			names = append(names, services[i].Snap)
		}
		names = append(names, services[i].Snap+"."+services[i].Name)
	}
	return names
}

// unitNames are those of snaps and services, and of all units beside services.
func (a *app) unitNames(ctx context.Context) []cobra.Completion {
	names := a.serviceNames(ctx)
	units, err := a.client().Units(ctx)
	if err != nil {
		return names
	}
	for i := range units {
		if !slices.Contains(names, units[i].ID) {
			names = append(names, units[i].ID)
		}
	}
	return names
}

func (a *app) appNames(ctx context.Context) []cobra.Completion {
	snaps, err := a.client().Snaps(ctx, false)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for i := range snaps {
		for j := range snaps[i].Apps {
			if snaps[i].Apps[j].Daemon == "" {
				names = append(names, command(snaps[i].Name, snaps[i].Apps[j].Name))
			}
		}
	}
	return names
}

// command is how an app is called: by the snap's name alone where it is its own.
func command(snap, app string) string {
	if snap == app {
		return snap
	}
	return snap + "." + app
}

// changeIDs are those of changes, the newest first.
func (a *app) changeIDs(ctx context.Context) []cobra.Completion {
	changes, err := a.client().Changes(ctx, "all", "")
	if err != nil {
		return nil
	}
	var ids []cobra.Completion
	for i := range changes {
		ids = append(ids, cobra.CompletionWithDesc(changes[i].ID, changes[i].Summary))
	}
	slices.Reverse(ids)
	return ids
}

func (a *app) options(ctx context.Context) []cobra.Completion {
	settings, err := a.aside().Conf(ctx, systemSnap, nil)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for _, setting := range flatten("", settings) {
		names = append(names, setting.key)
	}
	return names
}
