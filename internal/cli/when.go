package cli

import (
	"fmt"
	"time"
)

// moment is t for people: the clock of days next to today, days up to 60, then the
// date, as snap writes it; with absolute, RFC 3339.
func moment(t, now time.Time, absolute bool) string {
	if t.IsZero() {
		return "-"
	}
	if absolute {
		return t.Format(time.RFC3339)
	}
	t, now = t.Local(), now.Local() //nolint:gosmopolitan // People read their own time.
	clock := t.Format("15:04 MST")
	switch days := daysBetween(t, now); {
	case days == 1:
		return "yesterday at " + clock
	case days == 0:
		return "today at " + clock
	case days == -1:
		return "tomorrow at " + clock
	case days < 0:
		return t.Format("2006-01-02")
	case days <= 60:
		return fmt.Sprintf("%d days ago, at %s", days, clock)
	default:
		return t.Format("2006-01-02")
	}
}

// daysBetween counts midnights from a to b, which are in one time zone.
func daysBetween(a, b time.Time) int {
	day := func(t time.Time) time.Time {
		return time.Date(t.Year(), t.Month(), t.Day(), 12, 0, 0, 0, time.UTC)
	}
	return int(day(b).Sub(day(a)) / (24 * time.Hour))
}

// age is how long ago t was, to two units.
func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t).Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}
