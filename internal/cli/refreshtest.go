package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"tenure/internal/trial"
)

// errDiffers is that a trial was carried out, and its package does not do what it declares.
var errDiffers = errors.New("the package does not do what it declares")

func (a *app) refreshTest() *cobra.Command {
	var cfg trial.Config
	c := &cobra.Command{
		Use: "refresh-test OLD.snap NEW.snap", Short: "Try a refresh out in a root of its own, and say what survives",
		Long: `refresh-test is for packagers. In a private root, with a daemon of its own, it installs
OLD.snap, refreshes it to NEW.snap, reverts, lets a refresh fail after the services of
the new revision were started, and removes the snap. It reports which processes
survived (by pid and start time), for how long each service was not ready, what the load
met, and what is left. The instance of the machine is not touched.

The exit status is 0 if everything happened as the package declares, and 1 if not.

--load runs a command of the shell while all goes on. For each request it prints
"ok MILLISECONDS" or "failed WHY"; SNAP_COMMON, SNAP_NAME, SNAP_MOUNT and TENURE_ROOT
say where the snap is. --http asks by itself, http://HOST:PORT/PATH or unix:NAME for a
socket in $SNAP_COMMON, on one connection after another, and never tries again.`,
		Example:           "  tenure refresh-test hello_1.snap hello_2.snap\n  tenure refresh-test --with base.snap --http unix:web.sock web_1.snap web_2.snap",
		Args:              takes(2, 2, "the snap file before and the one after"),
		ValidArgsFunction: snapFiles,
		RunE: func(c *cobra.Command, args []string) error {
			cfg.Old, cfg.New = args[0], args[1]
			if err := existing(append(args, cfg.With...)); err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find tenured: %w", err)
			}
			cfg.Programs = filepath.Dir(self)
			if a.cfg.Terminal != nil {
				cfg.Progress = func(what string) { a.warnf("%s", what) }
			}
			report, err := trial.Run(c.Context(), cfg)
			if err != nil {
				return err
			}
			if shown, err := a.show(report); err != nil {
				return err
			} else if !shown {
				a.printTrial(report)
			}
			if len(report.Differences) > 0 {
				return errDiffers
			}
			return nil
		},
	}
	c.Flags().StringArrayVar(&cfg.With, "with", nil, "install this snap first, such as the base; can be repeated")
	c.Flags().StringVar(&cfg.Load, "load", "", "run this command meanwhile, which prints a line for each request")
	c.Flags().StringVar(&cfg.URL, "http", "", "ask this URL meanwhile, or unix:NAME for a socket in $SNAP_COMMON")
	c.Flags().BoolVar(&cfg.Classic, "classic", false, "allow that the snaps are classic")
	if err := c.RegisterFlagCompletionFunc("with", snapFiles); err != nil {
		panic(err) // The flag is there.
	}
	return a.readable(c)
}

func (a *app) printTrial(r *trial.Report) {
	a.table("Phase\tUnit\tVerdict\tBefore\tAfter\tSurvived\tGap", func(row func(string)) {
		for _, phase := range r.Phases {
			row(fmt.Sprintf("%s (%.0f ms)\t\t\t\t\t\t", phase.Name, phase.Took))
			for i := range phase.Units {
				u := &phase.Units[i]
				survived := "no"
				if u.Survived {
					survived = "yes"
				}
				row(strings.Join([]string{"", u.Unit, u.Verdict, trialProcess(u.Before), trialProcess(u.After), survived, fmt.Sprintf("%.0f ms", u.Gap)}, "\t"))
			}
		}
	})
	if r.Load != nil {
		a.printf("\n")
		for _, phase := range r.Phases {
			if phase.Requests != nil {
				a.printf("%s: %s\n", phase.Name, trialLoad(phase.Requests))
			}
		}
		a.printf("in all: %s\n", trialLoad(r.Load))
		for _, failure := range r.Load.Failures {
			a.printf("  failed: %s\n", plain(failure, maxWords))
		}
	}
	if len(r.Differences) == 0 {
		a.printf("\neverything happened as the package declares, and nothing is left\n")
	}
	for _, difference := range r.Differences {
		a.printf("not as declared: %s\n", plain(difference, 2*maxWords))
	}
}

func trialProcess(p *trial.Process) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprintf("%d on %s", p.PID, p.Revision)
}

func trialLoad(l *trial.Load) string {
	return fmt.Sprintf("%d requests, %d failed, median %.1f ms, 99%% %.1f ms, slowest %.1f ms", l.Requests, l.Failed, l.Median, l.P99, l.Slowest)
}
