package source_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tenure"
	"tenure/internal/source"
)

func TestParseChannel(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]source.Channel{
		"stable": "latest/stable", "edge/fix-17": "latest/edge/fix-17", "2.0": "2.0/stable", "2.0/beta": "2.0/beta",
		"2.0/beta/x": "2.0/beta/x", "latest/edge": "latest/edge",
		"": "", "/": "", "a/b": "", "2.0/fix": "", "2.0/beta/": "", "a/edge/b/c": "", "a b": "", "../edge": "", "edge/-x": "", "stable/edge/x/y": "",
	} {
		got, err := source.ParseChannel(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, c := range []struct{ from, to, want string }{
		{"latest/stable", "edge", "latest/edge"},
		{"2.0/stable", "edge", "2.0/edge"},
		{"2.0/stable", "edge/fix", "2.0/edge/fix"},
		{"2.0/stable", "3.0", "3.0/stable"},
		{"2.0/stable", "latest/edge", "latest/edge"},
		{"", "edge", "latest/edge"},
	} {
		if got, err := source.Channel(c.from).Switch(c.to); string(got) != c.want || err != nil {
			t.Errorf("%s, switched to %s: %s, %v", c.from, c.to, got, err)
		}
	}
}

func numbers(line source.Line) []int {
	found := []int{}
	for i := range line {
		found = append(found, line[i].Revision.Number())
	}
	return found
}

func TestFollow(t *testing.T) {
	t.Parallel()
	release := func(number, day int, channels ...source.Channel) source.Release {
		return source.Release{Revision: tenure.SourceRevision(number), Released: time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC), Channels: channels}
	}
	releases := []source.Release{
		release(5, 9, "latest/stable"), // Taken back to, after 7.
		release(3, 1, "latest/stable", "latest/edge"), release(7, 5, "latest/stable"), release(6, 5, "latest/stable"),
		release(9, 3, "latest/edge/fix"), release(8, 2, "2.0/candidate"),
	}
	for channel, want := range map[source.Channel][]int{
		"latest/stable": {3, 6, 7, 5}, "latest/candidate": {3, 6, 7, 5}, "latest/edge": {3}, "latest/edge/fix": {9}, "latest/edge/other": {3},
		"2.0/edge": {8}, "2.0/stable": {}, "3.0/edge": {}, "": {},
	} {
		if diff := cmp.Diff(want, numbers(source.Follow(releases, channel))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", channel, diff)
		}
	}
	line := source.Follow(releases, "latest/stable")
	for current, want := range map[int][]int{3: {6, 7, 5}, 7: {5}, 5: {}, 42: {3, 6, 7, 5}} {
		if diff := cmp.Diff(want, numbers(line.After(tenure.SourceRevision(current)))); diff != "" {
			t.Errorf("after %d (-want +got):\n%s", current, diff)
		}
	}
	channels := source.Channels(releases)
	if want := []source.Channel{"2.0/candidate", "latest/stable", "latest/edge", "latest/edge/fix"}; !slices.Equal(channels, want) {
		t.Errorf("channels: %v", channels)
	}
}

// TestFollowingComesToAnEnd: whoever goes on until nothing comes after is at the last of
// the line, whatever is released to where, and goes nowhere twice.
func TestFollowingComesToAnEnd(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		channel := rapid.SampledFrom([]source.Channel{"latest/stable", "latest/beta", "latest/edge", "latest/edge/x"})
		numbers := rapid.SliceOfNDistinct(rapid.IntRange(1, 20), 0, 10, rapid.ID).Draw(t, "numbers")
		var releases []source.Release
		for _, n := range numbers {
			releases = append(releases, source.Release{
				Revision: tenure.SourceRevision(n), Released: time.Unix(rapid.Int64Range(0, 5).Draw(t, "released"), 0),
				Channels: rapid.SliceOfNDistinct(channel, 1, 3, rapid.ID).Draw(t, "channels"),
			})
		}
		line := source.Follow(releases, channel.Draw(t, "followed"))
		current, steps := tenure.SourceRevision(rapid.IntRange(1, 20).Draw(t, "current")), 0
		for after := line.After(current); len(after) > 0; after = line.After(current) {
			current = after[rapid.IntRange(0, len(after)-1).Draw(t, "choice")].Revision
			if steps++; steps > len(line) {
				t.Fatalf("%d steps in %v", steps, line)
			}
		}
		if len(line) > 0 && current != line[len(line)-1].Revision {
			t.Errorf("ended at %s in %v", current, line)
		}
	})
}
