package schedule

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const layout = "Mon 2006-01-02 15:04:05"

func parse(tb testing.TB, s string) Timer {
	tb.Helper()
	timer, err := ParseTimer(s)
	if err != nil {
		tb.Fatal(err)
	}
	return timer
}

// TestNext lists the moments that follow a time. February 2017 starts on a
// Wednesday, its first Monday is the 6th, its last the 27th.
func TestNext(t *testing.T) {
	t.Parallel()
	tests := []struct {
		timer, after string
		want         []string
	}{
		{"10:00", "Mon 2017-02-06 09:59:59", []string{"Mon 2017-02-06 10:00:00", "Tue 2017-02-07 10:00:00"}},
		{"10:00", "Mon 2017-02-06 10:00:00", []string{"Tue 2017-02-07 10:00:00"}},
		{"mon,10:00,,fri,15:00", "Mon 2017-02-06 11:00:00", []string{"Fri 2017-02-10 15:00:00", "Mon 2017-02-13 10:00:00"}},
		{"mon,fri,10:00,15:00", "Mon 2017-02-06 11:00:00", []string{"Mon 2017-02-06 15:00:00", "Fri 2017-02-10 10:00:00", "Fri 2017-02-10 15:00:00"}},
		{"mon-wed,fri,9:00-11:00/2", "Tue 2017-02-07 09:00:00", []string{
			"Tue 2017-02-07 10:00:00", "Wed 2017-02-08 09:00:00", "Wed 2017-02-08 10:00:00", "Fri 2017-02-10 09:00:00",
		}},
		{"fri-mon,0:30", "Thu 2017-02-09 00:30:00", []string{
			"Fri 2017-02-10 00:30:00", "Sat 2017-02-11 00:30:00", "Sun 2017-02-12 00:30:00", "Mon 2017-02-13 00:30:00", "Fri 2017-02-17 00:30:00",
		}},
		{"mon-mon,1:00", "Sun 2017-02-05 00:00:00", []string{"Mon 2017-02-06 01:00:00", "Mon 2017-02-13 01:00:00"}},
		{"mon", "Sun 2017-02-05 12:00:00", []string{"Mon 2017-02-06 00:00:00", "Mon 2017-02-13 00:00:00"}},
		{"mon,,wed", "Sun 2017-02-05 12:00:00", []string{"Mon 2017-02-06 00:00:00", "Wed 2017-02-08 00:00:00"}},
		{"mon1,10:00", "Mon 2017-02-06 11:00:00", []string{"Mon 2017-03-06 10:00:00"}},
		{"mon2,10:00", "Mon 2017-02-06 11:00:00", []string{"Mon 2017-02-13 10:00:00"}},
		{"mon5,10:00", "Mon 2017-02-06 11:00:00", []string{"Mon 2017-02-27 10:00:00", "Mon 2017-03-27 10:00:00"}},
		{"fri5,10:00", "Wed 2017-03-01 00:00:00", []string{"Fri 2017-03-31 10:00:00", "Fri 2017-04-28 10:00:00"}},
		{"mon1-wed,10:00", "Sun 2017-02-05 10:00:00", []string{
			"Mon 2017-02-06 10:00:00", "Tue 2017-02-07 10:00:00", "Wed 2017-02-08 10:00:00", "Mon 2017-03-06 10:00:00",
		}},
		{"mon1-tue2,10:00", "Mon 2017-02-06 10:00:00", []string{"Tue 2017-02-07 10:00:00", "Mon 2017-03-06 10:00:00"}},
		{"mon1-fri2,10:00", "Thu 2017-02-09 10:00:00", []string{"Fri 2017-02-10 10:00:00", "Mon 2017-03-06 10:00:00"}},
		// The first Wednesday of February is its first day: the days before it
		// are January's.
		{"mon-wed1,10:00", "Sun 2017-01-29 10:00:00", []string{
			"Mon 2017-01-30 10:00:00", "Tue 2017-01-31 10:00:00", "Wed 2017-02-01 10:00:00", "Mon 2017-02-27 10:00:00", "Tue 2017-02-28 10:00:00", "Wed 2017-03-01 10:00:00",
		}},
		{"fri5-mon,10:00", "Thu 2017-03-30 10:00:00", []string{
			"Fri 2017-03-31 10:00:00", "Sat 2017-04-01 10:00:00", "Sun 2017-04-02 10:00:00", "Mon 2017-04-03 10:00:00", "Fri 2017-04-28 10:00:00",
		}},
		{"mon1-mon,10:00", "Sun 2017-02-12 10:00:00", []string{"Mon 2017-02-13 10:00:00", "Mon 2017-03-06 10:00:00"}},
		{"mon1-mon1,10:00", "Sun 2017-02-12 10:00:00", []string{"Mon 2017-03-06 10:00:00"}},
		{"00:00-24:00/24", "Mon 2017-02-06 22:30:00", []string{"Mon 2017-02-06 23:00:00", "Tue 2017-02-07 00:00:00", "Tue 2017-02-07 01:00:00"}},
		{"00:00-24:00/96", "Mon 2017-02-06 22:30:00", []string{"Mon 2017-02-06 22:45:00", "Mon 2017-02-06 23:00:00"}},
		{"-/2", "Mon 2017-02-06 00:00:00", []string{"Mon 2017-02-06 12:00:00", "Tue 2017-02-07 00:00:00"}},
		{"mon,23:00-1:00/2", "Mon 2017-02-06 23:00:00", []string{"Tue 2017-02-07 00:00:00", "Mon 2017-02-13 23:00:00"}},
		{"sun,24:00", "Sun 2017-02-05 23:00:00", []string{"Mon 2017-02-06 00:00:00", "Mon 2017-02-13 00:00:00"}},
		{"10:00-10:01/1440", "Mon 2017-02-06 10:00:58", []string{"Mon 2017-02-06 10:00:59", "Tue 2017-02-07 10:00:00"}},
		{"9:00~9:00", "Mon 2017-02-06 10:00:58", []string{"Tue 2017-02-07 09:00:00"}},
	}
	for _, test := range tests {
		t.Run(test.timer, func(t *testing.T) {
			t.Parallel()
			after, err := time.Parse(layout, test.after)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for range test.want {
				after = parse(t, test.timer).Next(after, 1)
				got = append(got, after.Format(layout))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNextWhenClocksAreSet: in Berlin 2:30 does not exist on 2024-03-31 and
// exists twice on 2024-10-27.
func TestNextWhenClocksAreSet(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		timer string
		after time.Time
		want  []string
	}{
		{"2:30", time.Date(2024, 3, 30, 12, 0, 0, 0, berlin), []string{"2024-03-31T03:30:00+02:00", "2024-04-01T02:30:00+02:00"}},
		{"2:30", time.Date(2024, 10, 26, 12, 0, 0, 0, berlin), []string{"2024-10-27T02:30:00+01:00", "2024-10-28T02:30:00+01:00"}},
		{"0:00-4:00/4", time.Date(2024, 3, 31, 0, 0, 0, 0, berlin), []string{
			"2024-03-31T01:00:00+01:00", "2024-03-31T03:00:00+02:00", "2024-04-01T00:00:00+02:00",
		}},
		{"12:00", time.Date(2024, 3, 30, 12, 0, 0, 0, berlin), []string{"2024-03-31T12:00:00+02:00"}},
	}
	for _, test := range tests {
		var got []string
		at := test.after
		for range test.want {
			at = parse(t, test.timer).Next(at, 1)
			got = append(got, at.Format(time.RFC3339))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s after %s: %s", test.timer, test.after, diff)
		}
	}
}

func TestSeedsSpreadMachines(t *testing.T) {
	t.Parallel()
	timer := parse(t, "mon,9:00~11:00")
	after := time.Date(2017, 2, 6, 0, 0, 0, 0, time.UTC)
	quarters := make([]int, 8)
	for seed := range uint64(800) {
		moment := timer.Next(after, seed)
		if again := timer.Next(after, seed); !again.Equal(moment) {
			t.Fatalf("seed %d: %v, then %v", seed, moment, again)
		}
		quarter := int(moment.Sub(after.Add(9*time.Hour)) / (15 * time.Minute))
		if quarter < 0 || quarter >= len(quarters) {
			t.Fatalf("seed %d: %v is outside", seed, moment)
		}
		quarters[quarter]++
	}
	for quarter, count := range quarters {
		if count < 60 || count > 140 {
			t.Errorf("quarter %d has %d of 800 machines", quarter, count)
		}
	}
	second := timer.Next(after.AddDate(0, 0, 7), 5).Sub(after.AddDate(0, 0, 7))
	if first := timer.Next(after, 5).Sub(after); first == second {
		t.Error("the second week is not random")
	}
}

func TestParseTimerErrors(t *testing.T) {
	t.Parallel()
	const words = "days such as mon, fri5 or mon1-wed, and times such as 9:00, 9:00-11:00/2 or 22:00~24:00"
	tests := []struct{ timer, want string }{
		{"", `timer "": accepted: ` + words},
		{"25:00", `timer "25:00": accepted: ` + words},
		{"mon,9:60", `timer "mon,9:60": found "9:60"; accepted: ` + words},
		{"24:01", `timer "24:01": accepted: ` + words},
		{"mon6", `timer "mon6": accepted: ` + words},
		{"mon0", `timer "mon0": accepted: ` + words},
		{"Mon", `timer "Mon": accepted: ` + words},
		{"mon4-mon1", `timer "mon4-mon1": accepted: ` + words},
		{"mon-tue-wed", `timer "mon-tue-wed": accepted: ` + words},
		{"10:00/2", `timer "10:00/2": accepted: ` + words},
		{"9:00-11:00/0", `timer "9:00-11:00/0": accepted: ` + words},
		{"9:00-11:00/1441", `timer "9:00-11:00/1441": accepted: ` + words},
		{"9:00-11:00/+2", `timer "9:00-11:00/+2": accepted: ` + words},
		{"9:00-11:00-12:00", `timer "9:00-11:00-12:00": accepted: ` + words},
		{"10:00,mon", `timer "10:00,mon": found "mon"; accepted: days before times, and ,, before the next event`},
		{"mon,,", `timer "mon,,": found ""; accepted: ` + words},
		{strings.Repeat("mon,", 65), `timer "` + strings.Repeat("mon,", 64) + `…": accepted: at most 256 characters`},
	}
	for _, test := range tests {
		timer, err := ParseTimer(test.timer)
		if err == nil || !timer.IsZero() {
			t.Errorf("%q is accepted", test.timer)
			continue
		}
		if _, ok := errors.AsType[*Error](err); !ok {
			t.Errorf("%q: a %T", test.timer, err)
		}
		if diff := cmp.Diff(test.want, err.Error()); diff != "" {
			t.Errorf("%q: %s", test.timer, diff)
		}
	}
}

func TestTimerSurvivesJSON(t *testing.T) {
	t.Parallel()
	now := time.Date(2017, 2, 6, 0, 0, 0, 0, time.UTC)
	for _, text := range []string{"", "mon,10:00~12:00/3,,fri5"} {
		var before, after Timer
		if err := before.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(before)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &after); err != nil {
			t.Fatal(err)
		}
		if after.String() != text || !after.Next(now, 3).Equal(before.Next(now, 3)) || after.IsZero() != (text == "") {
			t.Errorf("%q became %q", text, after)
		}
	}
	var timer Timer
	if err := json.Unmarshal([]byte(`"noon"`), &timer); err == nil {
		t.Error("noon is accepted")
	}
	if next := (Timer{}).Next(now, 0); !next.IsZero() {
		t.Errorf("no timer has the moment %v", next)
	}
}

// drawTimer makes timers of every form.
func drawTimer(t *rapid.T) string {
	day := rapid.StringMatching(`(mon|tue|wed|thu|fri|sat|sun)[1-5]?`)
	clock := rapid.StringMatching(`([01][0-9]|2[0-3]|[0-9]):[0-5][0-9]|24:00`)
	var events []string
	for range rapid.IntRange(1, 3).Draw(t, "events") {
		parts := rapid.SliceOfN(rapid.OneOf(day, rapid.StringMatching(`(mon|wed|sun)[1-5]?-(tue|wed|sat)`), rapid.StringMatching(`(fri|sun)-(mon|wed|sun)[1-5]`)), 0, 2).Draw(t, "days")
		for range rapid.IntRange(min(1, 1-len(parts)), 2).Draw(t, "times") {
			part := clock.Draw(t, "start")
			if rapid.Bool().Draw(t, "span") {
				part += rapid.StringMatching(`[-~]`).Draw(t, "kind") + clock.Draw(t, "end") + rapid.StringMatching(`(/[1-9][0-9]?)?`).Draw(t, "count")
			}
			parts = append(parts, part)
		}
		events = append(events, strings.Join(parts, ","))
	}
	return strings.Join(events, ",,")
}

// TestNextProperty: moments follow each other strictly, every one is found from
// any time before it, and each is one of those that a plain listing of days and
// pieces gives.
func TestNextProperty(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := drawTimer(t)
		timer, err := ParseTimer(text)
		if err != nil {
			t.Fatal(err)
		}
		location := rapid.SampledFrom([]*time.Location{time.UTC, berlin}).Draw(t, "location")
		after := time.Unix(rapid.Int64Range(1.4e9, 1.9e9).Draw(t, "after"), 0).In(location)
		seed := rapid.Uint64().Draw(t, "seed")
		next := timer.Next(after, seed)
		if want := listed(timer, after, seed); !next.Equal(want) {
			t.Fatalf("%s after %v: got %v, listed %v", text, after, next, want)
		}
		between := after.Add(time.Duration(rapid.Int64Range(0, int64(next.Sub(after))-1).Draw(t, "between")))
		if again := timer.Next(between, seed); !again.Equal(next) {
			t.Fatalf("%s: from %v it is %v, from %v it is %v", text, after, next, between, again)
		}
	})
}

// listed is Next the slow way: all moments of all pieces of seventy days.
func listed(timer Timer, after time.Time, seed uint64) time.Time {
	var first time.Time
	for offset := -4; offset < 70; offset++ {
		day := dateOf(after.AddDate(0, 0, offset))
		for _, e := range timer.events {
			for _, span := range e.times {
				for piece := range span.count {
					moment := span.moment(day, piece, after.Location(), seed)
					if e.on(day) && moment.After(after) && (first.IsZero() || moment.Before(first)) {
						first = moment
					}
				}
			}
		}
	}
	return first
}

// TestMomentsAreInside: the moment of a piece is in the piece, by the wall.
func TestMomentsAreInside(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		span := timeSpan{
			start:  time.Duration(rapid.IntRange(0, 24*60).Draw(t, "start")) * time.Minute,
			length: time.Duration(rapid.IntRange(0, 24*60).Draw(t, "length")) * time.Minute,
			count:  rapid.IntRange(1, maxCount).Draw(t, "count"),
			random: rapid.Bool().Draw(t, "random"),
		}
		day := date{2024, time.May, rapid.IntRange(1, 31).Draw(t, "day")}
		piece := rapid.IntRange(0, span.count-1).Draw(t, "piece")
		midnight := time.Date(day.year, day.month, day.day, 0, 0, 0, 0, time.UTC)
		at := span.moment(day, piece, time.UTC, rapid.Uint64().Draw(t, "seed")).Sub(midnight)
		width := span.length / time.Duration(span.count)
		start := span.start + width*time.Duration(piece)
		if at < start-time.Second || at > start+width+time.Second || at < span.start || at > span.start+span.length {
			t.Fatalf("%v is not within %v of %v", at, width, start)
		}
		if !span.random && at-start > time.Second {
			t.Fatalf("%v is not the start %v", at, start)
		}
	})
}

// FuzzTimer: what is accepted reads back, and has moments that rise.
func FuzzTimer(f *testing.F) {
	for _, timer := range []string{
		"mon,10:00,,fri,15:00", "00:00-24:00/24", "mon1-fri2", "mon-wed1,9:00~11:00/2", "~/1440", "-", "fri5,24:00~24:00",
		"23:59~23:58/3,,sun1-sun,0:00",
	} {
		f.Add(timer, int64(1.7e9), uint64(1))
	}
	f.Fuzz(func(t *testing.T, text string, unix int64, seed uint64) {
		timer, err := ParseTimer(text)
		if err != nil {
			return
		}
		again := parse(t, timer.String())
		after := time.Unix(unix%4e9, 0).UTC()
		for range 3 {
			next := timer.Next(after, seed)
			if !next.After(after) || next.Sub(after) > lookMonths*24*time.Hour {
				t.Fatalf("%q: %v follows %v", text, next, after)
			}
			if other := again.Next(after, seed); !other.Equal(next) {
				t.Fatalf("%q: %v and, read again, %v", text, next, other)
			}
			if !inside(timer, next) {
				t.Fatalf("%q: %v is no moment of it", text, next)
			}
			after = next
		}
	})
}

// inside reports whether the time at lies in a span of timer that belongs to
// its day or the two before.
func inside(timer Timer, at time.Time) bool {
	for back := range 3 {
		day := dateOf(at).add(-back)
		wall := at.Sub(time.Date(day.year, day.month, day.day, 0, 0, 0, 0, at.Location()))
		for _, e := range timer.events {
			for _, span := range e.times {
				if e.on(day) && span.start <= wall && wall <= span.start+span.length {
					return true
				}
			}
		}
	}
	return false
}
