package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// systemSnap is the name under which the options of the system itself are.
const systemSnap = "system"

func (a *app) configCommands() []*cobra.Command {
	commands := []*cobra.Command{a.get(), a.set(), a.unset(), a.untilSet()}
	for _, c := range commands {
		c.GroupID = "config"
	}
	return commands
}

const aboutOptions = `
The options of the system itself are those of the snap "system":

  refresh.retain   how many revisions of a snap are kept to be reverted to, the
                   current one among them: 2 to 20, and 2 where nothing is set.
                   What runs keeps its revision beyond that.
  lifecycle.max-stop-timeout
                   the longest time that a stop may take, whatever a package asks
                   for: a time like 90s, 1h30m or 7d; no limit where nothing is set.
  lifecycle.max-deferral
                   how long a refresh waits at most for services that ask to be
                   waited for; no limit where nothing is set.
  lifecycle.max-endure
                   how long a unit may endure on an old revision: then the daemon's
                   log warns of it, and ps calls it overdue; no limit where nothing
                   is set.
  lifecycle.endure-action
                   what becomes of it then: warn, which is so where nothing is set, or
                   end, by its stop protocol. The administrator's rules go before it,
                   and can set earlier dates.
  lifecycle.max-evacuate
                   how long the hook evacuate may take; 10m where nothing is set.
  refresh.observe  for how long services are observed after a refresh, whatever their
                   packages say: 0s (not at all) to 24h; where nothing is set, what the
                   packages say, and 15s for those that say nothing.
  refresh.timer    when automatic refreshes may begin, in snap's syntax: 00:00~24:00/4,
                   four times a day at random, where nothing is set.
  refresh.hold     until when all automatic refreshes are held: a time like
                   2030-01-02T15:04:05Z, or forever.
  refresh.minimum-age
                   how old a release has to be before it comes by itself: 90s, 1h30m,
                   7d; as new as it likes where nothing is set.
  refresh.max-inhibition-days
                   how many days an automatic refresh waits at most for apps that people
                   run: 1 to 21, and 14 where nothing is set.
  snapshots.automatic.retention
                   how long the data is kept that is saved when a snap is removed: 24h
                   and more, or no, for none; 31d where nothing is set.
`

func (a *app) completeOption(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return []cobra.Completion{systemSnap}, cobra.ShellCompDirectiveNoFileComp
	}
	return a.options(c.Context()), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func (a *app) get() *cobra.Command {
	var document, list, typed bool
	c := &cobra.Command{
		Use: "get SNAP [OPTION...]", Short: "Print configuration options",
		Long:    "get prints configuration options: the value of one, or a table of several.\n" + aboutOptions,
		Example: "  tenure get system refresh.retain\n  tenure get -d system",
		Args:    takes(1, -1, "snap"), ValidArgsFunction: a.completeOption,
		RunE: func(c *cobra.Command, args []string) error {
			if document && typed || document && list {
				return misused(c, "-d goes with neither -t nor -l")
			}
			values, err := a.client().Conf(c.Context(), args[0], args[1:])
			if err != nil {
				return err
			}
			if a.asJSON || document {
				a.asJSON = true
				_, err := a.show(values)
				return err
			}
			return a.printConf(args, values, list, typed)
		},
	}
	c.Flags().BoolVarP(&document, "document", "d", false, "print a JSON document, also of a single option")
	c.Flags().BoolVarP(&list, "list", "l", false, "print a table, also of a single option")
	c.Flags().BoolVarP(&typed, "typed", "t", false, "print values as JSON, strings in quotes")
	return a.readable(c)
}

// printConf prints the value of a single option, and several as a table.
func (a *app) printConf(args []string, values map[string]any, list, typed bool) error {
	if len(args) == 2 && !list {
		if _, isDocument := values[args[1]].(map[string]any); !isDocument {
			a.printf("%s\n", text(values[args[1]], typed))
			return nil
		}
	}
	if len(values) == 0 {
		return fmt.Errorf("snap %q has no configuration", args[0])
	}
	a.table("Key\tValue", func(row func(string)) {
		for _, s := range flatten("", values) {
			row(s.key + "\t" + text(s.value, typed))
		}
	})
	return nil
}

type setting struct {
	key   string
	value any
}

// flatten gives the options of nested documents by their dotted names, in order.
func flatten(prefix string, values map[string]any) []setting {
	var settings []setting
	for key, value := range values {
		if nested, ok := value.(map[string]any); ok {
			settings = append(settings, flatten(prefix+key+".", nested)...)
			continue
		}
		settings = append(settings, setting{prefix + key, value})
	}
	slices.SortFunc(settings, func(a, b setting) int { return cmp.Compare(a.key, b.key) })
	return settings
}

func text(value any, typed bool) string {
	if s, ok := value.(string); ok && !typed {
		return s
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(raw)
}

func (a *app) set() *cobra.Command {
	var asJSON, asString bool
	c := &cobra.Command{
		Use: "set SNAP OPTION=VALUE...", Short: "Change configuration options",
		Long: "set changes configuration options, all of those given or none. OPTION! unsets one, so\nthat its default holds again.\n" +
			aboutOptions,
		Example: "  tenure set system refresh.retain=3\n  tenure set system refresh.retain!",
		Args:    takes(2, -1, "a snap and at least one OPTION=VALUE"), ValidArgsFunction: a.completeOption,
		RunE: func(c *cobra.Command, args []string) error {
			if asJSON && asString {
				return misused(c, "-t and -s exclude each other")
			}
			patch := map[string]any{}
			for _, arg := range args[1:] {
				key, value, err := assignment(arg, asJSON, asString)
				if err != nil {
					return misused(c, "%v", err)
				}
				patch[key] = value
			}
			return a.configure(c, args[0], patch)
		},
	}
	c.Flags().BoolVarP(&asJSON, "typed", "t", false, "take values strictly as JSON")
	c.Flags().BoolVarP(&asString, "string", "s", false, "take values as they are, never as JSON")
	return a.waiting(c)
}

// assignment reads "key=value" and "key!". A value that is JSON is taken as such.
func assignment(arg string, asJSON, asString bool) (key string, value any, err error) {
	if key, unset := strings.CutSuffix(arg, "!"); unset && !strings.Contains(key, "=") {
		return key, nil, nil
	}
	key, raw, found := strings.Cut(arg, "=")
	if !found || key == "" {
		return "", nil, fmt.Errorf("%q is neither OPTION=VALUE nor OPTION! in its form", arg)
	}
	if asString {
		return key, raw, nil
	}
	if json.Valid([]byte(raw)) {
		return key, json.RawMessage(raw), nil
	}
	if asJSON {
		return "", nil, fmt.Errorf("the value of %s is not JSON: %s", key, raw)
	}
	return key, raw, nil
}

func (a *app) unset() *cobra.Command {
	return a.waiting(&cobra.Command{
		Use: "unset SNAP OPTION...", Short: "Give configuration options their defaults again",
		Long:    "unset forgets what was set, so that the defaults hold again.\n" + aboutOptions,
		Example: "  tenure unset system refresh.retain",
		Args:    takes(2, -1, "a snap and at least one OPTION"), ValidArgsFunction: a.completeOption,
		RunE: func(c *cobra.Command, args []string) error {
			patch := map[string]any{}
			for _, key := range args[1:] {
				patch[key] = nil
			}
			return a.configure(c, args[0], patch)
		},
	})
}

func (a *app) configure(c *cobra.Command, snap string, patch map[string]any) error {
	id, err := a.client().SetConf(c.Context(), snap, patch)
	if err != nil {
		return err
	}
	if id == "" {
		return errors.New("tenured answered without a change")
	}
	_, err = a.finish(c.Context(), id, nil)
	return err
}
