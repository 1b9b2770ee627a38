package systemd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tenure"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

const readAgain = "has read it again"

// reloadable is a server that says so when it has read its configuration again, and a command that
// makes it.
func (sc *scene) reloadable() supervise.Spec {
	return sc.spec("web", supervisetest.Program{Notify: true, Reload: readAgain}, func(s *supervise.Spec) {
		s.Reload = &supervise.Command{Argv: []string{"/bin/sh", "-c", "kill -HUP $MAINPID"}}
	})
}

func TestReloadByHand(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.reloadable())
	main := sc.status(unitOf("web")).Main
	sc.systemctl("reload", sc.alias("web"))
	sc.await("it says that it has read it again", func() bool { return sc.show("web", "StatusText") == readAgain })
	if status := sc.status(unitOf("web")); status.Main != main || status.State != supervise.Running {
		t.Errorf("after the reload it is %+v", status)
	}
}

func TestReloadByHandWithoutASupervisor(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.reloadable())
	sc.end()
	sc.systemctl("restart", sc.alias("web")) // It is on terms with systemd from now on.
	sc.systemctl("reload", sc.alias("web"))
	sc.await("it says that it has read it again", func() bool { return sc.show("web", "StatusText") == readAgain })
}

// TestStopCommandWithoutASupervisor: systemd's own end of a service begins with its stop command.
func TestStopCommandWithoutASupervisor(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	told := sc.path("told")
	sc.start(sc.spec("web", supervisetest.Program{Notify: true}, func(s *supervise.Spec) {
		s.Stop.Command = &supervise.Command{Argv: []string{"/bin/sh", "-c", `echo "$SNAP_LIFECYCLE_REASON $MAINPID $SNAP_LIFECYCLE_PIDS" >` + told}}
	}))
	main := sc.show("web", "MainPID")
	sc.end()
	sc.systemctl("stop", sc.alias("web"))
	text, err := os.ReadFile(told)
	if want := "stop " + main + " " + main + "\n"; err != nil || string(text) != want {
		t.Errorf("the stop command was told %q, %v, want %q", text, err, want)
	}
}

// edit adds a setting to a service, as "systemctl edit" does it: in the directory of the generation that
// the alias is.
func (sc *scene) edit(name, file, text string) {
	sc.t.Helper()
	dir := filepath.Join("/etc/systemd/system", sc.show(name, "Id")+dropIn)
	sc.write(filepath.Join(dir, file), text)
	sc.systemctl("daemon-reload")
}

func (sc *scene) write(path, text string) {
	sc.t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		sc.t.Fatal(err)
	}
	sc.t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(path)) })
}

// TestWhatIsAddedHoldsForEveryGeneration: what an administrator adds to a service by any of the
// three ways holds for what comes after it, also for one that overlaps with it and has no alias yet, and
// for the old one until it has ended.
func TestWhatIsAddedHoldsForEveryGeneration(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.write(filepath.Join("/etc/systemd/system", sc.alias("web")+service+dropIn, "10-hand.conf"), "[Service]\nOOMScoreAdjust=321\n")
	revision := func(n int) supervise.Spec {
		return sc.spec("web", supervisetest.Program{Notify: true}, func(s *supervise.Spec) { s.Revision = tenure.LocalRevision(n) })
	}
	properties := []string{"OOMScoreAdjust", "CPUWeight", "LogRateLimitBurst"}
	check := func(id string, want ...string) {
		t.Helper()
		for i, property := range properties {
			if got := sc.systemctl("show", "--value", "--property="+property, id); got != want[i] {
				t.Errorf("%s of %s is %s, want %s\n%s", property, id, got, want[i], sc.systemctl("show", "--property=DropInPaths", id))
			}
		}
	}
	sc.start(revision(1))
	first := sc.show("web", "Id")
	sc.systemctl("set-property", sc.alias("web"), "CPUWeight=77")
	sc.edit("web", "override.conf", "[Service]\nLogRateLimitBurst=55\n")
	check(first, "321", "77", "55")

	if err := sc.s.Succeed(sc.ctx, revision(2)); err != nil {
		t.Fatal(err)
	}
	second := strings.TrimSuffix(first, "1"+service) + "2" + service
	check(second, "321", "77", "55")
	draining, err := sc.s.TakeOver(sc.ctx, unitOf("web"), 0)
	if err != nil {
		t.Fatal(err)
	}
	sc.await("the alias is that of the new generation", func() bool { return sc.show("web", "Id") == second })
	check(first, "321", "77", "55")
	check(second, "321", "77", "55")
	if _, err := sc.s.Stop(sc.ctx, supervise.StopRequest{Units: []tenure.UnitID{draining}, Reason: tenure.ReasonRefresh}); err != nil {
		t.Error(err)
	}

	// What is changed now is what holds from now on.
	sc.systemctl("set-property", sc.alias("web"), "CPUWeight=99")
	sc.edit("web", "override.conf", "[Service]\nLogRateLimitBurst=66\n")
	check(second, "321", "99", "66")
	sc.restart(revision(3))
	third := strings.TrimSuffix(first, "1"+service) + "3" + service
	check(third, "321", "99", "66")

	// The next life of the service has it, too.
	stopped := supervise.StopRequest{Units: []tenure.UnitID{unitOf("web")}, Reason: tenure.ReasonRemove}
	if _, err := sc.s.Stop(sc.ctx, stopped); err != nil {
		t.Error(err)
	}
	if err := sc.s.Forget(sc.ctx, unitOf("web")); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob("/etc/systemd/*/" + sc.alias("web") + ".[0-9]*"); err != nil || len(left) > 0 {
		t.Errorf("what was added to generations is left: %v, %v", left, err)
	}
	sc.systemctl("daemon-reload")
	sc.start(revision(4))
	check(sc.show("web", "Id"), "321", "99", "66")
	sc.t.Cleanup(func() { _ = os.RemoveAll("/etc/systemd/system.control/" + sc.alias("web") + service + dropIn) })
}

// restart refreshes a service without an overlap.
func (sc *scene) restart(next supervise.Spec) {
	sc.t.Helper()
	_, err := sc.s.Stop(sc.ctx, supervise.StopRequest{Units: []tenure.UnitID{next.Unit}, Reason: tenure.ReasonRefresh, HoldSockets: true})
	if err != nil {
		sc.t.Fatal(err)
	}
	sc.start(next)
}
