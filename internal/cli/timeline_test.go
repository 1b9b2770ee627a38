package cli

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"

	"tenure/client"
)

// hostile is what a package, or a process of it, may call itself.
const hostile = "\x1b[2J\x9b31m</text><script>alert(1)</script>]]>&\u202e\xff\x00\n$(reboot) \"'"

func hostileTimeline() *client.Timeline {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	rule := client.TimelineRule{Source: "package", Name: hostile, Text: hostile}
	process := client.TimelineProcess{PID: 7}
	return &client.Timeline{
		Since: at, Until: at.Add(time.Minute),
		Units: []client.TimelineUnit{
			{
				Unit: "virt.virtd/vm.7", Snap: "virt", Kind: "workload",
				Bars: []client.TimelineBar{
					{Revision: "x1", From: at, Ready: at, To: at.Add(20 * time.Second), Main: &process, Command: hostile, Exit: &client.TimelineExit{Known: true, Code: 1, Text: hostile}, Cause: "exit"},
					{Revision: "x2", From: at.Add(30 * time.Second), Ready: at.Add(40 * time.Second), Parent: hostile},
				},
				Events: []client.TimelineEvent{{Time: at.Add(10 * time.Second), Kind: "signal", Signal: "SIGTERM", Processes: []client.TimelineProcess{process}, Command: hostile, Rule: &rule, Verdict: "stop"}},
			},
			{Snap: hostile, Kind: "stray", Events: []client.TimelineEvent{{Time: at, Kind: "signal", Signal: "SIGKILL", Processes: []client.TimelineProcess{process}, Command: hostile, Rule: &rule}}},
		},
		Changes: []client.TimelineChange{{ID: "1", Summary: hostile, Status: "Error", Err: hostile, Spawned: at, ReadyAt: at, Verdicts: []client.TimelineVerdict{{Unit: hostile, Revision: hostile, Verdict: "stop", Rule: rule}}}},
	}
}

func TestTimelineTextIsPlain(t *testing.T) {
	t.Parallel()
	for _, width := range []int{1, 20, 80, 400} {
		text := timelineText(hostileTimeline(), width, false)
		for _, r := range text {
			if r != '\n' && !unicode.IsGraphic(r) {
				t.Errorf("%U is in the text for %d columns", r, width)
			}
		}
		if !strings.Contains(text, "$(reboot)") {
			t.Errorf("for %d columns the story is missing", width)
		}
	}
	coloured := timelineText(hostileTimeline(), 80, true)
	if !strings.Contains(coloured, "\x1b[30;46m") || !strings.Contains(coloured, "\x1b[30;43m") || strings.Contains(coloured, "\x1b[2J") {
		t.Errorf("the colours are %q", coloured)
	}
	// What is coloured is as wide as what is not.
	plainRow := strings.Split(timelineText(hostileTimeline(), 80, false), "\n")[1]
	colours := strings.NewReplacer("\x1b[0m", "", "\x1b[30;46m", "", "\x1b[30;43m", "")
	if row := strings.TrimRight(colours.Replace(strings.Split(coloured, "\n")[1]), " "); row != plainRow {
		t.Errorf("rows %q and %q", row, plainRow)
	}
}

func TestTimelineImageHasNoMarkupOfOthers(t *testing.T) {
	t.Parallel()
	image := timelineSVG(hostileTimeline())
	known := map[string]bool{"svg": true, "title": true, "rect": true, "text": true, "line": true, "path": true}
	for decoder := xml.NewDecoder(strings.NewReader(image)); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v in %s", err, image)
		}
		if element, ok := token.(xml.StartElement); ok && !known[element.Name.Local] {
			t.Errorf("there is a %s", element.Name.Local)
		}
	}
}

func TestSinceWhen(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 20, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "90s": now.Add(-90 * time.Second), "1h30m": now.Add(-90 * time.Minute), "7d": now.AddDate(0, 0, -7),
		"2026-01-02T03:04:05Z": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"2026-01-02":           time.Date(2026, 1, 2, 0, 0, 0, 0, time.Local), //nolint:gosmopolitan // As people mean it.
	} {
		if got, err := sinceWhen(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-2h", "7w", "99999999d", "2026-13-01"} {
		if got, err := sinceWhen(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}
