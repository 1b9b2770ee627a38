package tenure

import (
	"fmt"
	"slices"
)

// Reason is why processes are being asked to end.
type Reason string

// The reasons.
const (
	ReasonRefresh  Reason = "refresh"
	ReasonRevert   Reason = "revert"
	ReasonRestart  Reason = "restart"
	ReasonStop     Reason = "stop"
	ReasonDisable  Reason = "disable"
	ReasonRemove   Reason = "remove"
	ReasonShutdown Reason = "shutdown"
)

// Reasons are all reasons, in the order in which tables show them.
func Reasons() []Reason {
	return []Reason{ReasonRefresh, ReasonRevert, ReasonRestart, ReasonStop, ReasonDisable, ReasonRemove, ReasonShutdown}
}

// Final reports whether nothing of what ends for the reason is to go on under another
// name: it has no time left to start anything.
func (r Reason) Final() bool {
	return r == ReasonDisable || r == ReasonRemove || r == ReasonShutdown
}

// Verdict is what a change does to one unit.
type Verdict string

// The verdicts.
const (
	// Restart ends the unit by its stop protocol and starts it again, on the
	// revision that is then current.
	Restart Verdict = "restart"
	// Reload tells the main process that its package has changed.
	Reload Verdict = "reload"
	// HandOver starts the new revision beside the old, which then drains.
	HandOver Verdict = "hand over"
	// Endure leaves the unit alone, on the revision that it was started from.
	Endure Verdict = "endure"
	// Defer makes the change wait until the unit has ended.
	Defer Verdict = "defer"
	// Stop ends the unit by its stop protocol.
	Stop Verdict = "stop"
	// Refuse fails the change before anything is touched.
	Refuse Verdict = "refuse"
)

// Verdicts are all verdicts.
func Verdicts() []Verdict {
	return []Verdict{Restart, Reload, HandOver, Endure, Defer, Stop, Refuse}
}

// UnmarshalText refuses what is not a verdict: the set is closed.
func (v *Verdict) UnmarshalText(text []byte) error {
	if !slices.Contains(Verdicts(), Verdict(text)) {
		return fmt.Errorf("%w: verdict %q", ErrName, text)
	}
	*v = Verdict(text)
	return nil
}

// UnmarshalText refuses what is not a reason: the set is closed.
func (r *Reason) UnmarshalText(text []byte) error {
	if !slices.Contains(Reasons(), Reason(text)) {
		return fmt.Errorf("%w: reason %q", ErrName, text)
	}
	*r = Reason(text)
	return nil
}
