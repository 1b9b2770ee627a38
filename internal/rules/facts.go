package rules

import (
	"slices"
	"time"

	"tenure"
	"tenure/internal/policy"
)

// Facts are everything that conditions can speak of.
type Facts struct {
	Now  time.Time
	Node Node
	// Snap is the snap that the units belong to.
	Snap   Snap
	Change Change
	// Update is set where another revision is to become current.
	Update *Update
	// Units are as a change will find them: see policy.Split.
	Units []Unit
}

// Node is the machine.
type Node struct {
	Name string
	// Arch is its architecture, in the words of snaps (amd64, arm64, …).
	Arch string
	CPUs int
	// Memory is in bytes.
	Memory int64
}

// Snap is the current revision of a snap.
type Snap struct {
	Name        tenure.Instance
	Revision    tenure.Revision
	Version     string
	Type        string
	Base        string
	Confinement string
}

// Change is what happens to the snap.
type Change struct {
	// Reason is empty outside of a change.
	Reason    tenure.Reason
	Automatic bool
}

// Update is the revision that is to become current, beside the one that is.
type Update struct {
	From, To               tenure.Revision
	FromVersion, ToVersion string
	// BaseChange is that it has another base: another name, not another revision of one.
	BaseChange bool
	// Released is when it was published, and Urgency what its publisher says of it. They
	// are known of revisions that come from a source, and zero of files.
	Released time.Time
	Urgency  string
}

// Unit is a unit with what conditions can see of it.
type Unit struct {
	policy.Unit
	// IsService is that its app is one, and not a command that people run.
	IsService bool
	// Stale is that it does not run from the current revision.
	Stale bool
}

// About are the facts for rules that are in those for a decision, as far as they are about
// one snap. The units of the snap that changes are as the change will find them.
func About(f *policy.Facts, snap Snap, node Node, update *Update) *Facts {
	about := &Facts{
		Now: f.Now, Node: node, Snap: snap, Update: update,
		Change: Change{Reason: f.Change.Reason, Automatic: f.Change.Auto},
	}
	for _, u := range f.Units {
		if u.ID.Snap != snap.Name {
			continue
		}
		var app policy.App
		for i := range f.Declarations {
			if d := &f.Declarations[i]; d.Snap == u.ID.Snap && d.Revision == u.Revision {
				app = d.Apps[u.ID.App]
			}
		}
		parts := []policy.Unit{u}
		if f.Change.Snap == "" || f.Change.Snap == u.ID.Snap {
			parts = policy.Split(u, app)
		}
		for _, part := range parts {
			about.Units = append(about.Units, unitOf(part, u.ID, app, snap))
		}
	}
	return about
}

// unitOf is a part of the unit from. One that is to become a unit of its own is as old as
// its first process.
func unitOf(part policy.Unit, from tenure.UnitID, app policy.App, snap Snap) Unit {
	u := Unit{Unit: part, IsService: app.Daemon, Stale: part.Revision != snap.Revision}
	if main := u.main(); part.ID != from && main != nil {
		u.Since = main.Started
	}
	return u
}

// AddTo adds what the rules give to the facts of the decision that they are about. What is
// known already, as that a condition cannot be evaluated, is not added twice.
func (r *Result) AddTo(f *policy.Facts) {
	if f.Rulings == nil {
		f.Rulings = map[tenure.UnitID][]policy.Ruling{}
	}
	for unit, rulings := range r.Rulings() {
		f.Rulings[unit] = appendNew(f.Rulings[unit], rulings...)
	}
	if veto := r.Snap.Refuse; veto != nil {
		f.Vetoes = appendNew(f.Vetoes, policy.Ruling{Aspect: policy.AspectRefuse, Value: veto.Value, Rule: veto.Rule})
	}
	for _, failure := range r.Failures {
		if failure.Unit.IsZero() {
			f.Vetoes = appendNew(f.Vetoes, policy.Ruling{Aspect: policy.AspectFailed, Value: failure.Text, Rule: failure.Rule})
		}
	}
}

func appendNew(to []policy.Ruling, rulings ...policy.Ruling) []policy.Ruling {
	for _, r := range rulings {
		if !slices.Contains(to, r) {
			to = append(to, r)
		}
	}
	return to
}

// main is the process that stands for the unit: the main process, else the oldest.
func (u *Unit) main() *policy.Process {
	for i := range u.Processes {
		if u.Processes[i].Process == u.Main {
			return &u.Processes[i]
		}
	}
	if len(u.Processes) > 0 {
		return &u.Processes[0]
	}
	return nil
}

// Step tells how far a version is from another, by their numbers between dots:
// "major", "minor" or "patch" for the first that differs, "older" when it goes down,
// "same" when they are equal, and "other" where there are no numbers to compare.
func Step(from, to string) string {
	if from == to {
		return "same"
	}
	a, b := numbers(from), numbers(to)
	if len(a) == 0 || len(b) == 0 {
		return "other"
	}
	names := []string{"major", "minor", "patch"}
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		switch order := compareNumbers(x, y); {
		case order < 0:
			return names[min(i, len(names)-1)]
		case order > 0:
			return "older"
		}
	}
	return "patch"
}
