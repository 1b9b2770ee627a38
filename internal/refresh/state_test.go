package refresh

import (
	"errors"
	"testing"

	"tenure"
	"tenure/internal/revision"
	"tenure/internal/snapfile"
)

// A state that no daemon has written is an error of who reads it, and of nobody else.
func TestStateIsChecked(t *testing.T) {
	t.Parallel()
	x1, x2 := tenure.LocalRevision(1), tenure.LocalRevision(2)
	described := kept{Info: &snapfile.Snap{}}
	both := map[tenure.Revision]kept{x1: described, x2: described}
	for name, test := range map[string]struct {
		state snapState
		good  bool
	}{
		"whole":                   {snapState{Instance: probe, Line: revision.State{Sequence: []tenure.Revision{x1}, Aside: []tenure.Revision{x2}, Current: x1, Active: true}, Kept: both}, true},
		"removed, something kept": {snapState{Instance: probe, Line: revision.State{Aside: []tenure.Revision{x2}}, Kept: both}, true},
		"of another":              {snapState{Instance: "other"}, false},
		"not described":           {snapState{Instance: probe, Line: revision.State{Sequence: []tenure.Revision{x1}, Current: x1, Active: true}}, false},
		"described by nothing":    {snapState{Instance: probe, Line: revision.State{Aside: []tenure.Revision{x1}}, Kept: map[tenure.Revision]kept{x1: {}}}, false},
		"current and not there":   {snapState{Instance: probe, Line: revision.State{Sequence: []tenure.Revision{x1}, Current: x2, Active: true}, Kept: both}, false},
	} {
		if err := checked(string(probe), test.state); errors.Is(err, errState) == test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
