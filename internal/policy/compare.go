package policy

import (
	"fmt"
	"slices"

	"tenure"
)

// Compare holds what was planned against what is there after the change has been
// carried out. Units of after have the processes that live then. Processes
// that have ended by themselves cannot be told from those that were ended: a
// process that was to endure and is gone is a difference in any case. The order is
// that of the plan.
func Compare(plan Plan, after []Unit) []Difference {
	now := map[tenure.Process]tenure.UnitID{}
	for _, u := range after {
		for _, p := range u.Processes {
			now[p.Process] = u.ID
		}
	}
	var differences []Difference
	for _, item := range plan.Items {
		for _, p := range item.Processes {
			unit, alive := now[p]
			if kind, text := item.compare(p, unit, alive); kind != "" {
				differences = append(differences, Difference{kind, item.Unit, p, text})
			}
		}
		if text := plan.notStarted(item, after); text != "" {
			differences = append(differences, Difference{Kind: NotStarted, Unit: item.Unit, Text: text})
		}
	}
	return differences
}

// compare tells what is wrong about one process of the item; nothing is an empty
// kind.
func (i *Item) compare(p tenure.Process, unit tenure.UnitID, alive bool) (DifferenceKind, string) {
	switch i.Verdict {
	case tenure.Endure, tenure.Defer, tenure.Refuse, tenure.Reload:
		switch {
		case !alive && (i.Verdict == tenure.Endure || i.Verdict == tenure.Refuse || i.Signal != ""):
			return Died, fmt.Sprintf("process %d was to live and is gone", p.PID)
		case alive && (i.Verdict == tenure.Endure || i.Signal != "") && !i.is(unit):
			return Moved, fmt.Sprintf("process %d is in %s", p.PID, unit)
		}
	case tenure.HandOver: // The old process may still drain.
	case tenure.Restart, tenure.Stop:
		if alive && !i.mayLeave(p, unit) {
			return Survived, fmt.Sprintf("process %d was to end and lives in %s", p.PID, unit)
		}
	}
	return "", ""
}

// mayLeave reports whether p, which was to end with the item's main process and was
// not signalled itself, may have become a unit of its own instead.
func (i *Item) mayLeave(p tenure.Process, unit tenure.UnitID) bool {
	return i.Stop != nil && i.Stop.Target == TargetMain && p != i.Main &&
		unit.Kind == tenure.Workload && unit.Name == tenure.Leftover
}

// is reports whether a unit is that of the item. What lives on in a service that lives
// on too need not have become a unit.
func (i *Item) is(unit tenure.UnitID) bool {
	return unit == i.Unit || sameLeftover(unit, i.Unit) || i.Unit.Kind == tenure.Workload && unit == i.Unit.Service()
}

// sameLeftover reports whether both are what one service left behind: which process is
// the oldest of it, and names it, is known only when the service has ended.
func sameLeftover(a, b tenure.UnitID) bool {
	return a.Kind == tenure.Workload && a.Name == tenure.Leftover && b.Name == tenure.Leftover && a.Service() == b.Service()
}

// notStarted tells that a service that was to run the new revision does not.
func (p Plan) notStarted(item Item, after []Unit) string {
	if p.Refusal != nil || !renews(item.Verdict) || item.Unit.Kind == tenure.Workload {
		return ""
	}
	want := p.Change.To
	if want.IsZero() {
		want = p.Change.From
	}
	started := slices.ContainsFunc(after, func(u Unit) bool {
		return u.ID == item.Unit && u.Active && (want.IsZero() || u.Revision == want)
	})
	if started {
		return ""
	}
	return fmt.Sprintf("%s was to run revision %s and does not", item.Unit, want)
}
