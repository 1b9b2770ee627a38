package schedule

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxTimer = 256
	maxCount = 24 * 60
)

// Error is what is wrong with a timer string.
type Error struct {
	// Timer is the whole string, Part what is wrong in it.
	Timer, Part string
	// Accepted says what could stand in the place of Part.
	Accepted string
}

// Error is one line.
func (e *Error) Error() string {
	if e.Part == e.Timer {
		return fmt.Sprintf("timer %q: accepted: %s", e.Timer, e.Accepted)
	}
	return fmt.Sprintf("timer %q: found %q; accepted: %s", e.Timer, e.Part, e.Accepted)
}

// parseEvent reads days, then times, either of which may be missing.
func parseEvent(text string) (event, *Error) {
	var e event
	for part := range strings.SplitSeq(text, ",") {
		if days, ok := parseDays(part); ok {
			if len(e.times) > 0 {
				return event{}, &Error{Part: part, Accepted: "days before times, and ,, before the next event"}
			}
			e.days = append(e.days, days)
			continue
		}
		times, ok := parseTimes(part)
		if !ok {
			return event{}, &Error{Part: part, Accepted: "days such as mon, fri5 or mon1-wed, and times such as 9:00, 9:00-11:00/2 or 22:00~24:00"}
		}
		e.times = append(e.times, times)
	}
	if len(e.times) == 0 {
		e.times = []timeSpan{{count: 1}}
	}
	return e, nil
}

// parseDays reads a day, or a span of days of which at most one has a number:
// in a span with two, which the format knew once, the second one counts for
// nothing, but may not be smaller.
func parseDays(s string) (daySpan, bool) {
	from, to, isSpan := strings.Cut(s, "-")
	var span daySpan
	var ok bool
	if span.from, span.fromNth, ok = parseDay(from); !ok {
		return daySpan{}, false
	}
	if !isSpan {
		span.to, span.toNth = span.from, span.fromNth
		return span, true
	}
	if span.to, span.toNth, ok = parseDay(to); !ok {
		return daySpan{}, false
	}
	if span.fromNth == 0 || span.toNth == 0 {
		return span, true
	}
	if span.toNth < span.fromNth {
		return daySpan{}, false
	}
	if span.from != span.to || span.fromNth != span.toNth {
		span.toNth = 0
	}
	return span, true
}

func parseDay(s string) (day time.Weekday, nth int, ok bool) {
	if len(s) == 4 && '1' <= s[3] && s[3] <= '5' {
		nth, s = int(s[3]-'0'), s[:3]
	}
	at := slices.Index([]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}, s)
	return time.Weekday(at), nth, at >= 0
}

func parseTimes(s string) (timeSpan, bool) {
	if clock, ok := parseClock(s); ok {
		return timeSpan{start: clock, count: 1}, true
	}
	s, count, ok := cutCount(s)
	if !ok {
		return timeSpan{}, false
	}
	at := strings.IndexAny(s, "-~")
	if at < 0 {
		return timeSpan{}, false
	}
	span := timeSpan{random: s[at] == '~', count: count}
	if len(s) == 1 {
		span.length = 24 * time.Hour
		return span, true
	}
	end, endOK := parseClock(s[at+1:])
	if span.start, ok = parseClock(s[:at]); !ok || !endOK {
		return timeSpan{}, false
	}
	span.length = end - span.start
	if span.length < 0 {
		span.length += 24 * time.Hour
	}
	return span, true
}

func cutCount(s string) (rest string, count int, ok bool) {
	rest, digits, found := strings.Cut(s, "/")
	if !found {
		return s, 1, true
	}
	count, err := strconv.Atoi(digits)
	return rest, count, err == nil && count >= 1 && count <= maxCount && strconv.Itoa(count) == digits
}

// parseClock reads H:MM or HH:MM, from 0:00 to 24:00.
func parseClock(s string) (time.Duration, bool) {
	hours, minutes, found := strings.Cut(s, ":")
	if !found || len(hours) < 1 || len(hours) > 2 || len(minutes) != 2 {
		return 0, false
	}
	h, err := strconv.ParseUint(hours, 10, 8)
	if err != nil {
		return 0, false
	}
	m, err := strconv.ParseUint(minutes, 10, 8)
	if err != nil || m > 59 || h > 24 || (h == 24 && m > 0) {
		return 0, false
	}
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute, true
}
