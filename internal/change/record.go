package change

import (
	"encoding/json"
	"time"

	"tenure"
)

// Told is a change that is over before there was an engine for it: it tells, in the lines of its only task, what
// was done by the way.
func Told(id ID, kind, summary string, at time.Time, lines []string) Change {
	c := Change{ID: id, Kind: kind, Summary: summary, Status: Done, Spawned: at, Ready: at, Snaps: []tenure.Instance{}}
	c.Tasks = c.number([]Task{{Kind: kind, Summary: summary, Params: json.RawMessage("{}")}}, at)
	t := &c.Tasks[0]
	t.Status, t.Started, t.Ready = Done, at, at
	for _, line := range lines {
		t.Log = appendLog(t.Log, logLine("INFO", line))
	}
	return c
}

// GiveUp ends a change that no engine has, as it is: nothing is done or undone.
func (c *Change) GiveUp(at time.Time, why string) {
	c.Status, c.Err, c.Ready, c.Holds, c.WaitingFor = Error, why, at, false, nil
	for i := range c.Tasks {
		t := &c.Tasks[i]
		if t.Status.Ready() {
			continue
		}
		if t.Err == "" && t.Begun {
			t.Err = why
		}
		t.Status, t.Begun, t.Ready = Hold, false, at
	}
}
