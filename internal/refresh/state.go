package refresh

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"tenure"
	"tenure/internal/revision"
	"tenure/internal/snapfile"
)

// snapState is what the journal keeps of one instance.
type snapState struct {
	Instance tenure.Instance `json:"instance"`
	// Line is the order of its revisions and which one is current.
	Line revision.State `json:"line"`
	// Kept describes every revision of Line.
	Kept map[tenure.Revision]kept `json:"kept"`
	// Disabled are the services that are not started by themselves.
	Disabled []tenure.App `json:"disabled,omitempty"`
	// Stopped are the services that the administrator has stopped; they start again
	// when he says so, or when the machine does.
	Stopped []tenure.App `json:"stopped,omitempty"`
	// Tracking is where its updates come from.
	Tracking Tracking `json:"tracking,omitzero"`
	// Options are those that it was last installed or refreshed with.
	Options Options `json:"options"`
}

// cloneState is a copy that shares nothing but what revisions are (kept), which nobody modifies.
func cloneState(s snapState) snapState {
	line := &s.Line
	line.Sequence, line.Aside, line.Skipped = slices.Clone(line.Sequence), slices.Clone(line.Aside), slices.Clone(line.Skipped)
	s.Kept, s.Disabled, s.Stopped = maps.Clone(s.Kept), slices.Clone(s.Disabled), slices.Clone(s.Stopped)
	return s
}

// errState is that a state says something that Tenure has never written.
var errState = errors.New("nobody has written this state of a snap")

// checked refuses a state, kept under key, that no daemon has written: of each revision that it speaks of there is a description,
// and what is current is one of them.
func checked(key string, s snapState) error {
	if string(s.Instance) != key {
		return fmt.Errorf("%w: under %q it is that of %q", errState, key, s.Instance)
	}
	for _, rev := range s.Line.Kept() {
		if s.Kept[rev].Info == nil {
			return fmt.Errorf("%w: %s@%s is not described", errState, key, rev)
		}
	}
	if s.Line.Active && !slices.Contains(s.Line.Sequence, s.Line.Current) {
		return fmt.Errorf("%w: revision %s of %s is current, and not there", errState, s.Line.Current, key)
	}
	return nil
}

// kept is what is known of one revision. What it points to is never modified.
type kept struct {
	Info *snapfile.Snap `json:"info"`
	// Digest is the SHA-256 of the file, in hex; Size its length in bytes.
	Digest    string    `json:"digest"`
	Size      int64     `json:"size"`
	Installed time.Time `json:"installed"`
	// Left is when it last ceased to be the current revision.
	Left time.Time `json:"left,omitzero"`
	// Origin is where it came from; nil for a file that somebody gave.
	Origin *Origin `json:"origin,omitempty"`
}

// installed is one revision, ready to be run from.
type installed struct {
	Ref     tenure.Ref
	Info    *snapfile.Snap
	Options Options
	// Origin is where it came from; nil for a file that somebody gave.
	Origin *Origin
	// Base is the revision that is its root; zero for classic, bare and bases.
	Base tenure.Ref
}

// classic reports whether the snap runs in the host's own namespace.
func (r *installed) classic() bool {
	return r.Info.Confinement == snapfile.Classic && !r.Options.JailMode
}

func (s *snapState) revision(rev tenure.Revision) installed {
	return installed{
		Ref:     tenure.Ref{Snap: s.Instance, Revision: rev},
		Info:    s.Kept[rev].Info,
		Options: s.Options,
		Origin:  s.Kept[rev].Origin,
	}
}
