package policy

import (
	"fmt"
	"time"

	"tenure"
)

// endureNote says for how long a unit may endure on an old revision, where the
// administrator has limited that.
func (d *decider) endureNote(s subject) string {
	limit := d.Limits.MaxEndure
	if limit <= 0 || s.ID.Kind == tenure.HookRun || s.ID.Overlaps() || d.leaves() {
		return ""
	}
	since := s.StaleSince
	if since.IsZero() {
		since = d.Now
	}
	until, fate := since.Add(limit), d.endured(s)
	format := "it may endure until %s, by the administrator's limit of %s, and is then %s"
	if !d.Now.Before(until) {
		format = "it is overdue since %s, by the administrator's limit of %s, and is %s"
		if fate != endureWarned {
			fate += " when the change has ended"
		}
	}
	return fmt.Sprintf(format, until.UTC().Format(time.RFC3339), formatDuration(limit), fate)
}

// endureWarned is what becomes of a unit that is left alone.
const endureWarned = "warned of"

// endured says what becomes of a unit that has endured for too long.
func (d *decider) endured(s subject) string {
	switch {
	case !d.Limits.EndEndured || s.ID.Kind == tenure.AppRun:
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
