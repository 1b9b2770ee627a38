package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tenure/client"
)

// daemonCommand is about tenured itself.
func (a *app) daemonCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "daemon", Short: "See tenured, and upgrade it in place",
		Long: `daemon shows which tenured answers, and upgrades it in place: no service, workload,
app, connection or change is touched by that.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.daemonStatus(), a.daemonUpgrade())
	return c
}

func (a *app) daemonStatus() *cobra.Command {
	return a.readable(&cobra.Command{
		Use: "status", Short: "Show which tenured answers, its last upgrade, and what it needs", Args: takes(0, 0, ""),
		Long: `status shows the version, the process and the program of the tenured that answers,
what it needs of the machine, and what has become of its last upgrade since the
machine has started. What it needs follows what it looks after; it should not grow
otherwise.`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			daemon, err := a.client().Daemon(c.Context())
			if err != nil {
				return err
			}
			if shown, err := a.show(daemon); shown || err != nil {
				return err
			}
			a.table("version\t"+daemon.Version, func(row func(string)) {
				row(fmt.Sprintf("process\t%d", daemon.PID))
				row("program\t" + daemon.Program)
				row(fmt.Sprintf("needs\t%.1f MiB of heap, %d goroutines, %d threads, %d descriptors",
					float64(daemon.Needs.Heap)/(1<<20), daemon.Needs.Goroutines, daemon.Needs.Threads, daemon.Needs.Descriptors))
				if daemon.Upgrade != nil {
					row("upgrade\t" + outcome(daemon.Upgrade))
				}
			})
			return nil
		},
	})
}

// outcome is what has become of an upgrade, or becomes of it.
func outcome(u *client.Upgrade) string {
	switch u.Status {
	case client.UpgradeDone:
		return fmt.Sprintf("upgraded from %s to %s at %s", u.From, u.To, u.Ended.Local().Format(time.DateTime))
	case client.UpgradeDoing:
		return fmt.Sprintf("from %s to %s, since %s", u.From, u.To, u.Began.Local().Format(time.DateTime))
	}
	return fmt.Sprintf("from %s to %s failed at %s: %s", u.From, u.To, u.Ended.Local().Format(time.DateTime), u.Err)
}

func (a *app) daemonUpgrade() *cobra.Command {
	var patience time.Duration
	c := &cobra.Command{
		Use: "upgrade [PROGRAM]", Short: "Upgrade tenured in place", Args: takes(0, 1, "one program at most"),
		Long: `upgrade puts another tenured in the place of the one that runs, in the same process.
PROGRAM is its path; without one it is the path that the running one was started
from, where a newer package may have put another file.

Nothing that runs is touched, who connects meanwhile waits, and changes that are in
progress go on. The new program is asked first whether it can read the state, and
is refused if it cannot. If it does not get ready the old one serves again.

Only root may be able to change the program and the directories that it is in.`,
		Example: "  sudo tenure daemon upgrade\n  sudo tenure daemon upgrade /snap/tenure/current/bin/tenured",
		RunE: func(c *cobra.Command, args []string) error {
			if patience < 0 || c.Flags().Changed("patience") && patience == 0 {
				return misused(c, "--patience should be longer than 0, and is %s", patience)
			}
			program := ""
			if len(args) > 0 {
				var err error
				if program, err = filepath.Abs(args[0]); err != nil {
					return fmt.Errorf("upgrade to %s: %w", args[0], err)
				}
			}
			return a.upgradeDaemon(c.Context(), program, patience)
		},
	}
	c.Flags().DurationVar(&patience, "patience", 0, "how long the new program may take to get ready (1m)")
	return a.readable(c)
}

// upgradeDaemon has the daemon replace itself, and waits for what becomes of it.
func (a *app) upgradeDaemon(ctx context.Context, program string, patience time.Duration) error {
	running, err := a.client().Daemon(ctx)
	if err != nil {
		return err
	}
	begun, err := a.client().Upgrade(ctx, program, patience)
	if err != nil {
		return err
	}
	line := a.progress("Upgrade tenured from " + begun.From + " to " + begun.To)
	defer line.end()
	if patience == 0 {
		patience = client.UpgradePatience
	}
	// It is rehearsed, then done, and perhaps taken back.
	const starts = 3
	ctx, cancel := context.WithTimeoutCause(ctx, starts*patience+awayAtMost, errors.New("it is not known what became of it: see tenure daemon status"))
	defer cancel()
	ended, err := a.awaitUpgrade(ctx, begun, running.PID, awayAtMost)
	line.end()
	if err != nil {
		return err
	}
	if shown, err := a.show(ended); err != nil {
		return err
	} else if !shown && ended.Status == client.UpgradeDone {
		a.printf("tenured upgraded from %s to %s\n", ended.From, ended.To)
	}
	if ended.Status != client.UpgradeDone {
		return fmt.Errorf("cannot upgrade tenured to %s: %s; %s serves again", ended.To, ended.Err, ended.From) //nolint:err113 // For people.
	}
	return nil
}

const (
	// awayAtMost is how long a daemon may be away beyond what its start takes.
	awayAtMost = 20 * time.Second
	// glance is how long one that is asked may take to answer. The socket may be somebody else's, who keeps it for the next daemon.
	glance = 2 * time.Second
)

// awaitUpgrade asks whoever answers what has become of an upgrade, until that is known. A daemon is replaced in its process: where that
// has ended, with all that took its place, only its manager starts the next one, and may be waiting for this command.
func (a *app) awaitUpgrade(ctx context.Context, begun client.Upgrade, pid int, away time.Duration) (client.Upgrade, error) {
	daemon := a.client()
	var ended time.Time
	for {
		now, err := look(ctx, daemon)
		if err == nil || !over(pid) {
			ended = time.Time{}
		} else if ended.IsZero() {
			ended = time.Now()
		}
		switch {
		case !ended.IsZero() && time.Since(ended) > away:
			return begun, fmt.Errorf("upgrade tenured to %s: process %d has ended, and nobody has answered for %s since: see the log of tenured", begun.To, pid, away) //nolint:err113 // For people.
		case ctx.Err() != nil:
			return begun, fmt.Errorf("upgrade tenured to %s: %w", begun.To, context.Cause(ctx))
		case err != nil && !gone(err):
			return begun, err
		case err == nil && (now.Upgrade == nil || now.Upgrade.ID != begun.ID):
			return begun, fmt.Errorf("tenured %s answers, which knows nothing of the upgrade to %s", now.Version, begun.To) //nolint:err113 // For people.
		case err == nil && now.Upgrade.Status != client.UpgradeDoing:
			return *now.Upgrade, nil
		}
		pause(ctx, knock)
	}
}

// look asks the daemon, if there is one.
func look(ctx context.Context, daemon *client.Client) (client.Daemon, error) {
	ctx, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	return daemon.Daemon(ctx)
}

// over reports whether a process has ended.
func over(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
