package refresh

import (
	"context"
	"testing"
	"time"

	"tenure"
	"tenure/internal/hook"
	"tenure/internal/policy"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// A stop that a hook asks for takes no longer than the administrator allows.
func TestStopsOfHooksHaveALimit(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{IgnoreTerm: true})
	if err := h.settings.Put(optionStopTimeout, []byte(`"20ms"`)); err != nil {
		t.Fatal(err)
	}
	status, err := h.statusOf(t.Context(), tenure.ServiceUnit("db", "db"))
	if err != nil {
		t.Fatal(err)
	}
	spec := *status.Spec
	spec.Stop.Timeout, spec.Stop.Kill = time.Hour, supervise.KillAfterTimeout
	if err := h.twin.Reload(t.Context(), supervise.ReloadRequest{Spec: spec, Quiet: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	step := hookStep{h.Manager}
	params := hookParams{Change: policy.Change{Snap: "db", Reason: tenure.ReasonRefresh}, Hook: hook.Configure}
	if err := step.control(ctx, params, []hook.Control{{Action: string(ActionStop), Names: []string{"db.db"}}}); err != nil {
		t.Fatal(err)
	}
}
