package rules

import (
	"time"

	"tenure"
	"tenure/internal/policy"
)

// Given is a value with the rule that gave it.
type Given[T any] struct {
	Value T      `json:"value"`
	Rule  string `json:"rule"`
}

// Outcome is what rules give; nil is what no rule speaks of.
//
// Verdict, Grace, Kill, Deferral, Refuse, Endure and Overdue are about units, but a Refuse whose rule does
// not speak of units is about the snap as a whole, as are all others: a rule on them
// that speaks of units matches when it does for any unit.
type Outcome struct {
	Verdict *Given[tenure.Verdict] `json:"verdict,omitempty"`
	// Grace is the time to end before SIGKILL.
	Grace *Given[time.Duration] `json:"grace,omitempty"`
	Kill  *Given[policy.Kill]   `json:"kill,omitempty"`
	// Deferral is how long a unit may make a change wait; 0 is not at all.
	Deferral *Given[time.Duration] `json:"deferral,omitempty"`
	// Refuse is why the administrator does not want the change.
	Refuse *Given[string] `json:"refuse,omitempty"`
	// Endure is how long a unit may endure on an old revision, and Overdue what becomes of
	// one that has for longer. Evaluate gives neither: see Set.Endurance.
	Endure  *Given[time.Duration]  `json:"endure,omitempty"`
	Overdue *Given[policy.Overdue] `json:"endure-action,omitempty"`

	// Retain is how many revisions are kept to be reverted to.
	Retain *Given[int] `json:"retain,omitempty"`
	// Window is when automatic refreshes may begin, in the timer format of snaps.
	Window *Given[string] `json:"window,omitempty"`
	// MinimumAge is how long ago a revision must have been released before it is taken
	// automatically.
	MinimumAge *Given[time.Duration] `json:"minimum-age,omitempty"`
	// Hold is why automatic refreshes are held.
	Hold *Given[string] `json:"hold,omitempty"`
}

// Result is what the rules of a Set give, and what kept them from more.
type Result struct {
	Snap  Outcome                   `json:"snap"`
	Units map[tenure.UnitID]Outcome `json:"units,omitempty"`
	// Failures are rules that do not match because their condition cannot be evaluated.
	Failures []Failure `json:"failures,omitempty"`
}

// Failure is a condition that could not be evaluated.
type Failure struct {
	// Unit is zero for a rule that does not speak of units.
	Unit tenure.UnitID `json:"unit,omitzero"`
	Rule string        `json:"rule"`
	// Text says why, without a full stop.
	Text string `json:"text"`
	// Absent is that a fact is not known here.
	Absent bool `json:"absent,omitempty"`
}

// Rulings are what o says of a unit, in the terms of policy.
func (o Outcome) Rulings() []policy.Ruling {
	var rulings []policy.Ruling
	add := func(aspect policy.Aspect, rule, value string) {
		rulings = append(rulings, policy.Ruling{Aspect: aspect, Value: value, Rule: rule})
	}
	if g := o.Refuse; g != nil {
		add(policy.AspectRefuse, g.Rule, g.Value)
	}
	if g := o.Verdict; g != nil {
		add(policy.AspectVerdict, g.Rule, string(g.Value))
	}
	if g := o.Grace; g != nil {
		add(policy.AspectStopTimeout, g.Rule, g.Value.String())
	}
	if g := o.Kill; g != nil {
		add(policy.AspectKill, g.Rule, string(g.Value))
	}
	if g := o.Deferral; g != nil {
		add(policy.AspectDeferral, g.Rule, g.Value.String())
	}
	if g := o.Endure; g != nil {
		add(policy.AspectEndure, g.Rule, g.Value.String())
	}
	if g := o.Overdue; g != nil {
		add(policy.AspectOverdue, g.Rule, string(g.Value))
	}
	return rulings
}

// Rulings are what r says of each unit, in the terms of policy: what rules give, and which
// of them could not be evaluated.
func (r *Result) Rulings() map[tenure.UnitID][]policy.Ruling {
	rulings := map[tenure.UnitID][]policy.Ruling{}
	for unit, outcome := range r.Units {
		if found := outcome.Rulings(); len(found) > 0 {
			rulings[unit] = found
		}
	}
	for _, failure := range r.Failures {
		if !failure.Unit.IsZero() {
			rulings[failure.Unit] = append(rulings[failure.Unit],
				policy.Ruling{Aspect: policy.AspectFailed, Value: failure.Text, Rule: failure.Rule})
		}
	}
	return rulings
}
