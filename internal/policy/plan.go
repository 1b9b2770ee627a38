package policy

import (
	"time"

	"tenure"
)

// Plan is what a change will do, or why it will not be done. It is data: it
// can be stored with the change and compared with what happened.
type Plan struct {
	Change Change `json:"change"`
	// Items are one for each unit, services first, each followed by what comes out
	// of it.
	Items []Item `json:"items,omitempty"`
	// Evacuate is that the package is asked to move its work away before any of it is
	// stopped; nil if it is not.
	Evacuate *Evacuation `json:"evacuate,omitempty"`
	// New are the services that the new revision has and the current one has not.
	New []tenure.UnitID `json:"new,omitempty"`
	// Strays are processes in no unit that end, after all units that do: nothing of a
	// snap is left running when it is disabled or removed.
	Strays []Stray `json:"strays,omitempty"`
	// Base is what a switch to a revision on another base means; empty when it stays.
	Base string `json:"base,omitempty"`
	// Notes are about the change as a whole, Warnings about what was known for it.
	Notes    []string `json:"notes,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Refusal is set when the change must not be carried out.
	Refusal *Refusal `json:"refusal,omitempty"`
	// Waits are the units whose end the change waits for.
	Waits []tenure.UnitID `json:"waits,omitempty"`
	// Summary is one line.
	Summary string `json:"summary"`
}

// Item is what a change does to one unit, and why.
type Item struct {
	// Unit is the unit; for processes that are part of a service until it is stopped,
	// the unit that they become.
	Unit tenure.UnitID `json:"unit"`
	// Revision is the one that the unit was started from.
	Revision tenure.Revision `json:"revision"`
	Verdict  tenure.Verdict  `json:"verdict"`
	// Wanted is the verdict that the rule gave, when the engine cannot carry it
	// out yet or the unit cannot have it; else empty.
	Wanted    tenure.Verdict   `json:"wanted,omitempty"`
	Rule      Rule             `json:"rule"`
	Main      tenure.Process   `json:"main,omitzero"`
	Processes []tenure.Process `json:"processes,omitempty"`
	// Awaits are the processes that a deferral waits for, where these are not all: until
	// they have ended, or their command lines match While no more.
	Awaits []Process `json:"awaits,omitempty"`
	While  string    `json:"while,omitempty"`
	// Command is the command line of the first process, for people.
	Command string    `json:"command,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	// Stop is how the unit will be ended, for verdicts that end it.
	Stop *Protocol `json:"stop,omitempty"`
	// Estimate is how long that takes by the last times measured, with the workloads that end
	// with it; 0 is not known. It is what of the grace period is needed.
	Estimate time.Duration `json:"estimate,omitempty"`
	// Signal is what a workload that is reloaded is sent, when the new revision is current.
	Signal string `json:"signal,omitempty"`
	// Drain is how long the old process of a hand-over may take to end; it can ask for
	// more (EXTEND_TIMEOUT_USEC of sd_notify(3)).
	Drain time.Duration `json:"drain,omitempty"`
	// Deferral is how long the change waits for the unit at most, from Change.Since on, for
	// verdict defer; 0 is without a limit.
	Deferral time.Duration `json:"deferral,omitempty"`
	// Observe is for how long the service has to prove itself on the new revision, before
	// the change counts as done; 0 is not at all.
	Observe time.Duration `json:"observe,omitempty"`
	// Pins are the revisions that the unit keeps pinned after the change.
	Pins []tenure.Ref `json:"pins,omitempty"`
	// Stale is that the unit will run on another revision than the current one.
	Stale bool     `json:"stale,omitempty"`
	Notes []string `json:"notes,omitempty"`
	// Remedy is what to do about a refusal.
	Remedy string `json:"remedy,omitempty"`
}

// Rule is what produced a verdict.
type Rule struct {
	Source Source `json:"source"`
	// Name is the key of the declaration
	// ("apps.virtd.lifecycle.workloads.vm.refresh"), the name of the
	// administrator's rule, or the default's ("default for workloads on refresh").
	Name string `json:"name"`
	// Text is one sentence.
	Text string `json:"text"`
}

// Source is who made a rule.
type Source string

// The sources, in the order in which they count.
const (
	Administrator Source = "administrator"
	Package       Source = "package"
	Default       Source = "default"
)

// Refusal is why a change must not be carried out.
type Refusal struct {
	// Units are those that refuse; none where a rule refuses the change as a whole.
	Units []tenure.UnitID `json:"units"`
	// Rules are the rules of the administrator that refuse the change as a whole.
	Rules []string `json:"rules,omitempty"`
	// Text is the sentence of the error, without a full stop.
	Text string `json:"text"`
	// Remedy is what to do about it.
	Remedy string `json:"remedy"`
}

// DifferenceKind tells how a plan and what happened differ.
type DifferenceKind string

// The kinds of differences.
const (
	// Died is that a process that was to endure is gone.
	Died DifferenceKind = "died"
	// Survived is that a process that was to end still lives.
	Survived DifferenceKind = "survived"
	// NotStarted is that a unit that was to run again does not, or is not on the
	// new revision.
	NotStarted DifferenceKind = "not started"
	// Moved is that a process lives in another unit than the plan said.
	Moved DifferenceKind = "moved"
)

// Difference is one point in which what happened is not what was planned.
type Difference struct {
	Kind    DifferenceKind `json:"kind"`
	Unit    tenure.UnitID  `json:"unit"`
	Process tenure.Process `json:"process,omitzero"`
	// Text is one sentence without a full stop.
	Text string `json:"text"`
}
