package hook

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"tenure"
)

// RefreshHost is a Host that knows of the updates of snaps.
type RefreshHost interface {
	// Pending is what there is to refresh the caller's snap to.
	Pending(ctx context.Context, c Caller) (Pending, error)
	// HoldRefreshes keeps the caller's snap, and the base that it runs on, from being
	// refreshed automatically, as long as it may; ProceedWithRefreshes ends that.
	HoldRefreshes(ctx context.Context, c Caller) error
	ProceedWithRefreshes(ctx context.Context, c Caller) error
}

// Pending is what there is to refresh a snap to.
type Pending struct {
	// Tracking is the channel that it tracks.
	Tracking string
	// Revision is zero if there is no update of the snap itself.
	Revision tenure.Revision
	Version  string
	// Inhibited is that the update is staged, and waits for what runs.
	Inhibited bool
	// Base is that there is an update of its base.
	Base bool
}

// refresh is snapctl refresh, as snapd documents it.
func refresh(ctx context.Context, host Host, caller Caller, args []string, w io.Writer) error {
	fs := flag.NewFlagSet("refresh", flag.ContinueOnError)
	pending, tracking := fs.Bool("pending", false, ""), fs.Bool("tracking", false, "")
	hold, proceed := fs.Bool("hold", false, ""), fs.Bool("proceed", false, "")
	rest, err := flags(fs, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 || !*pending && !*tracking && !*hold && !*proceed {
		return usage("snapctl refresh --pending|--tracking|--hold|--proceed")
	}
	if *hold && *proceed {
		return errors.New("cannot use --proceed and --hold together")
	}
	if *pending || *hold || *proceed {
		if err := caller.isRoot("refresh"); err != nil {
			return fmt.Errorf("%w; other users can only use --tracking", err)
		}
	}
	known, ok := host.(RefreshHost)
	if !ok {
		return errors.New("there are no sources of snaps here")
	}
	if *pending || *tracking {
		found, err := known.Pending(ctx, caller)
		if err != nil {
			return err
		}
		if err := printPending(w, found, *pending); err != nil {
			return err
		}
	}
	switch {
	case *hold:
		return known.HoldRefreshes(ctx, caller)
	case *proceed:
		return known.ProceedWithRefreshes(ctx, caller)
	}
	return nil
}

// printPending prints the lines that snapd prints.
func printPending(w io.Writer, p Pending, all bool) error {
	if !all {
		_, err := fmt.Fprintf(w, "channel: %s\n", p.Tracking)
		return err
	}
	status := "none"
	switch {
	case p.Inhibited:
		status = "inhibited"
	case !p.Revision.IsZero():
		status = "ready"
	}
	text := fmt.Sprintf("pending: %s\nchannel: %s\n", status, p.Tracking)
	if !p.Revision.IsZero() {
		if p.Version != "" {
			text += fmt.Sprintf("version: %s\n", p.Version)
		}
		text += fmt.Sprintf("revision: %s\n", p.Revision)
	}
	_, err := fmt.Fprintf(w, "%sbase: %t\nrestart: false\n", text, p.Base)
	return err
}
