package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tenure/client"
)

// timelineText is t for a screen of a width: the bars, then the story.
func timelineText(t *client.Timeline, width int, colour bool) string {
	var out strings.Builder
	c := chart{t: t, colour: colour, revisions: revisionsOf(t)}
	for i := range t.Units {
		c.name = max(c.name, len([]rune(unitLabel(&t.Units[i]))))
	}
	c.name = min(c.name, width/2)
	c.width = max(width-c.name-2, 10)
	if len(t.Units) > 0 {
		out.WriteString(c.axis())
		for i := range t.Units {
			out.WriteString(c.row(&t.Units[i]))
		}
		out.WriteString("\n")
	}
	for _, e := range storyOf(t) {
		fmt.Fprintf(&out, "%s  %s\n", e.clock(t), e.text)
		for _, more := range e.more {
			fmt.Fprintf(&out, "%s  %s\n", strings.Repeat(" ", len(e.clock(t))), more)
		}
	}
	return out.String()
}

// revisionsOf are the revisions of each snap, in the order in which they came.
func revisionsOf(t *client.Timeline) map[string][]string {
	type first struct {
		at       time.Time
		revision string
	}
	bySnap := map[string][]first{}
	for i := range t.Units {
		u := &t.Units[i]
		for j := range u.Bars {
			bar := &u.Bars[j]
			known := slices.IndexFunc(bySnap[u.Snap], func(f first) bool { return f.revision == bar.Revision })
			switch {
			case known < 0:
				bySnap[u.Snap] = append(bySnap[u.Snap], first{bar.From, bar.Revision})
			case bar.From.Before(bySnap[u.Snap][known].at):
				bySnap[u.Snap][known].at = bar.From
			}
		}
	}
	ordered := map[string][]string{}
	for snap, all := range bySnap {
		slices.SortStableFunc(all, func(a, b first) int { return a.at.Compare(b.at) })
		for _, f := range all {
			ordered[snap] = append(ordered[snap], f.revision)
		}
	}
	return ordered
}

// chart draws bars of characters.
type chart struct {
	t         *client.Timeline
	name      int
	width     int
	colour    bool
	revisions map[string][]string
}

// column is where a time is in a bar.
func (c *chart) column(at time.Time) int {
	whole := c.t.Until.Sub(c.t.Since)
	if whole <= 0 {
		return 0
	}
	column := int(float64(at.Sub(c.t.Since)) / float64(whole) * float64(c.width))
	return min(max(column, 0), c.width-1)
}

// axis says the time at both ends of the bars.
func (c *chart) axis() string {
	from, to := clock(c.t.Since, c.t), clock(c.t.Until, c.t)
	gap := c.width - len(from) - len(to)
	if gap < 1 {
		return fmt.Sprintf("%-*s  %s\n", c.name, "", from)
	}
	return fmt.Sprintf("%-*s  %s%s%s\n", c.name, "", from, strings.Repeat(" ", gap), to)
}

// cell is one place in a bar; ink is 0 where nothing runs. A mark stays.
type cell struct {
	char   rune
	ink    int
	marked bool
}

func (c *cell) mark(char rune) { c.char, c.marked = char, true }

func (c *chart) row(u *client.TimelineUnit) string {
	cells := make([]cell, c.width)
	for i := range cells {
		cells[i].char = ' '
	}
	for i := range u.Bars {
		c.draw(cells, u, &u.Bars[i])
	}
	for i := range u.Events {
		if e := &u.Events[i]; e.Kind == "signal" {
			at := &cells[c.column(e.Time)]
			switch {
			case e.Signal == "SIGKILL" || e.Signal == "SIGABRT":
				at.mark('!')
			case at.char != '!' || !at.marked:
				at.mark('^')
			}
		}
	}
	for i := range u.Bars {
		c.end(cells, &u.Bars[i])
	}
	for i := range u.Bars {
		c.label(cells, &u.Bars[i])
	}
	return fmt.Sprintf("%-*s  %s\n", c.name, cut(unitLabel(u), c.name), c.ink(cells))
}

// span are the first and the last column of a bar.
func (c *chart) span(bar *client.TimelineBar) (from, to int) {
	if bar.To.IsZero() {
		return c.column(bar.From), c.column(c.t.Until)
	}
	return c.column(bar.From), c.column(bar.To)
}

func (c *chart) draw(cells []cell, u *client.TimelineUnit, bar *client.TimelineBar) {
	from, to := c.span(bar)
	ink := 1 + slices.Index(c.revisions[u.Snap], bar.Revision)
	for i := from; i <= to; i++ {
		cells[i] = cell{char: '=', ink: ink}
		if bar.Ready.IsZero() || i < c.column(bar.Ready) {
			cells[i].char = '-'
		}
	}
}

func (c *chart) end(cells []cell, bar *client.TimelineBar) {
	_, to := c.span(bar)
	switch {
	case bar.To.IsZero() || bar.Reloaded || bar.Became != "":
	case badly(bar):
		cells[to].mark('x')
	case !bar.Unseen && !cells[to].marked:
		cells[to].mark('|')
	}
}

// label writes the revision near the beginning of a bar, where there is room.
func (c *chart) label(cells []cell, bar *client.TimelineBar) {
	from, to := c.span(bar)
	label := []rune(plain(bar.Revision, 12))
	for at := from + 1; at+len(label) < to; at++ {
		room := cells[at : at+len(label)]
		if slices.ContainsFunc(room, func(c cell) bool { return c.marked }) {
			continue
		}
		for i, r := range label {
			room[i].char = r
		}
		return
	}
}

// ink writes cells, in the colours of their revisions.
func (c *chart) ink(cells []cell) string {
	// Cyan, yellow, green, magenta, blue, white: they differ where colours are hard to see.
	palette := []string{"46", "43", "42", "45", "44", "47"}
	var out strings.Builder
	last := 0
	for _, cell := range cells {
		if c.colour && cell.ink != last {
			out.WriteString("\x1b[0m")
			if cell.ink > 0 {
				out.WriteString("\x1b[30;" + palette[(cell.ink-1)%len(palette)] + "m")
			}
			last = cell.ink
		}
		out.WriteRune(cell.char)
	}
	if last > 0 {
		out.WriteString("\x1b[0m")
	}
	return strings.TrimRight(out.String(), " ")
}

// chapter is one thing in the story.
type chapter struct {
	at   time.Time
	text string
	more []string
}

func (e *chapter) clock(t *client.Timeline) string { return clock(e.at, t) }

// clock is a time to the millisecond, with its day where t is of more than one.
func clock(at time.Time, t *client.Timeline) string {
	at = at.Local()                                         //nolint:gosmopolitan // People read their own time.
	if daysBetween(t.Since.Local(), t.Until.Local()) == 0 { //nolint:gosmopolitan // See above.
		return at.Format("15:04:05.000")
	}
	return at.Format("2006-01-02 15:04:05.000")
}

// storyOf is all that happened, in order.
func storyOf(t *client.Timeline) []chapter {
	var story []chapter
	for i := range t.Changes {
		story = append(story, changeStory(&t.Changes[i])...)
	}
	for i := range t.Units {
		story = append(story, unitStory(&t.Units[i])...)
	}
	slices.SortStableFunc(story, func(a, b chapter) int { return a.at.Compare(b.at) })
	return story
}

// maxWords bounds what is shown of a text that somebody else has chosen.
const maxWords = 200

func changeStory(c *client.TimelineChange) []chapter {
	begun := chapter{at: c.Spawned, text: fmt.Sprintf("change %s begins: %s", c.ID, plain(c.Summary, maxWords))}
	for _, v := range c.Verdicts {
		begun.more = append(begun.more, fmt.Sprintf("  %s (%s): %s, by %s", plain(v.Unit, maxWords), plain(v.Revision, 12), v.Verdict, ruleText(&v.Rule)))
	}
	story := []chapter{begun}
	if c.ReadyAt.IsZero() {
		if c.Waiting != "" {
			story[0].more = append(story[0].more, "  it waits for "+plain(c.Waiting, maxWords))
		}
		return story
	}
	ended := chapter{at: c.ReadyAt, text: fmt.Sprintf("change %s ends: %s", c.ID, c.Status)}
	if c.Err != "" {
		ended.more = append(ended.more, "  "+plain(c.Err, maxWords))
	}
	return append(story, ended)
}

func ruleText(r *client.TimelineRule) string {
	if r == nil {
		return "no rule"
	}
	return fmt.Sprintf("%s (%s: %s)", plain(r.Name, maxWords), r.Source, plain(r.Text, maxWords))
}

func unitStory(u *client.TimelineUnit) []chapter {
	var story []chapter
	name := unitLabel(u)
	for i := range u.Bars {
		story = append(story, barStory(name, &u.Bars[i])...)
	}
	for i := range u.Events {
		story = append(story, eventStory(name, &u.Events[i]))
	}
	return story
}

func barStory(name string, bar *client.TimelineBar) []chapter {
	begun := chapter{at: bar.From}
	process := ""
	if bar.Main != nil {
		process = " (process " + strconv.Itoa(bar.Main.PID) + ")"
	}
	switch {
	case bar.Parent != "":
		begun.text = fmt.Sprintf("%s comes out of %s, on %s%s", name, plain(bar.Parent, maxWords), bar.Revision, process)
	default:
		begun.text = fmt.Sprintf("%s begins on %s%s%s", name, bar.Revision, process, forChange(bar.Change))
		if !bar.Ready.IsZero() {
			begun.text += fmt.Sprintf(", ready after %s", bar.Ready.Sub(bar.From).Round(time.Millisecond))
		}
	}
	if bar.Command != "" {
		begun.more = []string{"  " + plain(bar.Command, maxWords)}
	}
	if bar.To.IsZero() {
		return []chapter{begun}
	}
	return []chapter{begun, {at: bar.To, text: endText(name, bar)}}
}

func endText(name string, bar *client.TimelineBar) string {
	ran := bar.To.Sub(bar.From).Round(time.Millisecond)
	switch {
	case bar.Became != "":
		return fmt.Sprintf("%s becomes %s", name, plain(bar.Became, maxWords))
	case bar.Reloaded:
		return fmt.Sprintf("%s is told to go on from another revision%s", name, forChange(bar.EndedBy))
	case bar.Unseen:
		return fmt.Sprintf("%s has ended unseen, after at most %s on %s", name, ran, bar.Revision)
	}
	text := fmt.Sprintf("%s ends", name)
	if bar.Exit != nil {
		text += ": " + plain(bar.Exit.Text, maxWords)
	}
	causes := map[string]string{"exit": ", by itself", "timeout": ", not ready in time", "watchdog": ", without a sign of life"}
	return text + causes[bar.Cause] + fmt.Sprintf(", after %s on %s%s", ran, bar.Revision, forChange(bar.EndedBy))
}

func forChange(id string) string {
	if id == "" {
		return ""
	}
	return ", for change " + id
}

func eventStory(name string, e *client.TimelineEvent) chapter {
	var pids []string
	for _, p := range e.Processes {
		pids = append(pids, strconv.Itoa(p.PID))
	}
	processes := "process " + strings.Join(pids, ", ")
	if len(pids) > 1 {
		processes = "processes " + strings.Join(pids, ", ")
	}
	if e.Others > 0 {
		processes += fmt.Sprintf(" and %d others", e.Others)
	}
	if e.Kind != "signal" {
		return chapter{at: e.Time, text: fmt.Sprintf("%s: %s is the main one now%s", name, processes, forChange(e.Change))}
	}
	whom := name
	if e.Helper != "" {
		whom = "the " + e.Helper + " command of " + name
	}
	if e.Whole {
		processes = "all of it, " + processes
	}
	text := fmt.Sprintf("%s to %s (%s)", e.Signal, whom, processes)
	if e.Late {
		text += ", whose time is over"
	}
	if e.Reason != "" {
		text += ", because of " + e.Reason
	}
	text += forChange(e.Change)
	by := "  by " + ruleText(e.Rule)
	if e.Verdict != "" {
		by = "  " + e.Verdict + "," + strings.TrimPrefix(by, " ")
	}
	return chapter{at: e.Time, text: text, more: []string{by}}
}
