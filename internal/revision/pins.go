package revision

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"tenure"
)

// Pin is one reason to keep a revision.
type Pin struct {
	Kind Kind `json:"kind"`
	// By names what pins: a unit, a change, a pid, or the administrator's
	// words. It is empty for PinCurrent and PinRetained.
	By string `json:"by,omitempty"`
}

// Kind is the kind of a pin.
type Kind string

// The kinds of pins, in the order in which they are shown.
const (
	// PinCurrent is that the revision is the current one.
	PinCurrent Kind = "current"
	// PinRetained is that it is kept to be reverted to (refresh.retain).
	PinRetained Kind = "retained"
	// PinUnit is that a living unit was started from it or runs on it as its base.
	PinUnit Kind = "unit"
	// PinChange is that a change that is not finished needs it.
	PinChange Kind = "change"
	// PinAdmin is that the administrator keeps it.
	PinAdmin Kind = "admin"
	// PinProcess is that a process uses its mount, whoever it belongs to.
	PinProcess Kind = "process"
)

// String is the pin in words: "unit virt.virtd/vm.4711".
func (p Pin) String() string {
	if p.By == "" {
		return string(p.Kind)
	}
	return fmt.Sprintf("%s %s", p.Kind, p.By)
}

// Facts are what pins depend on, beside the state.
type Facts struct {
	// Retain is refresh.retain; below 1 is DefaultRetain.
	Retain int `json:"retain,omitempty"`
	// Units are the living units started from each revision, and, for a base,
	// those that run on it.
	Units map[tenure.Revision][]tenure.UnitID `json:"units,omitempty"`
	// Changes are the ids of changes that are not finished.
	Changes map[tenure.Revision][]string `json:"changes,omitempty"`
	// Admin are the administrator's reasons.
	Admin map[tenure.Revision][]string `json:"admin,omitempty"`
	// Users are the processes that use the revision's mount, by device number.
	Users map[tenure.Revision][]tenure.Process `json:"users,omitempty"`
}

// DefaultRetain is refresh.retain where nobody set it, as in snapd on classic
// systems.
const DefaultRetain = 2

// Pins are the reasons to keep each revision that is on disk, in the order of their
// kinds. A revision without a reason has no entry. Facts about revisions that
// are not on disk pin nothing.
//
// Of the history, refresh.retain revisions are kept in all: the current one,
// then those that reverts would go to, nearest first, then, where there is room
// after a revert, those that it went back from, nearest first.
func Pins(s State, f Facts) map[tenure.Revision][]Pin {
	retained := s.retained(f.Retain)
	pins := map[tenure.Revision][]Pin{}
	for _, rev := range s.Kept() {
		var p []Pin
		if rev == s.Current {
			p = append(p, Pin{Kind: PinCurrent})
		}
		if slices.Contains(retained, rev) {
			p = append(p, Pin{Kind: PinRetained})
		}
		p = appendPins(p, PinUnit, f.Units[rev], tenure.UnitID.String)
		p = appendPins(p, PinChange, f.Changes[rev], func(id string) string { return id })
		p = appendPins(p, PinAdmin, f.Admin[rev], func(why string) string { return why })
		p = appendPins(p, PinProcess, f.Users[rev], func(p tenure.Process) string { return strconv.Itoa(p.PID) })
		if len(p) > 0 {
			pins[rev] = p
		}
	}
	return pins
}

func appendPins[T any](pins []Pin, kind Kind, by []T, name func(T) string) []Pin {
	var found []Pin
	for _, b := range by {
		found = append(found, Pin{Kind: kind, By: name(b)})
	}
	slices.SortFunc(found, func(a, b Pin) int { return compareNatural(a.By, b.By) })
	return append(pins, slices.Compact(found)...)
}

// compareNatural orders numbers by value, and all else as text.
func compareNatural(a, b string) int {
	if x, err := strconv.Atoi(a); err == nil {
		if y, err := strconv.Atoi(b); err == nil {
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(a, b)
}

// retained are the revisions beside the current one that refresh.retain keeps.
func (s State) retained(retain int) []tenure.Revision {
	if !s.Installed() {
		return nil
	}
	if retain < 1 {
		retain = DefaultRetain
	}
	at := slices.Index(s.Sequence, s.Current)
	candidates := slices.Clone(s.Sequence[:at])
	slices.Reverse(candidates)
	candidates = append(candidates, s.Sequence[at+1:]...)
	return candidates[:min(retain-1, len(candidates))]
}

// Unreachable are the revisions on disk that nothing pins, in the order of Kept.
func Unreachable(s State, pins map[tenure.Revision][]Pin) []tenure.Revision {
	var revisions []tenure.Revision
	for _, rev := range s.Kept() {
		if len(pins[rev]) == 0 && rev != s.Current {
			revisions = append(revisions, rev)
		}
	}
	return revisions
}
