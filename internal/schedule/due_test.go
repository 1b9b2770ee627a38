package schedule

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(tb testing.TB, text string) time.Time {
	tb.Helper()
	parsed, err := time.Parse(layout, text)
	if err != nil {
		tb.Fatal(err)
	}
	return parsed
}

func TestWindow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ timer, at, start, end string }{
		{"2:00-4:00", "Mon 2017-02-06 03:00:00", "Mon 2017-02-06 02:00:00", "Mon 2017-02-06 04:00:00"},
		{"2:00-4:00", "Mon 2017-02-06 02:00:00", "Mon 2017-02-06 02:00:00", "Mon 2017-02-06 04:00:00"},
		{"2:00-4:00", "Mon 2017-02-06 04:00:00", "Tue 2017-02-07 02:00:00", "Tue 2017-02-07 04:00:00"},
		{"2:00-4:00/4", "Mon 2017-02-06 03:10:00", "Mon 2017-02-06 03:00:00", "Mon 2017-02-06 03:30:00"},
		{"22:00-2:00", "Mon 2017-02-06 01:00:00", "Sun 2017-02-05 22:00:00", "Mon 2017-02-06 02:00:00"},
		{"mon,22:00-2:00", "Mon 2017-02-06 01:00:00", "Mon 2017-02-06 22:00:00", "Tue 2017-02-07 02:00:00"},
		{"mon,22:00-2:00", "Tue 2017-02-07 01:00:00", "Mon 2017-02-06 22:00:00", "Tue 2017-02-07 02:00:00"},
		{"10:00", "Mon 2017-02-06 10:00:30", "Mon 2017-02-06 10:00:00", "Mon 2017-02-06 10:01:00"},
		{"10:00", "Mon 2017-02-06 10:01:00", "Tue 2017-02-07 10:00:00", "Tue 2017-02-07 10:01:00"},
		{"fri5,10:00-11:00", "Mon 2017-02-06 10:00:00", "Fri 2017-02-24 10:00:00", "Fri 2017-02-24 11:00:00"},
		{"2:00-4:00,3:00-6:00", "Mon 2017-02-06 03:30:00", "Mon 2017-02-06 03:00:00", "Mon 2017-02-06 06:00:00"},
	} {
		start, end := parse(t, c.timer).Window(at(t, c.at), 1)
		if start.Format(layout) != c.start || end.Format(layout) != c.end {
			t.Errorf("%s at %s: from %s to %s, want %s to %s", c.timer, c.at, start.Format(layout), end.Format(layout), c.start, c.end)
		}
	}
	if start, end := (Timer{}).Window(at(t, "Mon 2017-02-06 03:00:00"), 1); !start.IsZero() || !end.IsZero() {
		t.Errorf("no window: from %s to %s", start, end)
	}
}

// TestARandomWindowIsOpenFromItsMoment: the default, of four checks a day, opens each of
// the four at the moment that the machine's number says.
func TestARandomWindowIsOpenFromItsMoment(t *testing.T) {
	t.Parallel()
	timer := parse(t, "00:00~24:00/4")
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		now := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "now"), 0).UTC()
		start, end := timer.Window(now, seed)
		if end.Hour()%6 != 0 && end.Sub(start) != momentary || !end.After(now) || !start.Before(end) || end.Sub(start) > 6*time.Hour {
			t.Fatalf("at %s: from %s to %s", now, start, end)
		}
		if start.After(now) && timer.Next(now, seed) != start {
			t.Errorf("it opens at %s, and its moment is %s", start, timer.Next(now, seed))
		}
	})
}

func TestDue(t *testing.T) {
	t.Parallel()
	const now = "Mon 2017-02-06 12:00:00"
	released := at(t, "Sun 2017-02-05 12:00:00")
	hold := func(until, by string) Hold {
		if until == "" {
			return Hold{By: by}
		}
		return Hold{Until: at(t, until), By: by}
	}
	for name, c := range map[string]struct {
		update  Update
		at, why string
	}{
		"nothing": {Update{}, now, ""},
		"old":     {Update{MinimumAge: 24 * time.Hour, AgeBy: "refresh.minimum-age"}, now, ""},
		"young": {
			Update{MinimumAge: 7 * 24 * time.Hour, AgeBy: "refresh.minimum-age"},
			"Sun 2017-02-12 12:00:00", "it has to be 7d old (refresh.minimum-age)",
		},
		"of the future": {Update{Released: at(t, "Mon 2017-02-06 13:00:00")}, "Mon 2017-02-06 13:00:00", "it is not released before that"},
		"window":        {Update{Window: parse(t, "2:00-4:00"), WindowBy: "rule night"}, "Tue 2017-02-07 02:00:00", "its window is 2:00-4:00 (rule night)"},
		"in its window": {Update{Window: parse(t, "11:00-13:00")}, now, ""},
		"old enough in the window": {
			Update{Window: parse(t, "11:00-13:00"), MinimumAge: 24*time.Hour + 30*time.Minute},
			"Mon 2017-02-06 12:30:00", "it has to be 24h30m0s old",
		},
		"old enough after the window": {
			Update{Window: parse(t, "mon,11:00-13:00"), MinimumAge: 26 * time.Hour},
			"Mon 2017-02-13 11:00:00", "its window is mon,11:00-13:00",
		},
		"held":     {Update{Holds: []Hold{hold("Mon 2017-02-06 15:00:00", "refresh.hold")}}, "Mon 2017-02-06 15:00:00", "refresh.hold"},
		"was held": {Update{Holds: []Hold{hold("Mon 2017-02-06 12:00:00", "refresh.hold")}}, now, ""},
		"held twice": {
			Update{Holds: []Hold{hold("Mon 2017-02-06 15:00:00", "a"), hold("Mon 2017-02-06 14:00:00", "b")}},
			"Mon 2017-02-06 15:00:00", "a",
		},
		"held for ever": {
			Update{Holds: []Hold{hold("", "it failed"), hold("Mon 2017-02-06 15:00:00", "a"), hold("", "admin")}},
			"", "it failed; admin",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.update.Released.IsZero() {
				c.update.Released = released
			}
			due := c.update.Due(at(t, now))
			shown := ""
			if !due.At.IsZero() {
				shown = due.At.Format(layout)
			}
			if shown != c.at || due.Why != c.why {
				t.Errorf("due %q, %q; want %q, %q", shown, due.Why, c.at, c.why)
			}
		})
	}
}

// TestDueIsTheFirstMomentThatIsRight compares it with a look at many moments: what it
// gives satisfies everything, and none before it does.
func TestDueIsTheFirstMomentThatIsRight(t *testing.T) {
	t.Parallel()
	now := at(t, "Mon 2017-02-06 12:00:00")
	var windows []Timer
	for _, text := range []string{"2:00-4:00", "tue,thu,22:00-1:00", "10:00", "9:00~17:00/3", "-", "0:00-1:00,,fri,12:00-13:00"} {
		windows = append(windows, parse(t, text))
	}
	rapid.Check(t, func(t *rapid.T) {
		minutes := func(label string, from, to int) time.Duration {
			return time.Duration(rapid.IntRange(from, to).Draw(t, label)) * time.Minute
		}
		u := Update{
			Released: now.Add(-minutes("released", -100, 3000)), MinimumAge: minutes("age", 0, 4000), Seed: rapid.Uint64().Draw(t, "seed"),
		}
		if rapid.Bool().Draw(t, "windowed") {
			u.Window = rapid.SampledFrom(windows).Draw(t, "window")
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "holds") {
			u.Holds = append(u.Holds, Hold{Until: now.Add(minutes(fmt.Sprint("hold", i), -100, 3000)), By: "x"})
		}
		right := func(at time.Time) bool {
			start, _ := u.Window.Window(at, u.Seed)
			held := slices.ContainsFunc(u.Holds, func(h Hold) bool { return h.Until.After(at) })
			return !at.Before(u.Released.Add(u.MinimumAge)) && !held && (u.Window.IsZero() || !start.After(at))
		}
		due := u.Due(now)
		if due.At.Before(now) || !right(due.At) || (due.Why == "") != due.At.Equal(now) {
			t.Fatalf("due %+v", due)
		}
		for before := now; before.Before(due.At); before = before.Add(11 * time.Minute) {
			if right(before) {
				t.Fatalf("due at %s, and it could begin at %s", due.At, before)
			}
		}
		if again := u.Due(due.At); !again.Now(due.At) {
			t.Errorf("asked again at %s: %+v", due.At, again)
		}
	})
}
