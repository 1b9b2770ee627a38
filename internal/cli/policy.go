package cli

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tenure"
	"tenure/client"
)

// policyCommand is about the administrator's rules.
func (a *app) policyCommand() *cobra.Command {
	c := a.readable(&cobra.Command{
		Use: "policy", Short: "Show the administrator's rules, check a file of them, explain what they do",
		Long: `policy shows which rules hold. They are those of etc/tenure/policy.yaml, as it is; while
that file is broken, those of the last good one hold.

A rule says in its condition which snaps, units and processes it is about, and then what
is to become of them. The first rule that matches decides, for each aspect.`,
		Example: "  tenure policy\n  tenure policy check ./policy.yaml\n  tenure policy explain virt",
		Args:    takes(0, 0, ""), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			policy, err := a.client().Policy(c.Context())
			if err != nil {
				return err
			}
			if shown, err := a.show(policy); shown || err != nil {
				return err
			}
			a.printPolicy(&policy)
			return nil
		},
	})
	c.GroupID = "see"
	c.AddCommand(a.policyCheck(), a.policyExplain())
	return c
}

func (a *app) printPolicy(p *client.Policy) {
	since := "before the daemon started"
	if !p.Since.IsZero() {
		since = p.Since.Local().Format(time.RFC3339)
	}
	state := fmt.Sprintf("%d rules, read %s", len(p.Rules), since)
	switch {
	case !p.Present:
		state = "there is no such file, and there are no rules"
	case len(p.Broken) > 0 && len(p.Rules) == 0:
		state = "broken, and there are no rules from before"
	case len(p.Broken) > 0:
		state = fmt.Sprintf("broken; the last good %d rules hold, read %s", len(p.Rules), since)
	}
	a.printf("file:   %s\nstate:  %s\n", p.Path, state)
	for _, problem := range p.Broken {
		a.printf("error:  %s\n", problem)
	}
	for _, rule := range p.Rules {
		a.printf("rule:   %s\n", rule)
	}
}

// maxPolicy is more than what a file of rules may have, in bytes: the daemon says so.
const maxPolicy = 128 << 10

func (a *app) policyCheck() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "check FILE", Short: "Say what is wrong with a file of rules", Example: "  tenure policy check ./policy.yaml",
		Long: `check reads a file of rules as the daemon would, and names every mistake: the file, the
line and column, the rule, what was found and what is accepted. Nothing is changed. Its
exit status is 1 if the daemon would not use the file.`,
		Args: takes(1, 1, "file"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return []cobra.Completion{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := existing(args); err != nil {
				return err
			}
			content, err := readUpTo(args[0], maxPolicy)
			if err != nil {
				return cannotOpen(args[0], err)
			}
			found, err := a.client().CheckPolicy(c.Context(), client.PolicyFile{Name: args[0], Content: string(content)})
			if err != nil {
				return err
			}
			shown, err := a.show(found)
			if err != nil {
				return err
			}
			for i := range found.Problems {
				if !shown {
					a.printf("%s\n", found.Problems[i].Text)
				}
			}
			switch n := len(found.Problems); {
			case n == 1:
				return fmt.Errorf("%s has a mistake, and would not be used", args[0])
			case n > 1:
				return fmt.Errorf("%s has %d mistakes, and would not be used", args[0], n)
			case !shown:
				a.printf("%s: %d rules, nothing is wrong with them\n", args[0], len(found.Rules))
			}
			return nil
		},
	})
}

func readUpTo(path string, most int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // Opened for reading.
	return io.ReadAll(io.LimitReader(file, most))
}

func (a *app) policyExplain() *cobra.Command {
	reason := string(tenure.ReasonRefresh)
	c := &cobra.Command{
		Use: "explain SNAP", Short: "Say which rule gives what to each unit of a snap, and why others do not",
		Long: `explain goes through all rules for a snap as a whole and for each unit of it that runs: what
a rule gives, what an earlier rule has given already, and for a rule that does not match
which part of its condition is not true, with the facts in it.

Conditions may speak of why something happens; --for says for what. For a refresh the
revision is the one that is staged, if there is one.`,
		Example: "  tenure policy explain virt\n  tenure policy explain --for remove virt",
		Args:    takes(1, 1, "snap"), ValidArgsFunction: a.complete(a.snapNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(tenure.Reasons(), tenure.Reason(reason)) {
				return misused(c, "there is no reason %q: the reasons are %s", reason, strings.Join(reasons(), ", "))
			}
			explained, err := a.client().ExplainPolicy(c.Context(), args[0], reason)
			if err != nil {
				return err
			}
			if shown, err := a.show(explained); shown || err != nil {
				return err
			}
			a.printExplanation(args[0], explained)
			return nil
		},
	}
	c.Flags().StringVar(&reason, "for", reason, "what happens to the snap: "+strings.Join(reasons(), ", "))
	_ = c.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(reasons(), cobra.ShellCompDirectiveNoFileComp)) // The flag is there.
	return a.readable(c)
}

func reasons() []string {
	var words []string
	for _, reason := range tenure.Reasons() {
		words = append(words, string(reason))
	}
	return words
}

func (a *app) printExplanation(snap string, explained []client.PolicyExplanation) {
	if !slices.ContainsFunc(explained, func(e client.PolicyExplanation) bool { return len(e.Rules) > 0 }) {
		a.printf("no rule speaks of %s\n", snap)
		return
	}
	a.table("About\tRule\tGives\tWhy", func(row func(string)) {
		for i := range explained {
			about := explained[i].Unit
			if about == "" {
				about = snap
			}
			for j := range explained[i].Rules {
				r := &explained[i].Rules[j]
				row(strings.Join([]string{about, r.Rule, gives(r), why(r)}, "\t"))
			}
		}
	})
}

func gives(r *client.PolicyRule) string {
	var all []string
	for _, aspect := range slices.Sorted(maps.Keys(r.Gives)) {
		all = append(all, aspect+"="+r.Gives[aspect])
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, " ")
}

func why(r *client.PolicyRule) string {
	var all []string
	if r.Why != "" {
		all = append(all, r.Why)
	}
	for _, aspect := range slices.Sorted(maps.Keys(r.Taken)) {
		all = append(all, fmt.Sprintf("%s is given by %s", aspect, r.Taken[aspect]))
	}
	for _, aspect := range r.Elsewhere {
		all = append(all, aspect+" is for refresh and revert, as the condition does not speak of change")
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, "; ")
}
