package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tenure/client"
)

func (a *app) changeCommands() []*cobra.Command {
	commands := []*cobra.Command{a.changes(), a.tasks(), a.watch(), a.abort()}
	for _, c := range commands {
		c.GroupID = "changes"
	}
	return commands
}

func (a *app) changes() *cobra.Command {
	absolute := false
	c := &cobra.Command{
		Use: "changes [SNAP]", Short: "List changes", Args: takes(0, 1, "snap"),
		Long: `changes lists what was done and is being done, or with SNAP what concerns that snap,
the oldest first.`,
		Example:           "  tenure changes\n  tenure changes virt",
		ValidArgsFunction: a.complete(a.snapNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && isID(args[0]) {
				return misused(c, "tenure changes takes the name of a snap, and %s is a change: try tenure tasks %s", args[0], args[0])
			}
			changes, err := a.client().Changes(c.Context(), "all", strings.Join(args, ""))
			if err != nil {
				return err
			}
			if shown, err := a.show(changes); shown || err != nil {
				return err
			}
			if len(changes) == 0 {
				return errors.New("no changes found")
			}
			a.table("ID\tStatus\tSpawn\tReady\tSummary", func(row func(string)) {
				for i := range changes {
					c := &changes[i]
					row(strings.Join([]string{c.ID, c.Status, a.moment(c.Spawned, absolute), a.moment(c.ReadyAt, absolute), aboutChange(c)}, "\t"))
				}
			})
			a.printf("\n")
			return nil
		},
	}
	absoluteTimes(c, &absolute)
	return a.readable(c)
}

// aboutChange is the summary of a change, with what it waits for, or how far a hook
// says that it has come.
func aboutChange(c *client.Change) string {
	for i := range c.Tasks {
		if t := &c.Tasks[i]; t.Status == statusDoing && t.Progress.Label != "" {
			return c.Summary + howFar(t)
		}
	}
	if c.Waiting == "" {
		return c.Summary
	}
	return c.Summary + ", waiting for " + c.Waiting
}

func absoluteTimes(c *cobra.Command, absolute *bool) {
	c.Flags().BoolVar(absolute, "abs-time", false, "show times in RFC 3339 format, and not relative to today")
}

func (a *app) moment(t time.Time, absolute bool) string { return moment(t, time.Now(), absolute) }

func isID(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// chosen is the flag that picks a change by its kind, beside its id as argument.
type chosen struct {
	app  *app
	last string
}

// errNothingToDo is that no change was found, and that this was allowed.
var errNothingToDo = errors.New("no change of this kind")

func (a *app) choosing(c *cobra.Command) (*cobra.Command, *chosen) {
	ch := &chosen{app: a}
	c.Flags().StringVar(&ch.last, "last", "",
		"take the last change of this kind (install, refresh, remove, ...); with ? behind it, it is no error if there is none")
	c.Args = takes(0, 1, "change id")
	c.ValidArgsFunction = a.complete(a.changeIDs, 1)
	return c, ch
}

// id is the change that was asked for.
func (ch *chosen) id(c *cobra.Command, args []string) (string, error) {
	switch {
	case len(args) == 0 && ch.last == "":
		return "", misused(c, "%s needs the id of a change, or --last=KIND", c.CommandPath())
	case len(args) == 1 && ch.last != "":
		return "", misused(c, "a change is given by its id or by --last, not by both")
	case len(args) == 1:
		return args[0], nil
	}
	kind, optional := strings.CutSuffix(ch.last, "?")
	changes, err := ch.app.client().Changes(c.Context(), "all", "")
	if err != nil {
		return "", err
	}
	slices.Reverse(changes)
	for i := range changes {
		if changes[i].Kind == kind || changes[i].Kind == kind+"-snap" {
			return changes[i].ID, nil
		}
	}
	if optional {
		return "", errNothingToDo
	}
	if len(changes) == 0 {
		return "", errors.New("no changes found")
	}
	return "", fmt.Errorf("no changes of type %q found; see tenure changes", kind)
}

// on makes a command that acts on the chosen change.
func (ch *chosen) on(act func(c *cobra.Command, id string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		id, err := ch.id(c, args)
		if errors.Is(err, errNothingToDo) {
			return nil
		}
		if err != nil {
			return err
		}
		return act(c, id)
	}
}

func (a *app) tasks() *cobra.Command {
	absolute := false
	c, ch := a.choosing(&cobra.Command{
		Use: "tasks [CHANGE]", Aliases: []string{"change"}, Short: "List the tasks of a change",
		Long: `tasks lists the steps of a change in their order, how far each has come, and what
they have logged.`,
		Example: "  tenure tasks 12\n  tenure tasks --last=refresh",
	})
	c.RunE = ch.on(func(c *cobra.Command, id string) error {
		change, err := a.client().Change(c.Context(), id)
		if err != nil {
			return err
		}
		if shown, err := a.show(change); shown || err != nil {
			return err
		}
		a.printTasks(&change, absolute)
		return nil
	})
	absoluteTimes(c, &absolute)
	return a.readable(c)
}

func (a *app) printTasks(change *client.Change, absolute bool) {
	a.table("Status\tSpawn\tReady\tSummary", func(row func(string)) {
		for i := range change.Tasks {
			t := &change.Tasks[i]
			summary := t.Summary
			if t.Status == statusDoing {
				summary += howFar(t)
			}
			row(strings.Join([]string{t.Status, a.moment(t.Spawned, absolute), a.moment(t.ReadyAt, absolute), summary}, "\t"))
		}
	})
	if change.Waiting != "" {
		a.printf("\nWaiting for %s\n", change.Waiting)
	}
	for i := range change.Tasks {
		if log := change.Tasks[i].Log; len(log) > 0 {
			a.printf("\n%s\n%s\n\n%s\n", strings.Repeat(".", 70), change.Tasks[i].Summary, strings.Join(log, "\n"))
		}
	}
	a.printf("\n")
}

func (a *app) watch() *cobra.Command {
	c, ch := a.choosing(&cobra.Command{
		Use: "watch [CHANGE]", Short: "Wait for a change, and show how far it is",
		Long: `watch waits until a change has ended, also its observation of services, and fails if it did not do what it should. On a
terminal it shows what the change is doing. An interrupt (^C) ends the waiting and
leaves the change alone.`,
		Example: "  tenure watch 12\n  tenure watch --last=refresh",
	})
	c.RunE = ch.on(func(c *cobra.Command, id string) error {
		_, err := a.wait(c.Context(), id, false)
		return err
	})
	return c
}

func (a *app) abort() *cobra.Command {
	c, ch := a.choosing(&cobra.Command{
		Use: "abort [CHANGE]", Short: "Stop a change and undo it",
		Long: `abort asks for a change that has not ended to be undone: what it has done is taken
back, in reverse. It does not wait for that; tenure watch does.`,
		Example: "  tenure abort 12\n  tenure abort --last=refresh",
	})
	c.RunE = ch.on(func(c *cobra.Command, id string) error {
		_, err := a.client().Abort(c.Context(), id)
		return err
	})
	return c
}
