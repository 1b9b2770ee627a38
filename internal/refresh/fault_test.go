package refresh

import (
	"encoding/json"
	"testing"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/policy"
)

// A revision is at fault when its own hooks fail, in the gap or outside of it; not when
// the one that ran before it refuses to let go.
func TestWhoseHookIsAtFault(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind  string
		hook  hook.Name
		fault bool
	}{
		{taskHookInGap, hook.PostRefresh, true},
		{taskHook, hook.Configure, true},
		{taskHook, hook.CheckHealth, true},
		{taskHook, hook.PreRefresh, false},
		{taskHook, hook.Evacuate, false},
	} {
		params, err := json.Marshal(hookParams{Change: policy.Change{Reason: tenure.ReasonRefresh, Snap: probe}, Hook: c.hook})
		if err != nil {
			t.Fatal(err)
		}
		failed := &change.Change{Tasks: []change.Task{{Kind: c.kind, Status: change.Error, Params: params}}}
		if got := atFault(failed, probe); got != c.fault {
			t.Errorf("%s: at fault %t, want %t", c.hook, got, c.fault)
		}
	}
}
