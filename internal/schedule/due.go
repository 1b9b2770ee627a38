package schedule

import (
	"fmt"
	"strings"
	"time"
)

// Update is all that decides when an update may begin by itself. It is made of values
// that others have found out: options, rules, holds, what failed before.
type Update struct {
	// Released is when the publisher released it.
	Released time.Time
	// MinimumAge is how old the release has to be, and AgeBy whose word that is.
	MinimumAge time.Duration
	AgeBy      string
	// Window is when it may begin, and WindowBy whose word that is. The zero Timer is
	// always open.
	Window   Timer
	WindowBy string
	// Seed is the number of the machine, by which randomized windows differ.
	Seed uint64
	// Holds are what else keeps it from beginning.
	Holds []Hold
}

// Hold keeps an update from beginning.
type Hold struct {
	// Until is when it ends; zero is never, by itself.
	Until time.Time `json:"until,omitzero"`
	// By says who holds it, and why: "refresh.hold", "it failed before (change 7)".
	By string `json:"by"`
}

// Due is when an update may begin, and why not earlier.
type Due struct {
	// At is the time; zero is never, by itself.
	At time.Time `json:"at,omitzero"`
	// Why is what it waits for last; empty if it may begin now.
	Why string `json:"why,omitempty"`
}

// Now reports whether the time has come.
func (d Due) Now(now time.Time) bool { return !d.At.IsZero() && !d.At.After(now) }

// Due is when u may begin, asked at a time: never before it. It is the first moment at
// which the release is old enough, nothing holds it, and its window is open.
func (u *Update) Due(now time.Time) Due {
	due := Due{At: now}
	later := func(at time.Time, format string, args ...any) {
		if at.After(due.At) {
			due = Due{At: at.In(now.Location()), Why: fmt.Sprintf(format, args...)}
		}
	}
	later(u.Released.Add(max(u.MinimumAge, 0)), "%s", u.ageText())
	var never []string
	for _, hold := range u.Holds {
		if hold.Until.IsZero() {
			never = append(never, hold.By)
			continue
		}
		later(hold.Until, "%s", hold.By)
	}
	if len(never) > 0 {
		return Due{Why: strings.Join(never, "; ")}
	}
	if u.Window.IsZero() {
		return due
	}
	start, end := u.Window.Window(due.At, u.Seed)
	if end.IsZero() {
		return Due{Why: fmt.Sprintf("%s is never open (%s)", u.Window, u.WindowBy)}
	}
	later(start, "%s", joinBy(fmt.Sprintf("its window is %s", u.Window), u.WindowBy))
	return due
}

func (u *Update) ageText() string {
	if u.MinimumAge <= 0 {
		return "it is not released before that"
	}
	return joinBy("it has to be "+days(u.MinimumAge)+" old", u.AgeBy)
}

func joinBy(text, by string) string {
	if by == "" {
		return text
	}
	return text + " (" + by + ")"
}

// days writes a duration in whole days where it is one.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}
