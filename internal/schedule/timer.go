// Package schedule decides when something may happen: timers of services,
// and windows, holds, ages and jitter of refreshes.
//
// What is always true: given a time, and a number where chance is wanted, it
// gives a time, always the same one for the same input. It reads no clock, has
// no state and starts nothing, so everything in it may run concurrently.
//
// Times of day are those of the location of the time that is passed in.
package schedule

import (
	"strings"
	"time"
)

// Timer is a timer string of the snap format: a set of moments that repeats
// itself with the weeks and months. The zero value has no moments.
//
// The grammar is that of https://snapcraft.io/docs/timer-string-format:
//
//	mon,10:00,,fri,15:00      Mondays at ten and Fridays at three
//	mon-wed,9:00-11:00/2      at 9:00 and 10:00 on three days
//	fri5,23:00~01:00          once in the night after the last Friday of a month
//	mon1-wed                  from the first Monday of a month to the Wednesday after it
//	mon-wed1                  the first Wednesday of a month and the two days before it
//	00:00-24:00/96            every quarter of an hour
//
// A span of time with "-" has its moment at its start, one with "~" at random
// within; "/N" cuts a span into N equal pieces, each with its own moment. Days
// alone mean midnight. "-" and "~" alone are the whole day.
type Timer struct {
	events []event
	text   string
}

// event is times on days: every day if there are no days, midnight if there
// are no times.
type event struct {
	days  []daySpan
	times []timeSpan
}

// String is the text that ParseTimer has read.
func (t Timer) String() string { return t.text }

// IsZero reports whether t has no moments.
func (t Timer) IsZero() bool { return len(t.events) == 0 }

// lookBack and lookAhead bound the days around a time whose pieces may have
// their moment next to it: a piece ends at most two days after the day it
// belongs to, and the clock may be set by some hours in between. lookMonths
// bounds the days until the next match: every month has every day of the
// grammar, mon5 being the last Monday.
const (
	lookBack   = 3
	lookAhead  = 3
	lookMonths = 63
)

// Next is the first moment of t after the time after, in the location of that
// time, or the zero time if t has no moments.
//
// The moments of randomized spans follow from seed and from the day alone.
// Equal seeds therefore give equal moments however often and from where one
// asks, no span has two, and machines with different seeds are spread over it.
//
// Moments are times of day: on a day on which the clock is set forward, one
// that does not exist is moved by the gap; if it is set back, one that exists
// twice happens once, the second time.
func (t Timer) Next(after time.Time, seed uint64) time.Time {
	var next time.Time
	first := dateOf(after).add(-lookBack)
	last := first.add(lookBack + lookMonths)
	for day := first; !last.before(day); day = day.add(1) {
		for i := range t.events {
			moment := t.events[i].next(day, after, seed)
			if !moment.IsZero() && (next.IsZero() || moment.Before(next)) {
				next = moment
				if end := day.add(lookAhead); end.before(last) {
					last = end
				}
			}
		}
	}
	return next
}

// next is the first moment after the time after among those that belong to day.
func (e *event) next(day date, after time.Time, seed uint64) time.Time {
	var next time.Time
	if !e.on(day) {
		return next
	}
	for i := range e.times {
		moment := e.times[i].next(day, after, seed)
		if !moment.IsZero() && (next.IsZero() || moment.Before(next)) {
			next = moment
		}
	}
	return next
}

func (e *event) on(day date) bool {
	for _, span := range e.days {
		if span.has(day) {
			return true
		}
	}
	return len(e.days) == 0
}

// ParseTimer reads a timer string. Its error is an *Error.
func ParseTimer(s string) (Timer, error) {
	timer := Timer{text: s}
	if len(s) > maxTimer {
		short := s[:maxTimer] + "…"
		return Timer{}, &Error{Timer: short, Part: short, Accepted: "at most 256 characters"}
	}
	for text := range strings.SplitSeq(s, ",,") {
		e, err := parseEvent(text)
		if err != nil {
			err.Timer = s
			return Timer{}, err
		}
		timer.events = append(timer.events, e)
	}
	return timer, nil
}

// MarshalText writes the text that ParseTimer has read.
func (t Timer) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// UnmarshalText reads what MarshalText writes; no text is the zero Timer.
func (t *Timer) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*t = Timer{}
		return nil
	}
	parsed, err := ParseTimer(string(text))
	if err != nil {
		return err
	}
	*t = parsed
	return nil
}
