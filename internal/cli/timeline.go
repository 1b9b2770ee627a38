package cli

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"tenure/client"
)

func (a *app) timeline() *cobra.Command {
	var since, svg string
	c := &cobra.Command{
		Use: "timeline [SNAP]", Short: "Show the lives of units over time, with every signal and its rule", Args: takes(0, 1, "snap"),
		Long: `timeline shows each unit as a bar over time with the revisions that it ran from, and
then, in order, what happened: changes with their verdicts, every signal that was
sent, to whom and by which rule, and how each unit ended.

In the bars = is a unit that runs, - one that is not ready yet, ^ a signal, ! one that
cannot be caught, | an end that is no failure, x one that is.

--since takes a time (RFC 3339, or a date) or how long ago (90s, 2h, 7d). --svg draws
the same as an image, into a file or on standard output.`,
		Example:           "  tenure timeline\n  tenure timeline virt --since=2h\n  tenure timeline virt --svg=virt.svg",
		ValidArgsFunction: a.complete(a.snapNames, 1),
		RunE: func(c *cobra.Command, args []string) error {
			from, err := sinceWhen(since, time.Now())
			if err != nil {
				return misused(c, "%v", err)
			}
			return a.showTimeline(c, strings.Join(args, ""), from, svg)
		},
	}
	c.Flags().StringVar(&since, "since", "", "leave out what was before a time, or longer ago than this (2h, 7d)")
	c.Flags().StringVar(&svg, "svg", "", "draw an SVG image into a file; without one on standard output")
	c.Flags().Lookup("svg").NoOptDefVal = "-"
	if err := c.RegisterFlagCompletionFunc("since", cobra.FixedCompletions([]cobra.Completion{"1h", "1d", "7d"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // The flag is there.
	}
	a.readable(c).MarkFlagsMutuallyExclusive("json", "svg")
	return c
}

func (a *app) showTimeline(c *cobra.Command, snap string, since time.Time, svg string) error {
	t, err := a.client().Timeline(c.Context(), snap, since)
	if err != nil {
		return err
	}
	if len(t.Units)+len(t.Changes) == 0 && snap != "" {
		if _, err := a.client().Snap(c.Context(), snap); err != nil {
			return err
		}
	}
	switch shown, err := a.show(t); {
	case shown || err != nil:
		return err
	case svg == "-":
		a.printf("%s", timelineSVG(&t))
		return nil
	case svg != "":
		if err := os.WriteFile(svg, []byte(timelineSVG(&t)), 0o644); err != nil { //nolint:gosec // An image that was asked for.
			return fmt.Errorf("cannot write the image: %w", err)
		}
		return nil
	case len(t.Units)+len(t.Changes) == 0:
		a.warnf("nothing has happened%s", strings.Join(prefixed(" to ", nonEmpty(snap)), ""))
		return nil
	}
	width, colour := usualScreen, false
	if a.cfg.Screen != nil {
		if columns := a.cfg.Screen(); columns > 0 {
			width = columns
		}
		colour = a.cfg.Getenv("NO_COLOR") == "" && a.cfg.Getenv("TERM") != "dumb"
	}
	a.printf("%s", timelineText(&t, width, colour))
	return nil
}

// usualScreen is the width where there is no terminal.
const usualScreen = 100

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// sinceWhen reads a time, or how long ago it was; nothing is the beginning.
func sinceWhen(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if days, found := strings.CutSuffix(text, "d"); found {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil //nolint:gosec // Sixteen bits fit.
		}
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02", "2006-01-02 15:04", "2006-01-02T15:04:05"} {
		if at, err := time.ParseInLocation(layout, text, time.Local); err == nil { //nolint:gosmopolitan // People write their own time.
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("--since should be a time, a date, or how long ago, like 2h or 7d; it is %q", text)
}

// plain is what may be shown of a text that a package or its processes have chosen: one
// line, without what a terminal obeys or what turns the direction of writing.
func plain(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsGraphic(r):
			return '?'
		}
		return r
	}, text)
	return cut(text, most)
}

// unitLabel is what a line is called.
func unitLabel(u *client.TimelineUnit) string {
	if u.Unit == "" {
		return plain(u.Snap, 40) + " (in no unit)"
	}
	return plain(u.Unit, 60)
}

// badly reports whether an end is a failure: one that was asked for never is.
func badly(bar *client.TimelineBar) bool {
	return bar.Exit != nil && bar.Cause != "request" && (!bar.Exit.Known || bar.Exit.Signal != "" || bar.Exit.Code != 0)
}
