package cli

import (
	"context"
	"fmt"
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
	return a.readable(&cobra.Command{
		Use: "changes [SNAP]", Short: "List changes", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			changes, err := a.client().Changes(c.Context(), "all", strings.Join(args, ""))
			if err != nil {
				return err
			}
			if shown, err := a.show(changes); shown || err != nil {
				return err
			}
			if len(changes) == 0 {
				return fmt.Errorf("no changes found")
			}
			a.table("ID\tStatus\tSpawn\tReady\tSummary", func(row func(string)) {
				for i := range changes {
					c := &changes[i]
					row(strings.Join([]string{c.ID, c.Status, moment(c.Spawned), moment(c.ReadyAt), c.Summary}, "\t"))
				}
			})
			return nil
		},
	})
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02T15:04:05") //nolint:gosmopolitan // People read their own time.
}

func (a *app) tasks() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "tasks ID", Aliases: []string{"change"}, Short: "List the tasks of a change", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			change, err := a.client().Change(c.Context(), args[0])
			if err != nil {
				return err
			}
			if shown, err := a.show(change); shown || err != nil {
				return err
			}
			a.table("Status\tSpawn\tReady\tSummary", func(row func(string)) {
				for i := range change.Tasks {
					t := &change.Tasks[i]
					row(strings.Join([]string{t.Status, moment(t.Spawned), moment(t.ReadyAt), t.Summary}, "\t"))
				}
			})
			for i := range change.Tasks {
				if log := change.Tasks[i].Log; len(log) > 0 {
					a.printf("\n%s\n%s\n\n%s\n", strings.Repeat(".", 70), change.Tasks[i].Summary, strings.Join(log, "\n"))
				}
			}
			return nil
		},
	})
}

func (a *app) watch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Wait for a change, and show how far it is", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, err := a.wait(c.Context(), args[0])
			return err
		},
	}
}

func (a *app) abort() *cobra.Command {
	return &cobra.Command{
		Use: "abort ID", Short: "Stop a change and undo it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, err := a.client().Abort(c.Context(), args[0])
			return err
		},
	}
}

// wait follows a change to its end. It fails when the change did.
func (a *app) wait(ctx context.Context, id string) (*client.Change, error) {
	daemon := a.client()
	progress := &progress{to: a.cfg.Terminal, begun: time.Now()}
	defer progress.clear()
	var seen uint64
	for {
		change, err := daemon.Follow(ctx, id, seen)
		if err != nil {
			return nil, err
		}
		if change.Ready {
			progress.clear()
			return &change, failure(&change)
		}
		seen = change.Revision
		progress.show(&change)
	}
}

// failure is what a change that was not done failed with, in snap's form.
func failure(change *client.Change) error {
	if change.Status == "Done" {
		return nil
	}
	if change.Err == "" {
		return fmt.Errorf("change %s finished in status %q", change.ID, change.Status)
	}
	var b strings.Builder
	b.WriteString("cannot perform the following tasks:")
	for line := range strings.SplitSeq(change.Err, "\n") {
		b.WriteString("\n- " + line)
	}
	for i := range change.Tasks {
		if change.Tasks[i].Status != "Error" {
			continue
		}
		for _, line := range change.Tasks[i].Log {
			b.WriteString("\n    " + line)
		}
	}
	return fmt.Errorf("%s", b.String()) //nolint:err113 // The change's own words.
}

// progress shows on a terminal what a change is doing, once it has lasted a
// second.
type progress struct {
	to interface {
		Write(p []byte) (int, error)
	}
	begun time.Time
	shown bool
}

func (p *progress) show(change *client.Change) {
	if p.to == nil || time.Since(p.begun) < time.Second {
		return
	}
	for i := range change.Tasks {
		t := &change.Tasks[i]
		if t.Status != "Doing" && t.Status != "Undoing" && t.Status != "Wait" {
			continue
		}
		line := t.Summary
		if t.Progress.Total > 1 {
			line += fmt.Sprintf(" %d%%", 100*t.Progress.Done/t.Progress.Total)
		}
		if change.Waiting != "" {
			line += ": waiting for " + change.Waiting
		}
		fmt.Fprintf(p.to, "\r\x1b[K%s", shorten(line)) //nolint:errcheck // A terminal that is gone needs no progress.
		p.shown = true
		return
	}
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.to, "\r\x1b[K") //nolint:errcheck // See show.
		p.shown = false
	}
}
