package refresh

import (
	"encoding/json"
	"maps"

	"tenure/internal/change"
)

// Shorten takes out of a change that has ended what only its steps needed: the
// descriptions of whole snaps, again for each of them, which are nearly all of it. What is
// learned from its end (recordOutcome) stays, for the daemon may die before it has learned that.
func Shorten(c *change.Change) {
	learned := c.Kind == kindRefresh || c.Kind == kindAutoRefresh
	for i := range c.Tasks {
		t := &c.Tasks[i]
		t.Undo = nil
		switch {
		case learned && t.Kind == taskDecide:
			t.Params = shortDecision(t.Params)
		case learned && t.Status == change.Error:
		default:
			t.Params = nil
		}
	}
}

// shortDecision leaves of the parameters of a decision which revisions the jobs lead to.
func shortDecision(params json.RawMessage) json.RawMessage {
	var p decideParams
	if json.Unmarshal(params, &p) != nil {
		return params
	}
	short := decideParams{Jobs: make([]job, 0, len(p.Jobs))}
	for i := range p.Jobs {
		j := &p.Jobs[i]
		short.Jobs = append(short.Jobs, job{Reason: j.Reason, Before: j.Before.short(), After: j.After.short(), Auto: j.Auto})
	}
	raw, err := json.Marshal(short)
	if err != nil {
		return params
	}
	return raw
}

// short is the state without what the snap files say.
func (s *snapState) short() *snapState {
	if s == nil {
		return nil
	}
	short := *s
	short.Kept = maps.Clone(s.Kept)
	for rev, k := range short.Kept {
		k.Info = nil
		short.Kept[rev] = k
	}
	return &short
}
