package revision

import (
	"slices"

	"tenure"
)

// State is what is known of the revisions of one instance. The zero value is
// a snap that is not installed.
type State struct {
	// Sequence is the history: oldest first, each revision once.
	Sequence []tenure.Revision `json:"sequence,omitempty"`
	// Current is the revision that the name of the snap stands for, in Sequence; zero when
	// the snap is not installed.
	Current tenure.Revision `json:"current,omitzero"`
	// Active is that the snap is enabled.
	Active bool `json:"active,omitempty"`
	// Aside are revisions that are on disk and not in the history: staged, left out
	// by a refresh after a revert, or outliving the removal of the snap.
	Aside []tenure.Revision `json:"aside,omitempty"`
	// Skipped are the revisions that a revert went back from. An automatic refresh
	// does not go to them again. A refresh to another one forgets them.
	Skipped []tenure.Revision `json:"skipped,omitempty"`
	// LastLocal is the number of the last local revision; 0 is none yet.
	LastLocal int `json:"last_local,omitempty"`
}

// Delta is what an operation changed.
type Delta struct {
	// From and To are the current revision before and after; zero is none.
	From tenure.Revision `json:"from,omitzero"`
	To   tenure.Revision `json:"to,omitzero"`
	// Added and Dropped are revisions that came to the disk, or must leave it now.
	Added   []tenure.Revision `json:"added,omitempty"`
	Dropped []tenure.Revision `json:"dropped,omitempty"`
	// Activated and Deactivated are that the snap was enabled or disabled.
	Activated   bool `json:"activated,omitempty"`
	Deactivated bool `json:"deactivated,omitempty"`
}

// Installed reports whether the snap is installed, enabled or not.
func (s State) Installed() bool { return !s.Current.IsZero() }

// Kept are all revisions that are on disk, those set aside first, then the
// history, oldest first: what `list --all` shows.
func (s State) Kept() []tenure.Revision { return slices.Concat(s.Aside, s.Sequence) }

// Has reports whether rev is on disk.
func (s State) Has(rev tenure.Revision) bool {
	return slices.Contains(s.Sequence, rev) || slices.Contains(s.Aside, rev)
}
