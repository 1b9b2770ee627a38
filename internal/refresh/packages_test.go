package refresh

import (
	"strings"
	"testing"

	"tenure"
	"tenure/internal/hook"
	"tenure/internal/supervise/supervisetest"
)

// A hook hears at once of what it asks for and nobody would do: of what is not its snap's, and of
// what no step after it looks at.
func TestHooksControlTheirOwnServices(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{})
	for _, c := range []struct {
		hook              hook.Name
		action, of, fails string
	}{
		{hook.Configure, "restart", "db.db", ""},
		{hook.Evacuate, "stop", "db", ""},
		{hook.Remove, "stop", "db.db", ""},
		{hook.Remove, "start", "db.db", `from the hook "remove"`},
		{hook.GateAutoRefresh, "stop", "db.db", `from the hook "gate-auto-refresh"`},
		{hook.Configure, "start", "web.web", "unknown service"},
		{hook.Configure, "start", "web", "unknown service"},
		{hook.PostRefresh, "stop", "db.db@one", "instances cannot be controlled from a hook"},
	} {
		caller := hook.Caller{Unit: tenure.UnitID{Snap: "db", Kind: tenure.HookRun, App: tenure.App(c.hook), Serial: 7}}
		id, err := h.Packages("1").Control(t.Context(), caller, hook.Control{Action: c.action, Names: []string{c.of}})
		if id != 0 || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("snapctl %s %s in the hook %s: change %d, %v, want an error with %q", c.action, c.of, c.hook, id, err, c.fails)
		}
	}
}
