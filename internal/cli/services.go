package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"tenure/client"
)

func (a *app) serviceCommands() []*cobra.Command {
	commands := []*cobra.Command{a.services(), a.start(), a.stop(), a.restart(), a.logs()}
	for _, c := range commands {
		c.GroupID = "services"
	}
	return commands
}

func (a *app) services() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "services [SNAP|SERVICE...]", Short: "Show services and whether they run",
		RunE: func(c *cobra.Command, args []string) error {
			services, err := a.client().Services(c.Context(), args)
			if err != nil {
				return err
			}
			if shown, err := a.show(services); shown || err != nil {
				return err
			}
			a.table("Service\tStartup\tCurrent\tNotes", func(row func(string)) {
				for i := range services {
					s := &services[i]
					startup, current, notes := "disabled", "inactive", "-"
					if s.Enabled {
						startup = "enabled"
					}
					if s.Active {
						current = "active"
					}
					if len(s.Notes) > 0 {
						notes = strings.Join(s.Notes, ",")
					}
					row(strings.Join([]string{s.Snap + "." + s.Name, startup, current, notes}, "\t"))
				}
			})
			return nil
		},
	})
}

func (a *app) start() *cobra.Command {
	action := client.Action{Action: "start"}
	c := &cobra.Command{
		Use: "start SNAP|SERVICE...", Short: "Start services", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Names = args
			return a.control(c.Context(), action, "Started.")
		},
	}
	c.Flags().BoolVar(&action.Enable, "enable", false, "also start them at boot from now on")
	return a.waiting(c)
}

func (a *app) stop() *cobra.Command {
	action := client.Action{Action: "stop"}
	c := &cobra.Command{
		Use: "stop SNAP|SERVICE|UNIT...", Short: "Stop services, or single units of tenure ps", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Names = args
			return a.control(c.Context(), action, "Stopped.")
		},
	}
	c.Flags().BoolVar(&action.Disable, "disable", false, "also do not start them at boot from now on")
	c.Flags().BoolVar(&action.Kill, "kill", false, "kill also what asks never to be killed")
	return a.waiting(c)
}

func (a *app) restart() *cobra.Command {
	action := client.Action{Action: "restart"}
	c := &cobra.Command{
		Use: "restart SNAP|SERVICE...", Short: "Restart services", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Names = args
			return a.control(c.Context(), action, "Restarted.")
		},
	}
	c.Flags().BoolVar(&action.Reload, "reload", false, "reload those that can instead")
	return a.waiting(c)
}

func (a *app) control(ctx context.Context, action client.Action, done string) error {
	change, err := a.carryOut(ctx, action)
	if err == nil && change != nil {
		a.printf("%s\n", done)
	}
	return err
}

func (a *app) logs() *cobra.Command {
	n, follow := "10", false
	c := &cobra.Command{
		Use: "logs SNAP|SERVICE|UNIT...", Short: "Show what services have written", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			lines, err := lineCount(n)
			if err != nil {
				return err
			}
			return a.client().Logs(c.Context(), args, lines, follow, func(line client.Log) error {
				if shown, err := a.show(line); shown || err != nil {
					return err
				}
				a.printf("%s %s[%s]: %s\n", line.Timestamp.Format("2006-01-02T15:04:05Z07:00"), line.SID, line.PID, line.Message)
				return nil
			})
		},
	}
	c.Flags().StringVarP(&n, "lines", "n", n, "show the last N lines, or all")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with lines as they are written")
	return a.readable(c)
}
