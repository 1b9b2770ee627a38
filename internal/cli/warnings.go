package cli

import (
	"time"

	"github.com/spf13/cobra"
)

func (a *app) warningCommands() []*cobra.Command {
	commands := []*cobra.Command{a.warningsCommand(), a.okayCommand()}
	for _, c := range commands {
		c.GroupID = "see"
	}
	return commands
}

func (a *app) warningsCommand() *cobra.Command {
	var all, absolute bool
	c := &cobra.Command{
		Use: "warnings", Short: "Show what is not as it should be", Args: takes(0, 0, ""),
		Long: `warnings shows what is not as it should be: rules that are broken, refreshes that
have failed, units that are on an old revision for longer than they may. Each lasts as
long as that does. tenure okay says that they are known; --all shows those, too.`,
		Example: "  tenure warnings\n  tenure warnings --all",
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().Warnings(c.Context(), all)
			if err != nil {
				return err
			}
			if shown, err := a.show(list); shown || err != nil {
				return err
			}
			if len(list) == 0 {
				a.warnf("No warnings.")
			}
			for i := range list {
				a.printf("%s: %s\n", a.moment(list[i].LastAdded, absolute), list[i].Message)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&all, "all", false, "show also those that are known")
	absoluteTimes(c, &absolute)
	return a.readable(c)
}

func (a *app) okayCommand() *cobra.Command {
	return &cobra.Command{
		Use: "okay", Short: "Say that warnings are known", Args: takes(0, 0, ""),
		Long: `okay says that the warnings are known, and which. One that changes, or that still
holds after four weeks, comes again.`,
		Example: "  tenure okay",
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().Warnings(c.Context(), false)
			if err != nil {
				return err
			}
			last := time.Time{}
			for i := range list {
				if list[i].LastAdded.After(last) {
					last = list[i].LastAdded
				}
			}
			if len(list) == 0 {
				a.warnf("No warnings.")
				return nil
			}
			if _, err := a.client().Okay(c.Context(), last); err != nil {
				return err
			}
			for i := range list {
				a.printf("known from now on: %s\n", list[i].Message)
			}
			return nil
		},
	}
}
