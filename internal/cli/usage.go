package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// exitUsage is the exit status for a command line that cannot be understood, as
// snap has it (EX_USAGE of sysexits.h).
const exitUsage = 64

// usageError is a command line that cannot be understood.
type usageError struct {
	// Problem says what is wrong, See where to read what is right.
	Problem, See string
}

func (e *usageError) Error() string { return fmt.Sprintf("%s; see %q", e.Problem, e.See) }

func misused(c *cobra.Command, format string, args ...any) error {
	return &usageError{Problem: fmt.Sprintf(format, args...), See: helpOf(c)}
}

// helpOf is how to ask for the help of c.
func helpOf(c *cobra.Command) string {
	root := c.Root().Name()
	return strings.TrimSpace(root + " help" + strings.TrimPrefix(c.CommandPath(), root))
}

// takes checks the number of arguments: from low to high of what is called noun,
// any number where high is negative.
func takes(low, high int, noun string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < low && low > 1:
			return misused(c, "%s needs %s", c.CommandPath(), noun)
		case len(args) < low:
			return misused(c, "%s needs a %s", c.CommandPath(), noun)
		case high == 0 && len(args) > 0:
			return misused(c, "%s takes no arguments, and there is %q", c.CommandPath(), args[0])
		case high >= 0 && len(args) > high:
			return misused(c, "unexpected argument %q", args[high])
		}
		return nil
	}
}

// unknown is what to say about a command that does not exist, with those that may
// have been meant.
func unknown(root *cobra.Command, name string) error {
	problem := fmt.Sprintf("unknown command %q", name)
	if similar := root.SuggestionsFor(name); len(similar) > 0 {
		problem += fmt.Sprintf(", did you mean %q", similar[0])
	}
	return &usageError{Problem: problem, See: root.Name() + " help"}
}

// badFlag words what the flag parser found. Where the first word is no command,
// that is what is wrong.
func (a *app) badFlag(c *cobra.Command, err error) error {
	if !c.HasParent() {
		for _, arg := range a.cfg.Args {
			if found, _, _ := c.Find([]string{arg}); found == c && !strings.HasPrefix(arg, "-") { //nolint:dogsled // Only whether it is there.
				return unknown(c, arg)
			}
		}
	}
	return &usageError{Problem: strings.ReplaceAll(err.Error(), "unknown flag: ", "unknown flag "), See: helpOf(c)}
}

// helpCommand shows the help of a command, and knows when there is none.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Show help, of all commands or of one",
		Example: "  tenure help refresh",
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []cobra.Completion
			for _, sub := range c.Root().Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			found, rest, err := c.Root().Find(args)
			if err != nil || found == nil || len(args) > 0 && (found == c.Root() || len(rest) > 0) {
				return unknown(c.Root(), strings.Join(args, " "))
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}
