package policy

import (
	"cmp"
	"fmt"
	"time"

	"tenure"
)

// Overdue is what becomes of a unit that has endured for longer than it may.
type Overdue string

// The two answers.
const (
	OverdueWarn Overdue = "warn"
	OverdueEnd  Overdue = "end"
)

// The names of the administrator's options, where no rule speaks.
const (
	optionEndure  = "lifecycle.max-endure"
	optionOverdue = "lifecycle.endure-action"
)

// Endurance is how long a unit may endure on an old revision, and what becomes of it then.
type Endurance struct {
	// Limit is how long; 0 is for ever.
	Limit time.Duration
	// Rule is the rule of the administrator that speaks of it; empty where it is the limit
	// of the machine alone. Asked is what the rule gives where that limit cuts it.
	Rule  string
	Asked time.Duration
	// Ends is that it is ended then, and not only warned of, and EndRule the rule of the
	// administrator that says whether it is; empty where it is the option of the machine.
	Ends    bool
	EndRule string
}

// Endures reports whether a date is for such units: a hook ends by itself, and so does who
// hands over.
func Endures(unit tenure.UnitID) bool { return unit.Kind != tenure.HookRun && !unit.Overlaps() }

// EnduranceOf is how long a unit may endure by the limits, and by what the administrator's
// rules say of it. What cannot be read says nothing. What a person runs is never ended.
func EnduranceOf(unit tenure.UnitID, limits Limits, rulings []Ruling) Endurance {
	if !Endures(unit) {
		return Endurance{}
	}
	e := Endurance{Limit: limits.MaxEndure, Ends: limits.EndEndured}
	if r, ok := rulingOn(rulings, AspectEndure); ok {
		if span, err := time.ParseDuration(r.Value); err == nil && span > 0 {
			e.Rule = r.Rule
			if e.Limit > 0 && e.Limit < span {
				e.Asked = span
			} else {
				e.Limit = span
			}
		}
	}
	if r, ok := rulingOn(rulings, AspectOverdue); ok && (r.Value == string(OverdueEnd) || r.Value == string(OverdueWarn)) {
		e.Ends, e.EndRule = r.Value == string(OverdueEnd), r.Rule
	}
	e.Ends = e.Ends && unit.Kind != tenure.AppRun
	return e
}

// Until is when a unit that is stale since a time has endured for as long as it may; zero
// is never.
func (e Endurance) Until(since time.Time) time.Time {
	if e.Limit <= 0 || since.IsZero() {
		return time.Time{}
	}
	return since.Add(e.Limit)
}

// By says who has set the limit, and to what.
func (e Endurance) By() string {
	switch {
	case e.Asked > 0:
		return fmt.Sprintf("the administrator's limit of %s, which cuts the %s of rule %s", formatDuration(e.Limit), formatDuration(e.Asked), e.Rule)
	case e.Rule != "":
		return fmt.Sprintf("rule %s, which gives it %s", e.Rule, formatDuration(e.Limit))
	}
	return fmt.Sprintf("the administrator's limit of %s", formatDuration(e.Limit))
}

// Because says by what it has set the limit, as the reason of an end.
func (e Endurance) Because() string {
	text := fmt.Sprintf("%s is %s", optionEndure, formatDuration(e.Limit))
	if name := e.dated(); name != optionEndure {
		text = fmt.Sprintf("rule %s gives it %s", name, formatDuration(e.Limit))
	}
	if e.Ends && e.EndRule != "" && e.EndRule != e.dated() {
		text += fmt.Sprintf(", after which rule %s ends it", e.EndRule)
	}
	return text
}

// Action is what becomes of a unit that has endured for longer.
func (e Endurance) Action() Overdue {
	if e.Ends {
		return OverdueEnd
	}
	return OverdueWarn
}

// DateRule is the rule of the administrator that has set the limit; empty where that is the
// limit of the machine.
func (e Endurance) DateRule() string {
	if e.Asked > 0 {
		return ""
	}
	return e.Rule
}

// dated is the name of what has set the limit.
func (e Endurance) dated() string { return cmp.Or(e.DateRule(), optionEndure) }

// rule is by what a unit that is stale since a time is ended: the rule that says that it
// is, or else the one that has set the date.
func (e Endurance) rule(since time.Time) Rule {
	return Rule{Administrator, cmp.Or(e.EndRule, e.DateRule(), optionOverdue), fmt.Sprintf(
		"it is on an old revision since %s, may be for %s by %s, and is then ended by %s",
		since.UTC().Format(time.RFC3339), formatDuration(e.Limit), e.dated(), cmp.Or(e.EndRule, optionOverdue))}
}

// endurance is how long s may endure.
func (d *decider) endurance(s subject) Endurance { return EnduranceOf(s.ID, d.Limits, d.Rulings[s.ID]) }

// overdueRule is about a unit that nobody named: it has endured for longer than it may. Of the
// rules only one that refuses goes before.
func (d *decider) overdueRule(s subject) ruled {
	if veto, ok := d.vetoRule(s); ok {
		return veto
	}
	e := d.endurance(s)
	until := e.Until(s.StaleSince)
	if !e.Ends || until.IsZero() || d.Now.Before(until) {
		return ruled{tenure.Refuse, Rule{Administrator, e.dated(), "it has not endured for longer than it may"}, "wait until its date has come"}
	}
	r := d.namedRule(s)
	if r.verdict != tenure.Refuse {
		r.rule = e.rule(s.StaleSince)
	}
	return r
}

// endureNote says for how long a unit may endure on an old revision, where the
// administrator has limited that.
func (d *decider) endureNote(s subject) string {
	e, since := d.endurance(s), s.StaleSince
	if since.IsZero() {
		since = d.Now
	}
	until := e.Until(since)
	if until.IsZero() || d.leaves() {
		return ""
	}
	fate := d.endured(s, e)
	format := "it may endure until %s, by %s, and is then %s"
	if !d.Now.Before(until) {
		format = "it is overdue since %s, by %s, and is %s"
		if fate != endureWarned {
			fate += " when the change has ended"
		}
	}
	if e.EndRule != "" && (e.EndRule != e.Rule || e.Asked > 0) {
		fate += ", by rule " + e.EndRule
	}
	return fmt.Sprintf(format, until.UTC().Format(time.RFC3339), e.By(), fate)
}

// endureWarned is what becomes of a unit that is left alone.
const endureWarned = "warned of"

// endured says what becomes of a unit that has endured for too long.
func (d *decider) endured(s subject, e Endurance) string {
	switch {
	case !e.Ends:
		return endureWarned
	case d.startsAgain(s):
		return "restarted"
	}
	return "ended by its stop protocol"
}

// startsAgain reports whether a unit is a service, or an instance of a template, of the
// revision that is current after the change too.
func (d *decider) startsAgain(s subject) bool {
	current, app := d.Change.From, s.app
	if d.switches() {
		current = d.Change.To
	}
	if decl := d.declarations[tenure.Ref{Snap: s.ID.Snap, Revision: current}]; decl != nil && !s.user {
		app = decl.Apps[s.ID.App]
	}
	return s.ID.Kind == tenure.Service && app.Daemon && app.Instances == (s.ID.At != "")
}
