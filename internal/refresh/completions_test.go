package refresh

import (
	"testing"
	"testing/synctest"

	"tenure"
	"tenure/internal/entry"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// A completer that its daemon has not lived to end is ended by the next one, and a run of an app
// goes on.
func TestCompletersEndWithTheirDaemon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		run := func(serial int, args ...string) tenure.UnitID {
			t.Helper()
			spec := supervise.Spec{
				Unit: tenure.UnitID{Snap: probe, Kind: tenure.AppRun, App: "say", Serial: serial}, Revision: tenure.LocalRevision(1),
				Type: supervise.Simple, Command: supervise.Command{Argv: append([]string{"/bin/bash"}, args...)},
				Stop: supervise.StopProtocol{Signal: "SIGKILL", Target: supervise.TargetGroup, Kill: supervise.KillAfterTimeout},
			}
			if err := h.twin.Track(t.Context(), spec, h.twin.Spawn(supervisetest.Program{})); err != nil {
				t.Fatal(err)
			}
			return spec.Unit
		}
		completer := run(1, entry.CompleterArgs("/snap/probe/x1/complete", "probe.say")...)
		app := run(2, "-p", "-c", "exit", "complete")
		if err := h.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		known, err := h.statuses(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if known[completer].State.Alive() || !known[app].State.Alive() {
			t.Errorf("the completer is %s, the app is %s", known[completer].State, known[app].State)
		}
	})
}
