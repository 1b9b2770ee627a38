package schedule

import (
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestCalendarIsTheTimer asks systemd for the moments of what is said in its words: they are
// those of the timer.
func TestCalendarIsTheTimer(t *testing.T) {
	t.Parallel()
	const moments = 24
	for _, text := range []string{
		"mon,10:00,,fri,15:00", "mon-wed,fri,9:00-11:00/2", "fri-mon,0:30", "mon", "mon,,wed", "10:00", "-/5",
		"mon1,10:00", "mon3,10:00", "mon5,10:00", "fri5,23:00~23:00", "mon1-wed,10:00", "mon1-tue2,10:00", "mon1-mon,10:00",
		"wed-mon3,10:00", "mon2-mon,22:00", "tue-fri5", "00:00-24:00/24", "00:00-24:00/96", "mon,23:00-1:00/2", "sun,24:00",
		"10:00-10:01/60", "sat3,23:00-1:00/4", "10:00-12:00/7,13:00,23:59",
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			timer := parse(t, text)
			c, ok := timer.Calendar()
			if !ok || c.Delay != 0 {
				t.Fatalf("%+v, %t", c, ok)
			}
			after := time.Date(2023, 11, 27, 9, 30, 0, 0, time.UTC)
			got := elapses(t, c, after, moments)
			for at, i := after, 0; i < moments; i++ {
				at = timer.Next(at, 1)
				if want := at.Format(layout); got[i] != want {
					t.Fatalf("moment %d is %s by systemd, want %s; %v", i, got[i], want, c.Events)
				}
			}
		})
	}
}

// elapses are the first moments after a time at which any of the events elapses.
func elapses(t *testing.T, c Calendar, after time.Time, n int) (all []string) {
	t.Helper()
	args := []string{"calendar", "--iterations=" + strconv.Itoa(n), "--base-time=" + after.Format("2006-01-02 15:04:05 UTC")}
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", append(args, c.Events...)...)
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C", "PATH=/usr/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", c.Events, err, out)
	}
	var times []time.Time
	for _, match := range regexp.MustCompile(`(?m)^ *(?:Next elapse|Iter(?:ation|\.) #\d+): (.*) UTC$`).FindAllSubmatch(out, -1) {
		at, err := time.Parse(layout, string(match[1]))
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, at)
	}
	slices.SortFunc(times, time.Time.Compare)
	for _, at := range slices.Compact(times) {
		all = append(all, at.Format(layout))
	}
	if len(all) < n {
		t.Fatalf("systemd knows %d moments of %v:\n%s", len(all), c.Events, out)
	}
	return all
}

func TestCalendarOfSpansAtRandom(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Calendar{
		"mon,9:00~11:00": {[]string{"Mon *-*-* 09:00:00"}, 2*time.Hour - time.Second},
		"00:00~24:00/4":  {[]string{"*-*-* 00,06,12,18:00:00"}, 6*time.Hour - time.Second},
		"9:00~9:00":      {[]string{"*-*-* 09:00:00"}, 0},
	} {
		if c, ok := parse(t, text).Calendar(); !ok || cmp.Diff(want, c) != "" {
			t.Errorf("%s is %+v, %t, want %+v", text, c, ok, want)
		}
	}
}

func TestNoWordsForIt(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"fri5-mon,10:00", "mon-wed1,10:00", "mon4-tue,10:00", "mon5,24:00", "9:00~10:00,12:00", "9:00~10:00,12:00~14:00", "0:00-24:00/1439", "fri5,24:00",
	} {
		if c, ok := parse(t, text).Calendar(); ok {
			t.Errorf("%s is %+v", text, c)
		}
	}
	if c, ok := (Timer{}).Calendar(); ok {
		t.Errorf("no timer is %+v", c)
	}
}
