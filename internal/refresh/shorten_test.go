package refresh

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/revision"
	"tenure/internal/snapfile"
)

// TestShorten learns the same of a refresh that has failed as before it was made short.
func TestShorten(t *testing.T) {
	t.Parallel()
	old, next := tenure.SourceRevision(1), tenure.SourceRevision(2)
	state := func(current tenure.Revision) *snapState {
		info := &snapfile.Snap{Description: "what the snap file says of itself"}
		return &snapState{
			Instance: "virt", Line: revision.State{Active: true, Current: current, Sequence: []tenure.Revision{old, next}},
			Kept: map[tenure.Revision]kept{old: {Info: info, Digest: "one"}, next: {Info: info, Digest: "two"}},
		}
	}
	raw := func(params any) json.RawMessage {
		text, err := json.Marshal(params)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	about := policy.Change{Reason: tenure.ReasonRefresh, Snap: "virt", From: old, To: next}
	failed := change.Change{
		Kind: kindRefresh, Status: change.Error, Ready: time.Now(),
		Tasks: []change.Task{
			{Kind: taskMount, Status: change.Undone, Params: raw(mountParams{Ref: tenure.Ref{Snap: "virt", Revision: next}}), Undo: raw(nothing{})},
			{Kind: taskDecide, Status: change.Undone, Params: raw(decideParams{Jobs: []job{{Reason: tenure.ReasonRefresh, Before: state(old), After: state(next)}}})},
			{Kind: taskStart, Status: change.Error, Err: "it ended", Params: raw(startParams{Change: about})},
		},
	}
	type outcome struct {
		To     string
		Digest string
		Fault  bool
	}
	learned := func(c *change.Change) (all []outcome) {
		for _, j := range jobsOf(c) {
			all = append(all, outcome{j.to().String(), j.After.Kept[j.to()].Digest, atFault(c, j.snap())})
		}
		return all
	}
	want := learned(&failed)
	Shorten(&failed)
	if diff := cmp.Diff(want, learned(&failed)); diff != "" || len(want) != 1 || !want[0].Fault {
		t.Errorf("%v (-long +short):\n%s", want, diff)
	}
	if failed.Tasks[0].Params != nil || failed.Tasks[0].Undo != nil || jobsOf(&failed)[0].After.Kept[next].Info != nil {
		t.Errorf("it is not short: %+v", failed.Tasks)
	}
}
