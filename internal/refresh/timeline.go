package refresh

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// Timeline is what has happened to units, and by which changes.
type Timeline struct {
	// Since is where it begins: as was asked for, but not before the oldest that is kept.
	Since time.Time
	Until time.Time
	// Units are ordered by their names; those in no unit come last.
	Units []Line
	// Changes are ordered by their ids.
	Changes []ChangeLine
}

// Line is the life of one unit.
type Line struct {
	Snap tenure.Instance
	// Unit is zero for the processes of a snap that were in no unit.
	Unit tenure.UnitID
	Bars []Bar
	// Happenings are the signals that it was sent, and its further main processes.
	Happenings []Happening
}

// Bar is a time for which a unit ran from one revision.
type Bar struct {
	Revision tenure.Revision
	From     time.Time
	// Ready is when it was ready; zero when it was not.
	Ready time.Time
	// To is when it ended; zero while it lives.
	To   time.Time
	Main tenure.Process
	// Change is the change that started it, and EndedBy the one that ended it.
	Change, EndedBy change.ID
	Reason          tenure.Reason
	Cause           supervise.Cause
	Exit            *proc.Exit
	// Parent is the unit that it came out of, and Became what it is called now.
	Parent, Became tenure.UnitID
	// Reloaded is that it goes on in the next bar, from another revision.
	Reloaded bool
	// Unseen is that nobody saw it end: the machine did, at the latest at To.
	Unseen  bool
	Command string
}

// ChangeLine is a change with what was decided.
type ChangeLine struct {
	Change change.Change
	Plans  []policy.Plan
}

// Timeline is the history of a snap, or of all if it is empty, since a time.
func (m *Manager) Timeline(ctx context.Context, snap tenure.Instance, since time.Time) (Timeline, error) {
	looked := m.cfg.Now()
	statuses, err := m.statuses(ctx)
	if err != nil {
		return Timeline{}, err
	}
	happened, err := m.happened(snap)
	if err != nil {
		return Timeline{}, err
	}
	b := newTimelineBuilder()
	for _, h := range happened {
		b.add(h)
	}
	b.meet(looked, statuses, snap)
	t := Timeline{Since: since, Until: m.cfg.Now(), Units: b.lines(since)}
	for _, c := range m.engine.List(change.Filter{Snap: snap}) {
		if c.Ready.IsZero() || !c.Ready.Before(since) {
			line := ChangeLine{Change: c}
			// The plan of a change that is no plan of ours says nothing.
			_ = json.Unmarshal(c.Plan, &line.Plans)
			t.Changes = append(t.Changes, line)
		}
	}
	if oldest := t.oldest(); t.Since.Before(oldest) {
		t.Since = oldest
	}
	return t, nil
}

// happened is what the history has of a snap, or of all.
func (m *Manager) happened(snap tenure.Instance) ([]Happening, error) {
	if m.cfg.History == nil {
		return nil, nil
	}
	events, err := m.cfg.History.Read(func(e journal.Event) bool {
		return snap == "" || e.Snap == snap || e.Kind == kindBegan
	})
	if err != nil {
		return nil, err
	}
	happened := make([]Happening, 0, len(events))
	for _, e := range events {
		var h Happening
		if err := json.Unmarshal(e.Data, &h); err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		h.Time, h.Kind, h.Snap, h.Unit = e.Time, e.Kind, e.Snap, e.Unit
		happened = append(happened, h)
	}
	return happened, nil
}

// oldest is when the first thing in t was.
func (t *Timeline) oldest() time.Time {
	oldest := t.Until
	earlier := func(at time.Time) {
		if !at.IsZero() && at.Before(oldest) {
			oldest = at
		}
	}
	for _, line := range t.Units {
		for i := range line.Bars {
			earlier(line.Bars[i].From)
		}
		for i := range line.Happenings {
			earlier(line.Happenings[i].Time)
		}
	}
	for i := range t.Changes {
		earlier(t.Changes[i].Change.Spawned)
	}
	return oldest
}

// timelineBuilder makes lines of what happened, in its order.
type timelineBuilder struct {
	units map[lineKey]*Line
	boot  string
	// last is the time of the last thing that happened.
	last time.Time
}

type lineKey struct {
	snap tenure.Instance
	unit tenure.UnitID
}

func newTimelineBuilder() *timelineBuilder {
	return &timelineBuilder{units: make(map[lineKey]*Line)}
}

func (b *timelineBuilder) line(snap tenure.Instance, unit tenure.UnitID) *Line {
	key := lineKey{snap, unit}
	if b.units[key] == nil {
		b.units[key] = &Line{Snap: snap, Unit: unit}
	}
	return b.units[key]
}

// open is the bar of a unit that lives; nil for one that does not.
func (l *Line) open() *Bar {
	if n := len(l.Bars); n > 0 && l.Bars[n-1].To.IsZero() {
		return &l.Bars[n-1]
	}
	return nil
}

func (b *timelineBuilder) add(h Happening) {
	if h.Kind == kindBegan {
		b.began(h)
		return
	}
	b.last = h.Time
	line := b.line(h.Snap, h.Unit)
	b.cut(line, h)
	switch supervise.EventKind(h.Kind) {
	case supervise.EventState:
		b.state(line, h)
	case supervise.EventSplit:
		if h.Unit.Name == tenure.Draining {
			b.became(h, h.Parent, h.Unit)
		}
		b.split(line, h)
	case supervise.EventMain:
		b.main(line, h)
	case supervise.EventSignal:
		line.Happenings = append(line.Happenings, h)
	case supervise.EventEnded:
		if bar := line.open(); bar != nil {
			bar.To, bar.Exit, bar.Cause, bar.Reason, bar.EndedBy = h.Time, h.Exit, h.Cause, h.Reason, h.Change
		}
	case supervise.EventEmpty, supervise.EventLost:
	}
}

// began ends what a machine that has gone down has left unsaid.
func (b *timelineBuilder) began(h Happening) {
	if b.boot != "" && b.boot != h.Boot {
		for _, line := range b.units {
			if bar := line.open(); bar != nil {
				bar.To, bar.Unseen = later(b.last, bar.From), true
			}
		}
	}
	b.boot = h.Boot
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// bar is one that begins with h, ready.
func (h Happening) bar(parent tenure.UnitID) Bar {
	bar := Bar{Revision: h.Revision, From: h.Time, Ready: h.Time, Change: h.Change, Parent: parent, Command: h.Command}
	if len(h.Process) > 0 {
		bar.Main = h.Process[0]
	}
	return bar
}

// cut begins a new bar where a unit goes on from another revision.
func (b *timelineBuilder) cut(line *Line, h Happening) {
	bar := line.open()
	goesOn := h.Parent.IsZero() && h.State != supervise.Starting && h.Kind != string(supervise.EventEnded)
	if bar == nil || !goesOn || h.Revision.IsZero() || h.Revision == bar.Revision {
		return
	}
	next := Bar{Revision: h.Revision, From: h.Time, Ready: h.Time, Main: bar.Main, Change: h.Change, Command: bar.Command}
	bar.To, bar.Reloaded, bar.Reason, bar.EndedBy = h.Time, true, h.Reason, h.Change
	line.Bars = append(line.Bars, next)
}

func (b *timelineBuilder) state(line *Line, h Happening) {
	bar := line.open()
	switch h.State {
	case supervise.Starting:
		switch {
		case bar == nil:
		case bar.Ready.IsZero() && !bar.Parent.IsZero():
			return // It came out of another unit to be started.
		default:
			bar.To, bar.Unseen = h.Time, true
		}
		begun := h.bar(tenure.UnitID{})
		begun.Ready = time.Time{}
		line.Bars = append(line.Bars, begun)
	case supervise.Running:
		switch {
		case bar == nil:
			line.Bars = append(line.Bars, h.bar(tenure.UnitID{}))
		case bar.Ready.IsZero():
			bar.Ready = h.Time
			if len(h.Process) > 0 {
				bar.Main = h.Process[0]
			}
		}
	case supervise.Reloading, supervise.Stopping, supervise.Backoff, supervise.Failed, supervise.Inactive, supervise.Listening, supervise.Waiting:
	}
}

// split begins a unit that came out of another. One that was started for that may have
// begun already.
func (b *timelineBuilder) split(line *Line, h Happening) {
	if bar := line.open(); bar != nil {
		bar.Parent, bar.Command = h.Parent, h.Command
		return
	}
	begun := h.bar(h.Parent)
	if h.State == supervise.Starting {
		begun.Ready = time.Time{}
	}
	line.Bars = append(line.Bars, begun)
}

// became ends the bar of a unit that goes on under another name.
func (b *timelineBuilder) became(h Happening, unit, as tenure.UnitID) {
	if bar := b.line(h.Snap, unit).open(); bar != nil {
		bar.To, bar.Became, bar.EndedBy = h.Time, as, h.Change
	}
}

func (b *timelineBuilder) main(line *Line, h Happening) {
	if h.Parent.IsZero() {
		line.Happenings = append(line.Happenings, h)
		if bar := line.open(); bar != nil && len(h.Process) > 0 {
			bar.Main = h.Process[0]
		}
		return
	}
	b.became(h, h.Parent, h.Unit)
	if bar := line.open(); bar != nil {
		bar.To, bar.Unseen = h.Time, true
	}
	line.Bars = append(line.Bars, h.bar(h.Parent))
}

// meet holds the lines against what lives: what the history knows nothing of, for it
// is too old, and what has gone without a word.
func (b *timelineBuilder) meet(looked time.Time, statuses map[tenure.UnitID]supervise.Status, snap tenure.Instance) {
	for id, status := range statuses {
		if !status.State.Alive() || snap != "" && id.Snap != snap {
			continue
		}
		line := b.line(id.Snap, id)
		bar := line.open()
		if bar == nil {
			if n := len(line.Bars); n > 0 && line.Bars[n-1].To.After(looked) {
				continue // It has ended since.
			}
			line.Bars = append(line.Bars, Bar{Revision: status.Revision, From: status.Started, Ready: status.Started, Main: status.Main})
			continue
		}
		bar.Main = status.Main
	}
	for _, line := range b.units {
		if bar := line.open(); bar != nil && !bar.From.After(looked) && !statuses[line.Unit].State.Alive() {
			bar.To, bar.Unseen = looked, true
		}
	}
}

// lines are those in which there is something since a time.
func (b *timelineBuilder) lines(since time.Time) []Line {
	var lines []Line
	for _, line := range b.units {
		line.Bars = slices.DeleteFunc(line.Bars, func(bar Bar) bool { return !bar.To.IsZero() && bar.To.Before(since) })
		line.Happenings = slices.DeleteFunc(line.Happenings, func(h Happening) bool { return h.Time.Before(since) })
		if len(line.Bars)+len(line.Happenings) > 0 {
			lines = append(lines, *line)
		}
	}
	slices.SortFunc(lines, func(x, y Line) int {
		return cmp.Or(strings.Compare(string(x.Snap), string(y.Snap)), compareUnits(x.Unit, y.Unit))
	})
	return lines
}

// compareUnits orders units by their names; no unit comes last.
func compareUnits(a, b tenure.UnitID) int {
	switch {
	case a.IsZero() && !b.IsZero():
		return 1
	case b.IsZero() && !a.IsZero():
		return -1
	}
	return strings.Compare(a.String(), b.String())
}
