package refresh

import (
	"fmt"

	"tenure"
	"tenure/internal/supervise"
)

// maxNamed is how many workloads and instances that have names a snap may have at a time:
// those that live, and those that start with the machine. All that is done for a unit is
// done for each of them, so that a package that makes more and more would stop everybody.
// Who asks at the very same time as others may come in beside them.
const maxNamed = 512

// nameable reports whether a unit is one of those that are made as often as somebody
// thinks of a name.
func nameable(unit tenure.UnitID) bool {
	return unit.Named() || unit.Kind == tenure.Service && unit.At != ""
}

// roomFor refuses units that are to be made if their snap has too many then.
func roomFor(snap tenure.Instance, known map[tenure.UnitID]supervise.Status, kept map[tenure.UnitID]instance, made ...tenure.UnitID) error {
	has := map[tenure.UnitID]bool{}
	for unit, status := range known {
		if unit.Snap == snap && nameable(unit) && !idle(status) {
			has[unit] = true
		}
	}
	for unit, instance := range kept {
		if instance.Enabled {
			has[unit] = true
		}
	}
	before := len(has)
	for _, unit := range made {
		has[unit] = true
	}
	if len(has) > max(before, maxNamed) {
		return fmt.Errorf("%s has %d workloads and instances with names, and may have %d at a time; stop some first", snap, before, maxNamed)
	}
	return nil
}

// roomForWorkload is roomFor one workload.
func (m *Manager) roomForWorkload(known map[tenure.UnitID]supervise.Status, unit tenure.UnitID) error {
	kept, err := m.instancesOf(unit.Snap)
	if err != nil {
		return err
	}
	return roomFor(unit.Snap, known, kept, unit)
}
