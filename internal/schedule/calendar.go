package schedule

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Calendar is a timer in the words of systemd: the moments are those of calendar events
// (systemd.time(7)), each later by a random time of at most Delay. On days on which the clock is set
// it is systemd that says when a time of day is that there is not, or is twice.
type Calendar struct {
	Events []string
	Delay  time.Duration
}

// maxEvents bounds the events of a Calendar.
const maxEvents = 512

// daySeconds is the length of a day by the clock on the wall.
const daySeconds = 24 * 60 * 60

// Calendar says a timer in the words of systemd. It reports false for what they have no words for: days of
// a week that is tied to a month and reaches out of it ("fri5-mon", "mon-wed1"), spans of different
// lengths at random, or at random and not, and what takes too many words.
func (t Timer) Calendar() (c Calendar, ok bool) {
	width, ok := t.width()
	if !ok || t.IsZero() {
		return Calendar{}, false
	}
	for i := range t.events {
		events, ok := t.events[i].calendar()
		if !ok || len(c.Events)+len(events) > maxEvents {
			return Calendar{}, false
		}
		c.Events = append(c.Events, events...)
	}
	if width > 1 {
		c.Delay = time.Duration(width-1) * time.Second // The end is not in the span.
	}
	return c, true
}

// width is the length of all pieces, in seconds, where their moments are at random; 0 where they are
// not. It reports false if they differ.
func (t Timer) width() (width int, ok bool) {
	width = -1
	for _, e := range t.events {
		for _, s := range e.times {
			for piece := range s.count {
				this := 0
				if s.random {
					this = s.boundary(piece+1) - s.boundary(piece)
				}
				if width >= 0 && this != width {
					return 0, false
				}
				width = this
			}
		}
	}
	return width, true
}

// clock is a minute and a second of an hour.
type clock struct{ minute, second int }

// calendar is an event in the words of systemd.
func (e *event) calendar() (events []string, ok bool) {
	// The hours of each clock, by how many days after the event's own they are.
	var byDay [lookAhead]map[clock][]int
	for i := range e.times {
		s := &e.times[i]
		for piece := range s.count {
			at := s.boundary(piece)
			day, rest := at/daySeconds, at%daySeconds
			if byDay[day] == nil {
				byDay[day] = make(map[clock][]int)
			}
			c := clock{rest / 60 % 60, rest % 60}
			if hour := rest / 3600; !slices.Contains(byDay[day][c], hour) {
				byDay[day][c] = append(byDay[day][c], hour)
			}
		}
	}
	for later, clocks := range byDay {
		if len(clocks) == 0 {
			continue
		}
		days, ok := e.calendarDays(later)
		if !ok {
			return nil, false
		}
		for _, c := range slices.SortedFunc(maps.Keys(clocks), func(a, b clock) int { return (a.minute-b.minute)*60 + a.second - b.second }) {
			hours := clocks[c]
			slices.Sort(hours)
			for _, day := range days {
				events = append(events, fmt.Sprintf("%s %s:%02d:%02d", day, list(hours), c.minute, c.second))
			}
		}
	}
	return events, len(events) <= maxEvents
}

func list(numbers []int) string {
	words := make([]string, len(numbers))
	for i, n := range numbers {
		words[i] = fmt.Sprintf("%02d", n)
	}
	return strings.Join(words, ",")
}

// calendarDays are the days of an event, or those that are later by some.
func (e *event) calendarDays(later int) (days []string, ok bool) {
	if len(e.days) == 0 {
		return []string{"*-*-*"}, true
	}
	for _, span := range e.days {
		if span.fromNth == 0 && span.toNth == 0 {
			var names []string
			for k := range daysUntil(span.from, span.to) + 1 {
				names = append(names, shortName(span.from, k+later))
			}
			days = append(days, strings.Join(names, ",")+" *-*-*")
			continue
		}
		tied, ok := span.tied(later)
		if !ok {
			return nil, false
		}
		days = append(days, tied...)
	}
	return days, true
}

// tied are the days of a span that is tied to the month, or those that are later by some.
func (s daySpan) tied(later int) (days []string, ok bool) {
	length := daysUntil(s.from, s.to)
	if s.from == s.to && s.fromNth != s.toNth {
		length = 7
	}
	nth, first, base := s.fromNth, 0, s.from
	if nth == 0 {
		nth, first, base = s.toNth, -length, s.to
	}
	for offset := first; offset <= first+length; offset++ {
		by := offset + later
		dates, ok := weekOf(nth, by)
		if !ok {
			return nil, false
		}
		days = append(days, shortName(base, by)+" *-*"+dates)
	}
	return days, true
}

// weekOf are the dates that a day can have which is some days after the nth of its name in a month; it
// reports false if they are not all within every month.
func weekOf(nth, by int) (dates string, ok bool) {
	const last, shortest = 5, 28
	if nth == last {
		var fromEnd []string
		for n := 7; n >= 1; n-- {
			fromEnd = append(fromEnd, strconv.Itoa(n-by))
		}
		return "~" + strings.Join(fromEnd, ","), by <= 0
	}
	low := 7*(nth-1) + 1 + by
	return fmt.Sprintf("-%02d..%02d", low, low+6), low >= 1 && low+6 <= shortest
}

func shortName(day time.Weekday, by int) string {
	return time.Weekday((int(day) + by + 14) % 7).String()[:3]
}
