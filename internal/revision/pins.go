package revision

import "tenure"

// Pin is one reason to keep a revision.
type Pin struct {
	Kind Kind `json:"kind"`
	// By names what pins: a unit, a change, a process, or the administrator's words.
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

// Facts are what pins depend on, beside the state.
type Facts struct {
	// Retain is refresh.retain; below 1 is DefaultRetain.
	Retain int `json:"retain,omitempty"`
	// Units are the living units started from each revision, and, for a base, those that
	// run on it.
	Units map[tenure.Revision][]tenure.UnitID `json:"units,omitempty"`
	// Changes are the ids of changes that are not finished.
	Changes map[tenure.Revision][]string `json:"changes,omitempty"`
	// Admin are the administrator's reasons.
	Admin map[tenure.Revision][]string `json:"admin,omitempty"`
	// Users are the processes that use the revision's mount, by device number.
	Users map[tenure.Revision][]tenure.Process `json:"users,omitempty"`
}

// DefaultRetain is refresh.retain where nobody set it, as in snapd on classic systems.
const DefaultRetain = 2
