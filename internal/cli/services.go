package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"tenure/client"
)

func (a *app) serviceCommands() []*cobra.Command {
	commands := []*cobra.Command{a.services(), a.start(), a.stop(), a.restart(), a.logs(), a.allow(), a.disallow()}
	for _, c := range commands {
		c.GroupID = "services"
	}
	return commands
}

func (a *app) services() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "services [SNAP|SERVICE...]", Short: "Show services and whether they run",
		Long: `services shows the services of all snaps, or of those named, whether they start by
themselves and whether they run.`,
		Example:           "  tenure services\n  tenure services virt",
		ValidArgsFunction: a.complete(a.serviceNames, -1),
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
					current, notes := "inactive", "-"
					if s.Active {
						current = "active"
					}
					if len(s.Notes) > 0 {
						notes = strings.Join(s.Notes, ",")
					}
					row(strings.Join([]string{s.Snap + "." + s.Name, startup(s), current, notes}, "\t"))
				}
			})
			return nil
		},
	})
}

func (a *app) start() *cobra.Command {
	action := client.Action{Action: "start"}
	c := &cobra.Command{
		Use: "start SNAP|SERVICE|TEMPLATE@NAME... [-- ARGUMENT...]", Short: "Start services", Args: takes(1, -1, "snap or service"),
		Long: `start starts services, or the enabled services of a snap, and waits until they are
ready. An app with lifecycle.instances is a template: an instance of it has a name, and
its arguments follow those of the template. They are kept as long as the instance is
enabled, or known in tenure services.`,
		Example:           "  tenure start virt\n  tenure start --enable virt.virtd\n  tenure start --enable virt.vm@web1 -- -m 1G",
		ValidArgsFunction: a.complete(a.serviceNames, -1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Names = args
			if dash := c.ArgsLenAtDash(); dash >= 0 {
				action.Names, action.Args = args[:dash], args[dash:]
			}
			if len(action.Names) == 0 {
				return misused(c, "name a service before the --")
			}
			return a.control(c.Context(), action, "Started.")
		},
	}
	c.Flags().BoolVar(&action.Enable, "enable", false, "also start them at boot from now on")
	return a.waiting(c)
}

func (a *app) stop() *cobra.Command {
	action := client.Action{Action: "stop"}
	c := &cobra.Command{
		Use: "stop SNAP|SERVICE|UNIT...", Short: "Stop services, or single units of tenure ps", Args: takes(1, -1, "snap, service or unit"),
		Long: `stop ends services, each by its stop protocol, and waits until they have ended.
Workloads that outlive their service are left alone unless they are named: any unit
that tenure ps shows can be. What was stopped starts again at the next boot, unless
--disable is given.`,
		Example: `  tenure stop virt.virtd
  tenure stop virt.virtd/vm.4711`,
		ValidArgsFunction: a.complete(a.unitNames, -1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Names = args
			return a.control(c.Context(), action, "Stopped.")
		},
	}
	c.Flags().BoolVar(&action.Disable, "disable", false, "also do not start them at boot from now on")
	overrides(c, &action, overrideForce, overrideKill)
	return a.waiting(c)
}

func (a *app) restart() *cobra.Command {
	action := client.Action{Action: "restart"}
	c := &cobra.Command{
		Use: "restart SNAP|SERVICE...", Short: "Restart services", Args: takes(1, -1, "snap or service"),
		Long: `restart restarts services, or those of a snap that run. With --reload, services that
say how are reloaded instead, and keep their processes.`,
		Example:           "  tenure restart virt\n  tenure restart --reload virt.virtd",
		ValidArgsFunction: a.complete(a.serviceNames, -1),
		RunE: func(c *cobra.Command, args []string) error {
			action.Names = args
			return a.control(c.Context(), action, "Restarted.")
		},
	}
	c.Flags().BoolVar(&action.Reload, "reload", false, "reload those that can instead")
	overrides(c, &action, overrideForce, overrideKill)
	return a.waiting(c)
}

func (a *app) control(ctx context.Context, action client.Action, done string) error {
	change, err := a.carryOut(ctx, action)
	if err != nil || change == nil {
		return err
	}
	if change.Status == statusWait && !change.Observed() {
		return a.sayWaiting(change)
	}
	if change.Observed() {
		// It was ended for that change, which goes on.
		a.sayObserved(change)
		return nil
	}
	if change.Kind != "service-control" {
		done = fmt.Sprintf("Change %s is done: %s.", change.ID, change.Summary)
	}
	a.printf("%s\n", done)
	return nil
}

func (a *app) logs() *cobra.Command {
	n, follow, absolute := "10", false, false
	c := &cobra.Command{
		Use: "logs SNAP|SERVICE|UNIT...", Short: "Show what services have written", Args: takes(1, -1, "snap, service or unit"),
		Long: `logs shows the last lines that services, or other units, have written, in the order of
their times. With --json each line is a JSON document.`,
		Example:           "  tenure logs -n 100 virt\n  tenure logs -f virt.virtd",
		ValidArgsFunction: a.complete(a.unitNames, -1),
		RunE: func(c *cobra.Command, args []string) error {
			lines, err := lineCount(n)
			if err != nil {
				return misused(c, "%v", err)
			}
			return a.client().Logs(c.Context(), args, lines, follow, func(line client.Log) error {
				return a.printLog(line, absolute)
			})
		},
	}
	c.Flags().StringVarP(&n, "lines", "n", n, "show the last N lines, or all")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with lines as they are written, until ^C")
	c.Flags().BoolVar(&absolute, "abs-time", false, "show times in UTC")
	return a.readable(c)
}

// printLog prints one line of a log, as JSON on a line of its own where that was asked for.
func (a *app) printLog(line client.Log, absolute bool) error {
	if a.asJSON {
		raw, err := json.Marshal(line)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		a.printf("%s\n", raw)
		return nil
	}
	at := line.Timestamp.Local() //nolint:gosmopolitan // People read their own time.
	if absolute {
		at = at.UTC()
	}
	a.printf("%s %s[%s]: %s\n", at.Format("2006-01-02T15:04:05Z07:00"), line.SID, line.PID, line.Message)
	return nil
}

func lineCount(n string) (int, error) {
	if n == "all" {
		return -1, nil
	}
	lines, err := strconv.Atoi(n)
	if err != nil || lines < 0 {
		return 0, fmt.Errorf("-n takes a number of lines or \"all\"; it is %q", n)
	}
	return lines, nil
}
