package policy

import (
	"fmt"
	"slices"
	"time"

	"tenure"
)

// Evacuation is that a package is asked to move its work to other machines, or to say
// "not now", before anything of it is stopped.
type Evacuation struct {
	// Revision is the one that is asked: the one that runs.
	Revision tenure.Revision `json:"revision"`
	// Timeout is how long it may take; 0 is that nobody has limited it.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// String is what a person reads in the plan.
func (e *Evacuation) String() string {
	text := fmt.Sprintf("the evacuate hook of %s is run, and can refuse", e.Revision)
	if e.Timeout > 0 {
		text += fmt.Sprintf("; it may take %s", formatDuration(e.Timeout))
	}
	return text
}

// evacuation is the one of a switch that ends anything of the snap. Who says "now,
// whatever it costs" does not ask.
func (d *decider) evacuation(items []Item) *Evacuation {
	running := d.declarations[tenure.Ref{Snap: d.Change.Snap, Revision: d.Change.From}]
	if !d.switches() || d.Change.Force || running == nil || !running.Evacuates {
		return nil
	}
	interrupted := func(item Item) bool {
		return item.Unit.Snap == d.Change.Snap && (item.Verdict == tenure.Restart || item.Verdict == tenure.Stop)
	}
	if !slices.ContainsFunc(items, interrupted) {
		return nil
	}
	return &Evacuation{Revision: d.Change.From, Timeout: d.Limits.MaxEvacuation}
}
