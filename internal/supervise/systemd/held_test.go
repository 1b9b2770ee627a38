package systemd

import (
	"os/exec"
	"testing"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/native"
)

// TestHeldUntilTheGapIsOver: a supervisor dies when the new revision is ready to be started, and the gap is not
// over. Nobody starts it alone, neither who connects nor who does so by hand; the next supervisor does.
func TestHeldUntilTheGapIsOver(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sockets := sc.sockets()
	sc.start(sc.server(1, sockets...))
	old := sc.connect(sockets[0])()
	sc.inState(supervise.Running) // It answers before it is known to, and until then somebody waits for it.
	sc.s.Gap(true)
	down := supervise.StopRequest{Units: []tenure.UnitID{unitOf("web")}, Reason: tenure.ReasonRefresh, HoldSockets: true}
	if _, err := sc.s.Stop(sc.ctx, down); err != nil {
		t.Fatal(err)
	}
	sc.start(sc.server(2, sockets...))
	sc.inState(supervise.Listening)
	sc.end()
	answer := sc.connect(sockets[0])
	if out, err := exec.CommandContext(sc.ctx, "systemctl", "restart", sc.alias("web")+service).CombinedOutput(); err == nil {
		t.Errorf("it was started alone: %s", out)
	}
	// Who connects has it started again and again, each time in vain.
	sc.await("it has ended with status 199", func() bool { return sc.show("web", "ExecMainStatus") == "199" })
	sc.another()
	if got := answer(); got == old {
		t.Error("the old process has answered")
	}
	if running := sc.inState(supervise.Running); running.Revision != tenure.LocalRevision(2) {
		t.Errorf("revision %s runs", running.Revision)
	}
	held := func() bool { return native.Held(sc.s.host.state, sc.boot(), unitOf("web")) }
	if !held() {
		t.Error("it is not held before the gap is over")
	}
	sc.s.Gap(false)
	sc.await("it is held no more", func() bool { return !held() })
}

func (sc *scene) boot() string {
	sc.t.Helper()
	_, boot, err := recordOf(sc.alias("web") + service)
	if err != nil {
		sc.t.Fatal(err)
	}
	return boot
}
