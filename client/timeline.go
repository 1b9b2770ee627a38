package client

import (
	"context"
	"net/url"
	"time"
)

// Timeline is what has happened to units, and by which changes.
type Timeline struct {
	// Since is where it begins, and Until the time of the answer.
	Since   time.Time        `json:"since"`
	Until   time.Time        `json:"until"`
	Units   []TimelineUnit   `json:"units"`
	Changes []TimelineChange `json:"changes"`
}

// TimelineUnit is the life of one unit; that of processes in no unit has no name.
type TimelineUnit struct {
	Unit string        `json:"unit"`
	Kind string        `json:"kind"`
	Snap string        `json:"snap"`
	Bars []TimelineBar `json:"bars"`
	// Events are the signals that it was sent, and its further main processes.
	Events []TimelineEvent `json:"events"`
}

// TimelineBar is a time for which a unit ran from one revision.
type TimelineBar struct {
	Revision string    `json:"revision"`
	From     time.Time `json:"from"`
	Ready    time.Time `json:"ready,omitzero"`
	// To is when it ended; missing while it lives.
	To   time.Time        `json:"to,omitzero"`
	Main *TimelineProcess `json:"main,omitempty"`
	// Change is the change that started it, EndedBy the one that ended it.
	Change  string `json:"change,omitempty"`
	EndedBy string `json:"ended-by,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// Cause is why it has ended: request, exit, timeout or watchdog.
	Cause string        `json:"cause,omitempty"`
	Exit  *TimelineExit `json:"exit,omitempty"`
	// Parent is the unit that it came out of, Became the one that it is now.
	Parent string `json:"parent,omitempty"`
	Became string `json:"became,omitempty"`
	// Reloaded is that the next bar is the same processes, on another revision.
	Reloaded bool `json:"reloaded,omitempty"`
	// Unseen is that nobody saw it end.
	Unseen  bool   `json:"unseen,omitempty"`
	Command string `json:"command,omitempty"`
}

// TimelineProcess is a process by what identifies it.
type TimelineProcess struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// TimelineExit is how a main process ended; Text says it in words.
type TimelineExit struct {
	Known  bool   `json:"known"`
	Code   int    `json:"code"`
	Signal string `json:"signal,omitempty"`
	Text   string `json:"text"`
}

// TimelineEvent is a signal (kind "signal") or another main process (kind "main").
type TimelineEvent struct {
	Time      time.Time         `json:"time"`
	Kind      string            `json:"kind"`
	Revision  string            `json:"revision,omitempty"`
	Signal    string            `json:"signal,omitempty"`
	Processes []TimelineProcess `json:"processes,omitempty"`
	// Others is how many processes it is about beside those.
	Others int `json:"others,omitempty"`
	// Whole is that the signal went to a whole control group, Helper the command of the
	// unit that it went to.
	Whole   bool   `json:"whole,omitempty"`
	Helper  string `json:"helper,omitempty"`
	Command string `json:"command,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Change  string `json:"change,omitempty"`
	// Cause is request, exit, timeout or watchdog; Late is that a time was over.
	Cause   string        `json:"cause,omitempty"`
	Late    bool          `json:"late,omitempty"`
	Verdict string        `json:"verdict,omitempty"`
	Rule    *TimelineRule `json:"rule,omitempty"`
}

// TimelineRule is what a verdict or a signal is by.
type TimelineRule struct {
	Source string `json:"source"`
	Name   string `json:"name"`
	Text   string `json:"text"`
}

// TimelineChange is a change with its verdicts.
type TimelineChange struct {
	ID       string            `json:"id"`
	Kind     string            `json:"kind"`
	Summary  string            `json:"summary"`
	Status   string            `json:"status"`
	Err      string            `json:"err,omitempty"`
	Waiting  string            `json:"waiting-for,omitempty"`
	Spawned  time.Time         `json:"spawn-time"`
	ReadyAt  time.Time         `json:"ready-time,omitzero"`
	Snaps    []string          `json:"snaps,omitempty"`
	Verdicts []TimelineVerdict `json:"verdicts,omitempty"`
}

// TimelineVerdict is what a change was to do to one unit.
type TimelineVerdict struct {
	Unit     string       `json:"unit"`
	Revision string       `json:"revision"`
	Verdict  string       `json:"verdict"`
	Rule     TimelineRule `json:"rule"`
}

// Timeline is the history of a snap, or of all if it is empty, since a time, or as far
// as it is kept.
func (c *Client) Timeline(ctx context.Context, snap string, since time.Time) (Timeline, error) {
	query := url.Values{}
	if snap != "" {
		query.Set("for", snap)
	}
	if !since.IsZero() {
		query.Set("since", since.Format(time.RFC3339Nano))
	}
	return get[Timeline](ctx, c, "/v2/timeline", query)
}
