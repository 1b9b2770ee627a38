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
	fate := "is then warned of"
	if d.Limits.EndEndured && s.ID.Kind != tenure.AppRun {
		fate = "is then ended by its stop protocol"
		if s.ID.Kind == tenure.Service {
			fate = "is then restarted"
		}
	}
	return fmt.Sprintf("it may endure until %s, by the administrator's limit of %s, and %s",
		since.Add(limit).UTC().Format(time.RFC3339), formatDuration(limit), fate)
}
