package change

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"tenure"
)

// ID names a change. IDs grow, and are never used twice in one journal. The
// text form is decimal, also in JSON. The zero ID names nothing.
type ID uint64

// ParseID reads the text form of an ID.
func ParseID(s string) (ID, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%w: change %q (want a number like 12)", tenure.ErrName, s)
	}
	return ID(n), nil
}

// String is the form that ParseID reads.
func (id ID) String() string { return strconv.FormatUint(uint64(id), 10) }

// MarshalText writes the text form.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText refuses what ParseID refuses.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// Status says where a change or a task stands. The words are those of snapd's
// REST API.
type Status string

// The statuses of changes and tasks.
const (
	// Do has not begun.
	Do Status = "Do"
	// Doing runs.
	Doing Status = "Doing"
	// Done is finished.
	Done Status = "Done"
	// Abort is a change that was asked to turn round and has not yet.
	Abort Status = "Abort"
	// Undo is a task that is to be undone.
	Undo Status = "Undo"
	// Undoing is being undone.
	Undoing Status = "Undoing"
	// Undone was done, and undone.
	Undone Status = "Undone"
	// Hold was never done, and will not be.
	Hold Status = "Hold"
	// Error failed, or could not be undone.
	Error Status = "Error"
	// Wait waits for people or workloads, without a deadline.
	Wait Status = "Wait"
)

// Ready reports whether nothing more will happen to what has this status.
func (s Status) Ready() bool {
	return slices.Contains([]Status{Done, Undone, Hold, Error}, s)
}

// known reports whether s is one of the words.
func (s Status) known() bool {
	return s.Ready() || slices.Contains([]Status{Do, Doing, Abort, Undo, Undoing, Wait}, s)
}

// check refuses a record that no engine has written: there is no way on from it.
func (c *Change) check() error {
	if c.ID == 0 || !c.Status.known() {
		return fmt.Errorf("change %d is in status %.100q", c.ID, string(c.Status))
	}
	waits := false
	for i := range c.Tasks {
		t := &c.Tasks[i]
		if !t.Status.known() {
			return fmt.Errorf("task %.100q of change %s is in status %.100q", t.ID, c.ID, string(t.Status))
		}
		waits = waits || t.Status == Wait
	}
	if c.Status == Wait && !waits {
		return fmt.Errorf("change %s waits, and none of its tasks does", c.ID)
	}
	return nil
}

// Change is the record of a change, as it is stored. What the engine returns
// is shared: it must not be modified.
type Change struct {
	ID      ID     `json:"id"`
	Kind    string `json:"kind"`
	Summary string `json:"summary"`
	Status  Status `json:"status"`
	// Snaps are what the change touches. No other change that touches one of
	// them runs at the same time.
	Snaps []tenure.Instance `json:"snaps,omitempty"`
	Tasks []Task            `json:"tasks"`
	// Plan is what was decided, for whoever wants to compare it with what
	// happened. The engine does not look into it.
	Plan json.RawMessage `json:"plan,omitempty"`
	// Details are facts for the readers of the change. The engine does not
	// look into them.
	Details json.RawMessage `json:"details,omitempty"`
	// WaitingFor says what a change in status Wait waits for.
	WaitingFor *Waiting  `json:"waiting-for,omitempty"`
	Spawned    time.Time `json:"spawn-time"`
	// Ready is when the change ended; zero before.
	Ready time.Time `json:"ready-time,omitzero"`
	// Err says why tasks failed, one line for each.
	Err string `json:"err,omitempty"`

	// Holds is set while the change locks its snaps.
	Holds bool `json:"holds,omitempty"`
	// Backward is set from the moment the change turns round.
	Backward bool `json:"backward,omitempty"`
	// Serial is the number of the next task.
	Serial int `json:"serial"`
	// Rev is the engine's revision at which the change was last modified; see
	// Engine.Watch. It is not stored.
	Rev uint64 `json:"-"`
}

// Task is the record of one step of a change.
type Task struct {
	// ID is unique: the change's, a dot, and a number.
	ID      string `json:"id"`
	Kind    string `json:"kind"`
	Summary string `json:"summary"`
	Status  Status `json:"status"`
	// Gap marks a task of the switch.
	Gap bool `json:"gap,omitempty"`
	// Joined marks a task that begins before what the one before it did is durable (TaskSpec.JoinedOn).
	Joined bool `json:"joined,omitempty"`
	// Final marks a task from whose beginning on the change cannot be aborted (TaskSpec.AtTheEnd).
	Final  bool            `json:"final,omitempty"`
	Params json.RawMessage `json:"params"`
	// Undo is what the step did, for its undo.
	Undo     json.RawMessage `json:"undo,omitempty"`
	Progress Progress        `json:"progress,omitzero"`
	// Log has the last lines that the step logged: time, level and text.
	Log     []string  `json:"log,omitempty"`
	Spawned time.Time `json:"spawn-time"`
	// Started is when the step first began.
	Started time.Time `json:"start-time,omitzero"`
	// Ready is when the task reached its last status.
	Ready time.Time `json:"ready-time,omitzero"`
	// Err says why the step failed or could not be undone.
	Err string `json:"err,omitempty"`

	// Begun is the durable intent: the step may have begun.
	Begun bool `json:"begun,omitempty"`
}

// Progress is how far a task has come. Total is 0 if nobody knows.
type Progress struct {
	Label string `json:"label,omitempty"`
	Done  int64  `json:"done,omitempty"`
	Total int64  `json:"total,omitempty"`
}

// Waiting is what a change waits for.
type Waiting struct { //nolint:errname // It is a state that a step returns, not a failure.
	// For is a sentence for people.
	For string `json:"for"`
	// Hold keeps the change's snaps locked meanwhile. Inside a gap, and when
	// undoing, they always are.
	Hold bool `json:"hold,omitempty"`
	// Settled is that the change has done what it was to do, and only sees whether that was
	// well: nothing of it is in progress, though it may still turn round.
	Settled bool `json:"settled,omitempty"`
}

// Error makes Waiting what a step returns to wait.
func (w *Waiting) Error() string { return "waiting for " + w.For }

// Selection tells changes apart by whether they have ended.
type Selection int

// The selections of a Filter.
const (
	// All changes.
	All Selection = iota
	// InProgress are those that have not ended, without those that wait and hold nothing, or
	// that are settled.
	InProgress
	// WaitingOnly are those in status Wait.
	WaitingOnly
	// ReadyOnly are those that have ended.
	ReadyOnly
	// Unfinished are those that have not ended.
	Unfinished
)

// Filter selects changes. The zero value selects all.
type Filter struct {
	Select Selection
	// Snap, if set, must be one of those that the change touches.
	Snap tenure.Instance
	// Kind, if set, is the change's kind.
	Kind string
}

// Match reports whether f selects c.
func (f Filter) Match(c *Change) bool {
	if f.Snap != "" && !slices.Contains(c.Snaps, f.Snap) {
		return false
	}
	if f.Kind != "" && f.Kind != c.Kind {
		return false
	}
	switch f.Select {
	case InProgress:
		return !c.Status.Ready() && (c.Status != Wait || c.Holds && (c.WaitingFor == nil || !c.WaitingFor.Settled))
	case WaitingOnly:
		return c.Status == Wait
	case ReadyOnly:
		return c.Status.Ready()
	case Unfinished:
		return !c.Status.Ready()
	case All:
	}
	return true
}

// clone is a copy that shares nothing that the engine still modifies: texts,
// raw JSON and log lines that are there never change.
func (c *Change) clone() Change {
	copied := *c
	copied.Tasks = slices.Clone(c.Tasks)
	return copied
}
