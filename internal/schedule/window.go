package schedule

import "time"

// momentary is how long a window is open that is a single time of day: what is to
// begin at ten may come a moment after ten.
const momentary = time.Minute

// Window is the time in which something may begin that a timer string is the window
// of: each piece of a span is open from its moment to its end, so that a randomized
// one opens at random. It gives the window that is open at a time, or the next one,
// from start to end; both are zero if there is none.
func (t Timer) Window(at time.Time, seed uint64) (start, end time.Time) {
	first := dateOf(at).add(-lookBack)
	for day := first; !first.add(2 * lookBack).before(day); day = day.add(1) {
		for i := range t.events {
			from, to := t.events[i].open(day, at, seed)
			if !from.IsZero() && to.After(end) {
				start, end = from, to
			}
		}
	}
	if !start.IsZero() {
		return start, end
	}
	next := t.Next(at, seed)
	if next.IsZero() {
		return next, next
	}
	return t.Window(next, seed)
}

// open is the piece of those that belong to day that is open at a time, the longest.
func (e *event) open(day date, at time.Time, seed uint64) (start, end time.Time) {
	if !e.on(day) {
		return start, end
	}
	for i := range e.times {
		s := &e.times[i]
		for piece := range s.count {
			from := s.moment(day, piece, at.Location(), seed)
			to := time.Date(day.year, day.month, day.day, 0, 0, s.boundary(piece+1), 0, at.Location())
			if least := from.Add(momentary); to.Before(least) {
				to = least
			}
			if !from.After(at) && to.After(at) && to.After(end) {
				start, end = from, to
			}
		}
	}
	return start, end
}
