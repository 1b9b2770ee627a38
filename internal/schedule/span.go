package schedule

import "time"

// date is a day of the calendar, of no place.
type date struct {
	year  int
	month time.Month
	day   int
}

func dateOf(t time.Time) date {
	year, month, day := t.Date()
	return date{year, month, day}
}

// utc is noon of the day where no clock is ever set, for counting days.
func (d date) utc() time.Time { return time.Date(d.year, d.month, d.day, 12, 0, 0, 0, time.UTC) }

func (d date) add(days int) date { return dateOf(d.utc().AddDate(0, 0, days)) }

func (d date) before(other date) bool { return d.utc().Before(other.utc()) }

func (d date) weekday() time.Weekday { return d.utc().Weekday() }

// nth is the nth day of that name in the month that is offset months from d's;
// the fifth is the last, even where there are four.
func (d date) nth(nth int, name time.Weekday, offset int) date {
	first := dateOf(time.Date(d.year, d.month+time.Month(offset), 1, 12, 0, 0, 0, time.UTC))
	day := first.add(daysUntil(first.weekday(), name) + 7*(nth-1))
	if day.month != first.month {
		return day.add(-7)
	}
	return day
}

// daysUntil is how many days after a day called from the next one called to is.
func daysUntil(from, to time.Weekday) int { return (int(to) - int(from) + 7) % 7 }

// daySpan is the days between two of a week, at most one of which is tied to
// the month; both are, and are the same, for a single day that is.
type daySpan struct {
	from, to       time.Weekday
	fromNth, toNth int // 1 to 5, 0 for every week.
}

func (s daySpan) has(d date) bool {
	length := daysUntil(s.from, s.to)
	if s.fromNth == 0 && s.toNth == 0 {
		return daysUntil(s.from, d.weekday()) <= length
	}
	if s.from == s.to && s.fromNth != s.toNth {
		length = 7 // From one Monday to the next.
	}
	// A span that is tied to one month may reach into its neighbour.
	for offset := -1; offset <= 1; offset++ {
		start := d.nth(s.fromNth, s.from, offset)
		if s.fromNth == 0 {
			start = d.nth(s.toNth, s.to, offset).add(-length)
		}
		if !d.before(start) && !start.add(length).before(d) {
			return true
		}
	}
	return false
}

// timeSpan is a part of a day, in count equal pieces with a moment each.
type timeSpan struct {
	start  time.Duration // Since midnight, by the clock on the wall.
	length time.Duration // At most a day; it may reach into the next one.
	count  int
	random bool
}

// next is the first moment after the time after among those of day's pieces.
func (s *timeSpan) next(day date, after time.Time, seed uint64) time.Time {
	var next time.Time
	for piece := range s.count {
		moment := s.moment(day, piece, after.Location(), seed)
		if moment.After(after) && (next.IsZero() || moment.Before(next)) {
			next = moment
		}
	}
	return next
}

// moment is to the second, as are the clocks that people compare it with.
func (s *timeSpan) moment(day date, piece int, location *time.Location, seed uint64) time.Time {
	start := s.boundary(piece)
	if width := s.boundary(piece+1) - start; s.random && width > 0 {
		start += int(mix(seed, uint64(day.utc().Unix()), uint64(start)) % uint64(width)) //nolint:gosec // A remainder of seconds in a day.
	}
	return time.Date(day.year, day.month, day.day, 0, 0, start, 0, location)
}

// boundary is where a piece starts, in seconds since midnight.
func (s *timeSpan) boundary(piece int) int {
	return int((s.start + s.length*time.Duration(piece)/time.Duration(s.count)) / time.Second)
}

// mix spreads its input over all numbers (the finalizer of SplitMix64, by
// Sebastiano Vigna, in the public domain).
func mix(values ...uint64) uint64 {
	var sum uint64
	for _, value := range values {
		sum += value + 0x9e3779b97f4a7c15
		sum = (sum ^ sum>>30) * 0xbf58476d1ce4e5b9
		sum = (sum ^ sum>>27) * 0x94d049bb133111eb
		sum ^= sum >> 31
	}
	return sum
}
