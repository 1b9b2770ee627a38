package policy

import (
	"cmp"
	"fmt"
	"slices"

	"tenure"
)

// Decide gives what a change does to each unit, and why. It reads nothing but f,
// and gives equal plans for equal facts.
func Decide(f Facts) Plan {
	d := decider{Facts: f, declarations: map[tenure.Ref]*Declaration{}}
	for i := range f.Declarations {
		decl := &f.Declarations[i]
		d.declarations[tenure.Ref{Snap: decl.Snap, Revision: decl.Revision}] = decl
	}
	plan := Plan{Change: f.Change}
	subjects := d.subjects()
	plan.Items = slices.Grow(plan.Items, len(subjects))
	for i := range subjects {
		plan.Items = append(plan.Items, d.item(subjects[i]))
	}
	d.checkEstimates(plan.Items)
	plan.Evacuate = d.evacuation(plan.Items)
	plan.New = d.newServices()
	plan.Strays = d.strays()
	plan.Base = d.baseChange()
	plan.Warnings = f.Warnings
	return plan.finish(d.vetoes(&plan))
}

// vetoes are the rules that refuse the change as a whole, unless the administrator says
// otherwise in the change itself.
func (d *decider) vetoes(plan *Plan) []Ruling {
	var vetoes []Ruling
	for _, r := range d.Vetoes {
		switch {
		case r.Aspect == AspectFailed:
			plan.Notes = append(plan.Notes, fmt.Sprintf("rule %s does not match: %s", r.Rule, r.Value))
		case d.Change.Force:
			plan.Notes = append(plan.Notes, fmt.Sprintf("rule %s refuses it (%s), and the administrator said now (--force)", r.Rule, r.Value))
		default:
			vetoes = append(vetoes, r)
		}
	}
	return vetoes
}

// decider has the facts and their index.
type decider struct {
	Facts
	declarations map[tenure.Ref]*Declaration
}

// subject is a unit that the change touches, with what is declared about it.
type subject struct {
	Unit
	// service is the unit that a workload came out of; the unit itself for a
	// service; zero for all others.
	service tenure.UnitID
	// decl is that of the revision that the unit was started from; nil when it is
	// not known.
	decl *Declaration
	app  App
	// workload is the declaration of a workload; nil for leftovers and where it is
	// not known.
	workload *Workload
	// user is that the unit belongs to another snap, and uses the one that changes or was
	// started by it.
	user bool
}

// subjects are the units that the change touches, in the order of the plan. A process that
// is said to be in two units counts for the one that is not a service, then for
// the first in order.
func (d *decider) subjects() []subject {
	units := slices.Clone(d.Units)
	slices.SortStableFunc(units, func(a, b Unit) int {
		return cmp.Or(compareBool(a.ID.Kind == tenure.Service, b.ID.Kind == tenure.Service), compareUnits(a, b))
	})
	processes := 0
	for i := range units {
		processes += len(units[i].Processes)
	}
	subjects := make([]subject, 0, len(units))
	claimed := make(map[tenure.Process]bool, processes)
	for _, u := range units {
		u.Processes = claim(u.Processes, claimed)
		if !d.concerns(u) {
			continue
		}
		subjects = append(subjects, d.split(u)...)
	}
	slices.SortStableFunc(subjects, compareSubjects)
	return subjects
}

// claim gives the processes that no other unit has, oldest first, and marks them.
func claim(procs []Process, claimed map[tenure.Process]bool) []Process {
	if len(procs) == 0 {
		return nil
	}
	own := make([]Process, 0, len(procs))
	for _, p := range procs {
		if !claimed[p.Process] {
			claimed[p.Process] = true
			own = append(own, p)
		}
	}
	slices.SortFunc(own, func(a, b Process) int { return compareProcesses(a.Process, b.Process) })
	return own
}

// concerns reports whether u is of the snap that changes, or uses it.
func (d *decider) concerns(u Unit) bool {
	return d.owns(u) || d.uses(u) || len(u.Processes) > 0 && u.By == d.Change.Snap
}

func (d *decider) owns(u Unit) bool {
	return d.Change.Snap == "" || u.ID.Snap == d.Change.Snap
}

func (d *decider) uses(u Unit) bool {
	return len(u.Processes) > 0 && slices.ContainsFunc(u.Uses, func(r tenure.Ref) bool { return r.Snap == d.Change.Snap })
}

// split gives the subjects in u that the change touches.
func (d *decider) split(u Unit) []subject {
	decl := d.declarations[tenure.Ref{Snap: u.ID.Snap, Revision: u.Revision}]
	var app App
	if decl != nil {
		app = decl.Apps[u.ID.App]
	}
	service := u.ID.Service()
	parts := []Unit{u}
	if d.owns(u) {
		parts = Split(u, app)
	}
	var subjects []subject
	for _, part := range parts {
		s := subject{Unit: part, service: service, decl: decl, app: app, user: !d.owns(u)}
		if part.ID.Kind == tenure.Workload {
			s.workload = findWorkload(app, part.ID.Name)
		}
		if d.touches(s) {
			subjects = append(subjects, s)
		}
	}
	return subjects
}

func findWorkload(app App, name string) *Workload {
	for i := range app.Workloads {
		if app.Workloads[i].Name == name {
			return &app.Workloads[i]
		}
	}
	return nil
}

// touches reports whether the change is about s at all.
func (d *decider) touches(s subject) bool {
	if len(s.Processes) == 0 && (s.ID.Kind != tenure.Service || !s.Active) {
		return false
	}
	byName := d.Change.Reason == tenure.ReasonStop || d.Change.Reason == tenure.ReasonRestart
	switch {
	case s.user:
		return d.Change.Reason != tenure.ReasonShutdown && !byName
	case d.named(s):
		return true
	case byName && len(d.Change.Units) > 0 && s.ID.Kind != tenure.HookRun:
		return slices.Contains(d.Change.Units, s.service)
	case s.ID.Kind == tenure.AppRun:
		return !byName && d.Change.Reason != tenure.ReasonShutdown
	}
	return true
}

func (d *decider) named(s subject) bool { return slices.Contains(d.Change.Units, s.ID) }

// switches reports whether the change makes another revision current.
func (d *decider) switches() bool {
	return d.Change.Reason == tenure.ReasonRefresh || d.Change.Reason == tenure.ReasonRevert
}

// leaves reports whether the snap is not enabled after the change.
func (d *decider) leaves() bool {
	return d.Change.Reason == tenure.ReasonDisable || d.Change.Reason == tenure.ReasonRemove
}

// target is the declaration of the revision that becomes current; nil when there
// is none or it is not known.
func (d *decider) target() *Declaration {
	if !d.switches() {
		return nil
	}
	return d.declarations[tenure.Ref{Snap: d.Change.Snap, Revision: d.Change.To}]
}

// strays are the processes in no unit that end with the snap, in the order of
// their age.
func (d *decider) strays() []Stray {
	if !d.leaves() {
		return nil
	}
	return slices.SortedFunc(slices.Values(d.Strays), func(a, b Stray) int { return compareProcesses(a.Process, b.Process) })
}

// baseChange says that the new revision names another base than the current one.
func (d *decider) baseChange() string {
	before := d.declarations[tenure.Ref{Snap: d.Change.Snap, Revision: d.Change.From}]
	after := d.target()
	if before == nil || after == nil || before.Base == after.Base {
		return ""
	}
	named := func(base string) string { return cmp.Or(base, "no base") }
	return fmt.Sprintf("the base changes from %s to %s: what goes on from revision %s keeps the one it was started on",
		named(before.Base), named(after.Base), d.Change.From)
}

// newServices are those of the new revision that the current one has not.
func (d *decider) newServices() []tenure.UnitID {
	before := d.declarations[tenure.Ref{Snap: d.Change.Snap, Revision: d.Change.From}]
	after := d.target()
	if before == nil || after == nil {
		return nil
	}
	var units []tenure.UnitID
	for name, app := range after.Apps {
		if app.Daemon && !app.Instances && !before.Apps[name].Daemon {
			units = append(units, tenure.ServiceUnit(d.Change.Snap, name))
		}
	}
	slices.SortFunc(units, compareIDs)
	return units
}

func compareSubjects(a, b subject) int { return compareUnits(a.Unit, b.Unit) }

// compareUnits orders services first, each followed by what came out of it, then app
// runs, then hooks; units of one name by revision and age.
func compareUnits(a, b Unit) int {
	return cmp.Or(
		compareIDs(a.ID, b.ID),
		a.Revision.Compare(b.Revision),
		a.Since.Compare(b.Since),
		compareProcesses(a.Main, b.Main),
	)
}

func compareIDs(a, b tenure.UnitID) int {
	return cmp.Or(
		cmp.Compare(a.Snap, b.Snap),
		cmp.Compare(rank(a.Kind), rank(b.Kind)),
		cmp.Compare(a.App, b.App),
		cmp.Compare(a.At, b.At),
		compareBool(a.Kind == tenure.Workload, b.Kind == tenure.Workload),
		cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Label, b.Label),
		cmp.Compare(a.Serial, b.Serial),
	)
}

func rank(kind tenure.UnitKind) int {
	switch kind {
	case tenure.Service, tenure.Workload:
		return 0
	case tenure.AppRun:
		return 1
	case tenure.HookRun:
		return 2
	}
	return 3
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
