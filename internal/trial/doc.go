// Package trial tries a refresh out for a packager: on the real daemon, in a root of its
// own, it installs a snap, loads it, refreshes it, reverts it, lets a refresh fail, and
// removes it, and compares what happened with what the package declares.
//
// Always true: the instance of the machine is not touched, and nothing of a trial is left
// when Run has returned, or the Report says what is.
//
// Run may be called several times at once.
package trial

import (
	"time"
)

// Config is what is tried.
type Config struct {
	// Old and New are the snap files, With those of the bases and of whatever else they
	// need, which are installed first.
	Old, New string
	With     []string
	// Classic allows that the snaps are classic.
	Classic bool
	// Load, if set, is a command of sh(1) that puts the snap under load while all goes
	// on. For every request it prints one line: "ok MILLISECONDS" or "failed WHY". Its
	// environment has TENURE_ROOT, SNAP_NAME, SNAP_COMMON and SNAP_MOUNT (the directory
	// of all revisions, as seen from outside). It is told to end by SIGTERM.
	Load string
	// URL, if set, is asked again and again without ever trying again: "http://HOST:PORT/PATH",
	// or "unix:NAME" for the path "/" at a socket of that name in $SNAP_COMMON.
	URL string
	// Programs is the directory of tenured and snapctl.
	Programs string
	// Progress, if set, is told what is being done.
	Progress func(string)
}

// Report is what a trial came to.
type Report struct {
	Snap   string  `json:"snap"`
	Phases []Phase `json:"phases"`
	// Load is what the load met, over all phases.
	Load *Load `json:"load,omitempty"`
	// Leftovers are what was left when the snap was removed.
	Leftovers []string `json:"leftovers"`
	// Differences are what did not happen as the package declares; the trial has
	// succeeded if there is none.
	Differences []string `json:"differences"`
}

// Phase is one change of the snap.
type Phase struct {
	// Name is install, refresh, revert, failed-refresh or remove.
	Name string `json:"name"`
	// Took is how long the change took, in milliseconds.
	Took float64 `json:"took-ms"`
	// Units are what the plan said of each unit, and what became of it.
	Units []Unit `json:"units,omitempty"`
	// Requests are those of the load in this phase.
	Requests *Load `json:"requests,omitempty"`
}

// Unit is a unit over a change.
type Unit struct {
	Unit    string `json:"unit"`
	Verdict string `json:"verdict"`
	Rule    string `json:"rule"`
	// Before and After are the main processes and their revisions, if there are any.
	Before *Process `json:"before,omitempty"`
	After  *Process `json:"after,omitempty"`
	// Survived is that the main process before is the one after.
	Survived bool `json:"survived"`
	// Gap is for how long a service was not ready, in milliseconds.
	Gap float64 `json:"gap-ms"`
}

// Process is a process by what identifies it, and its revision.
type Process struct {
	PID      int    `json:"pid"`
	Start    uint64 `json:"start"`
	Revision string `json:"revision"`
}

// Load is what was asked and answered.
type Load struct {
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Median, P99 and Slowest are latencies of what was answered, in milliseconds.
	Median  float64 `json:"median-ms"`
	P99     float64 `json:"p99-ms"`
	Slowest float64 `json:"slowest-ms"`
	// Failures are the first few, in words.
	Failures []string `json:"failures,omitempty"`
}

// milliseconds is d as a number for people and programs.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
