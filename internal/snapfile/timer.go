package snapfile

import "strings"

const (
	maxTimer      = 256
	acceptedTimer = "a timer string such as 10:00, mon,10:00,,fri,15:00 or 9:00~11:00/2, of at most 256 characters"
)

// The grammar of timer strings
// (https://snapcraft.io/docs/timer-string-format), down to the numbers. Package
// schedule, which gives them a meaning, is of the same layer and not known
// here; a test holds both to the same language.
const (
	timerWeekday = `(?:mon|tue|wed|thu|fri|sat|sun)`
	// timerDays: in a span with two numbers the second is not the smaller.
	timerDays = `(?:` + timerWeekday + `[1-5]?|` + timerWeekday + `[1-5]?-` + timerWeekday + `|` + timerWeekday + `-` + timerWeekday + `[1-5]|` +
		timerWeekday + `1-` + timerWeekday + `[1-5]|` + timerWeekday + `2-` + timerWeekday + `[2-5]|` + timerWeekday + `3-` + timerWeekday + `[3-5]|` +
		timerWeekday + `4-` + timerWeekday + `[45]|` + timerWeekday + `5-` + timerWeekday + `5)`
	timerClock = `(?:(?:[01]?[0-9]|2[0-3]):[0-5][0-9]|24:00)`
	timerCount = `(?:/(?:[1-9][0-9]{0,2}|1[0-3][0-9]{2}|14[0-3][0-9]|1440))?`
	timerTimes = `(?:` + timerClock + `|` + timerClock + `[-~]` + timerClock + timerCount + `|[-~]` + timerCount + `)`
)

//nolint:gochecknoglobals // As in words.go.
var (
	timerDaysForm  = compile(`^` + timerDays + `$`)
	timerTimesForm = compile(`^` + timerTimes + `$`)
)

// isTimer reports whether s is a list of events, each of days, then times,
// either of which may be missing.
func isTimer(s string) bool {
	if len(s) > maxTimer {
		return false
	}
	for event := range strings.SplitSeq(s, ",,") {
		parts := strings.Split(event, ",")
		for len(parts) > 0 && timerDaysForm.matches(parts[0]) {
			parts = parts[1:]
		}
		for _, part := range parts {
			if !timerTimesForm.matches(part) {
				return false
			}
		}
	}
	return true
}
