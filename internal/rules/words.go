package rules

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"tenure"
	"tenure/internal/policy"
	"tenure/internal/schedule"
)

// The bounds of retain, which are those of refresh.retain.
const minRetain, maxRetain = 2, 20

// longest bounds every duration.
const longest = 3650 * 24 * time.Hour

// effect is one thing that a rule does: it gives a value to an aspect of an Outcome,
// unless that has one, and reports whether it did. Of an Outcome that is nil it is only
// asked whether the value would be taken.
type effect struct {
	key string
	// text is the value as it was written.
	text  string
	apply func(o *Outcome, rule string)
	// given is the rule that has given the aspect already; empty if none has.
	given func(o *Outcome) string
}

func effectOf[T any](key, text string, value T, at func(*Outcome) **Given[T]) effect {
	return effect{
		key: key, text: text,
		apply: func(o *Outcome, rule string) { *at(o) = &Given[T]{Value: value, Rule: rule} },
		given: func(o *Outcome) string {
			if g := *at(o); g != nil {
				return g.Rule
			}
			return ""
		},
	}
}

// The keys of what a rule does.
const (
	doVerdict    = "verdict"
	doGrace      = "grace"
	doKill       = "kill"
	doDeferral   = "deferral"
	doRefuse     = "refuse"
	doEndure     = "endure"
	doOverdue    = "endure-action"
	doRetain     = "retain"
	doWindow     = "window"
	doMinimumAge = "minimum-age"
	doHold       = "hold"
)

// aboutUnits reports whether an aspect is given to each unit.
func aboutUnits(key string) bool {
	return key == doVerdict || key == doGrace || key == doKill || key == doDeferral || outlasts(key)
}

// outlasts reports whether an aspect is about what is true when no change is under way: how
// long a unit may endure is asked for as long as it does.
func outlasts(key string) bool { return key == doEndure || key == doOverdue }

// aboutSwitch reports whether an aspect is only given on refresh and revert, where the
// condition does not say otherwise: what a rule for updates says must not keep a
// snap from being removed.
func aboutSwitch(key string) bool {
	return key == doVerdict || key == doDeferral || key == doRefuse
}

func doKeys() []string {
	return []string{doVerdict, doGrace, doKill, doDeferral, doRefuse, doEndure, doOverdue, doRetain, doWindow, doMinimumAge, doHold}
}

// accepted says what can stand at a key.
func accepted(key string) string {
	const spans = `a time like "90s", "1h30m", "7d" or "2w"`
	switch key {
	case doVerdict:
		return "restart, reload, handover, endure, defer, stop, refuse"
	case doKill:
		return "after-timeout, never"
	case doOverdue:
		return "warn, end"
	case doGrace, doMinimumAge, doEndure:
		return spans
	case doDeferral:
		return spans + `, or "0s" for not at all`
	case doRetain:
		return fmt.Sprintf("a number between %d and %d", minRetain, maxRetain)
	case doWindow:
		return `a window in the timer format of snaps, like "sun,02:00-05:00"`
	case doRefuse, doHold:
		return "a sentence that says why, on one line"
	}
	return ""
}

// readEffect reads the value of one key; false is that it is not accepted.
func readEffect(key, text string) (effect, bool) {
	switch key {
	case doVerdict:
		verdict := tenure.Verdict(strings.ReplaceAll(text, "handover", string(tenure.HandOver)))
		ok := verdict.UnmarshalText([]byte(verdict)) == nil && text != string(tenure.HandOver)
		return effectOf(key, text, verdict, func(o *Outcome) **Given[tenure.Verdict] { return &o.Verdict }), ok
	case doKill:
		kill := policy.Kill(text)
		return effectOf(key, text, kill, func(o *Outcome) **Given[policy.Kill] { return &o.Kill }),
			kill == policy.KillNever || kill == policy.KillAfterTimeout
	case doGrace:
		span, ok := readSpan(text)
		return effectOf(key, text, span, func(o *Outcome) **Given[time.Duration] { return &o.Grace }), ok && span > 0
	case doDeferral:
		span, ok := readSpan(text)
		return effectOf(key, text, span, func(o *Outcome) **Given[time.Duration] { return &o.Deferral }), ok
	case doEndure:
		span, ok := readSpan(text)
		return effectOf(key, text, span, func(o *Outcome) **Given[time.Duration] { return &o.Endure }), ok && span > 0
	case doOverdue:
		action := policy.Overdue(text)
		return effectOf(key, text, action, func(o *Outcome) **Given[policy.Overdue] { return &o.Overdue }),
			action == policy.OverdueWarn || action == policy.OverdueEnd
	case doMinimumAge:
		span, ok := readSpan(text)
		return effectOf(key, text, span, func(o *Outcome) **Given[time.Duration] { return &o.MinimumAge }), ok && span > 0
	case doRetain:
		n, err := strconv.Atoi(text)
		return effectOf(key, text, n, func(o *Outcome) **Given[int] { return &o.Retain }), err == nil && n >= minRetain && n <= maxRetain
	case doWindow:
		_, err := schedule.ParseTimer(text)
		return effectOf(key, text, text, func(o *Outcome) **Given[string] { return &o.Window }), err == nil
	case doRefuse:
		return effectOf(key, text, text, func(o *Outcome) **Given[string] { return &o.Refuse }), isSentence(text)
	case doHold:
		return effectOf(key, text, text, func(o *Outcome) **Given[string] { return &o.Hold }), isSentence(text)
	}
	return effect{}, false
}

// isSentence reports whether text can stand in an error and on a terminal.
func isSentence(text string) bool {
	const most = 200
	if strings.TrimSpace(text) == "" || len(text) > most {
		return false
	}
	return !strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) })
}

// readSpan reads a duration as Go writes it, or a whole number of days or weeks.
func readSpan(text string) (time.Duration, bool) {
	const day = 24 * time.Hour
	for suffix, unit := range map[string]time.Duration{"d": day, "w": 7 * day} {
		if digits, found := strings.CutSuffix(text, suffix); found {
			n, err := strconv.Atoi(digits)
			return time.Duration(min(n, int(longest/day))) * unit, err == nil && n >= 0 && time.Duration(n) <= longest/unit
		}
	}
	span, err := time.ParseDuration(text)
	return span, err == nil && span >= 0 && span <= longest
}
