package revision

import (
	"slices"
	"time"

	"tenure"
)

// Failure is what is remembered of attempts to go to a revision, by its digest: the
// same bytes under another number are the same revision.
type Failure struct {
	Digest   string          `json:"sha256"`
	Revision tenure.Revision `json:"revision"`
	// Change is the number of the last change that failed; zero if none was begun.
	Change uint64 `json:"change,omitempty"`
	// At is when it was last tried, and Why says what it failed for. Refused is that no
	// change was begun then.
	At      time.Time `json:"at"`
	Why     string    `json:"why"`
	Refused bool      `json:"refused,omitempty"`
	// Fault is that the revision itself is at fault: its services did not start, or not
	// run well. It is not tried again by itself, ever. All else may have other causes.
	Fault bool `json:"fault,omitempty"`
	// Tries are how many times in a row it failed.
	Tries int `json:"tries"`
}

// Failures are those of one snap, oldest first. Operations give new ones and change
// none.
type Failures []Failure

// maxFailures bounds what is remembered of one snap.
const maxFailures = 20

// Note adds an attempt that has failed. One that was noted before changes nothing, so
// that what is known can be read again from the changes that are still there. One
// without a change counts whenever it is noted.
func (f Failures) Note(failed Failure) Failures {
	failed.Tries = 1
	if before, found := f.Of(failed.Digest); found {
		if !failed.Refused && before.Change >= failed.Change {
			return f
		}
		failed.Change = max(failed.Change, before.Change)
		failed.Tries += before.Tries
		failed.Fault = failed.Fault || before.Fault
	}
	next := append(f.Forget(failed.Digest), failed)
	return next[max(0, len(next)-maxFailures):]
}

// Forget is f without a revision: it was gone to.
func (f Failures) Forget(digest string) Failures {
	return slices.DeleteFunc(slices.Clone(f), func(old Failure) bool { return old.Digest == digest })
}

// Of is what is remembered of a revision.
func (f Failures) Of(digest string) (Failure, bool) {
	at := slices.IndexFunc(f, func(old Failure) bool { return old.Digest == digest })
	if at < 0 {
		return Failure{}, false
	}
	return f[at], true
}

// The first time that a revision is left alone after an attempt, and the longest.
const (
	firstBackOff = time.Hour
	maxBackOff   = 24 * time.Hour
)

// Again is when the revision may be tried again by itself; zero is never.
func (f Failure) Again() time.Time {
	if f.Fault {
		return time.Time{}
	}
	wait := firstBackOff
	for range f.Tries - 1 {
		wait = min(2*wait, maxBackOff)
	}
	return f.At.Add(wait)
}
