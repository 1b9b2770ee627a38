package policy

import (
	"fmt"
	"slices"
	"time"

	"tenure"
)

// Estimate is how long the stop of a unit took the last time, of its grace period.
type Estimate struct {
	// Took is how long, where workloads ended with it: with one of them.
	Took time.Duration `json:"took"`
	// With are the names of the workloads that the service itself ended while it was
	// stopped, as a manager does that suspends its machines; none for most units.
	With []string `json:"with,omitempty"`
	// Each is what every further one of them adds to Took: nothing where they end side by
	// side, all of its time where one ends after the other.
	Each time.Duration `json:"each,omitempty"`
	// Alone is that only one of them ended then, so that nobody knows whether several end
	// side by side: they are counted as if one ended after the other.
	Alone bool `json:"alone,omitempty"`
	// Of is the grace period that its package gave the unit then; 0 is not known.
	Of time.Duration `json:"of,omitempty"`
}

// of is how long it takes with n workloads.
func (e Estimate) of(n int) time.Duration {
	switch {
	case len(e.With) == 0:
		return e.Took
	case n == 0:
		return 0 // It was never measured without.
	}
	return e.Took + time.Duration(n-1)*e.Each
}

// EstimateKey is what the measurements of a unit are kept under: what is known of one
// machine holds for all of its kind.
func EstimateKey(unit tenure.UnitID) tenure.UnitID {
	if unit.Kind == tenure.Workload {
		unit.Label, unit.Serial = "", 0
	}
	return unit
}

// checkEstimates says how long what is stopped takes, and refuses a change that would run
// into a grace period and kill what is not done by then. Units are stopped side by side,
// each with a grace period of its own; what a service ends itself, it ends within its own.
func (d *decider) checkEstimates(items []Item) {
	for i := range items {
		item := &items[i]
		if item.Verdict != tenure.Restart && item.Verdict != tenure.Stop || item.Stop == nil {
			continue
		}
		known := d.Estimates[EstimateKey(item.Unit)]
		if known.Of > item.Stop.given() {
			continue // Its package says that it takes less since.
		}
		n := endingWith(items, item.Unit, known.With)
		item.Estimate = known.of(n)
		text := stopText(item.Estimate, n)
		if known.Alone && n > 1 {
			text += " (of one alone, so that they are counted one after another)"
		}
		if item.Estimate > item.Stop.Timeout && item.Stop.Kill == KillAfterTimeout && d.sparing() {
			text += ", and is cut off after " + formatDuration(item.Stop.Timeout)
			remedy := item.graceRemedy()
			item.refuse(Rule{Default, "stop-estimate", text}, remedy)
			item.Stop = nil
			continue
		}
		if n > 0 || item.Estimate > item.Stop.Timeout/noteworthy {
			item.Notes = append(item.Notes, fmt.Sprintf("%s, of %s", text, formatDuration(item.Stop.Timeout)))
		}
	}
}

// noteworthy is the part of its grace period that a stop takes at least for the plan to say so.
const noteworthy = 4

// sparing reports whether the change had better not be made than cut somebody's end off:
// the administrator has not said otherwise, also not beforehand by a date, and it is to go
// on afterwards.
func (d *decider) sparing() bool {
	return !d.Change.Force && !d.Change.Overdue && !d.leaves() && d.Change.Reason != tenure.ReasonShutdown && d.Change.Reason != tenure.ReasonStop
}

// endingWith is how many workloads of a service that are to end have one of these names.
func endingWith(items []Item, service tenure.UnitID, names []string) int {
	if len(names) == 0 {
		return 0
	}
	n := 0
	for i := range items {
		unit := items[i].Unit
		if unit.Kind == tenure.Workload && unit.Service() == service && items[i].Verdict == tenure.Stop && slices.Contains(names, unit.Name) {
			n++
		}
	}
	return n
}

func stopText(estimate time.Duration, workloads int) string {
	what := "stopping it"
	switch {
	case workloads == 1:
		what += ", with the workload that it ends,"
	case workloads > 1:
		what += fmt.Sprintf(", with the %d workloads that it ends,", workloads)
	}
	return fmt.Sprintf("%s takes %s by the last times measured", what, formatDuration(estimate.Round(10*time.Millisecond)))
}

// graceRemedy is what to do about a grace period that is too short.
func (i *Item) graceRemedy() string {
	longer := "raise stop-timeout by a rule"
	if i.Stop.Asked > i.Stop.Timeout && i.Stop.Asked >= i.Estimate {
		longer = "raise lifecycle.max-stop-timeout"
	} else if i.Stop.Asked > 0 {
		longer += " and lifecycle.max-stop-timeout"
	}
	return longer + ", end some first, or use --force"
}
