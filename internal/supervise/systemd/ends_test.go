package systemd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// TestEndsWithoutASupervisor: the next supervisor knows how services have ended while there was none.
func TestEndsWithoutASupervisor(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	never := func(s *supervise.Spec) { s.Restart.Condition = supervise.RestartNever }
	sc.start(
		sc.spec("seven", supervisetest.Program{Notify: true, TermCode: 7}, never),
		sc.spec("killed", supervisetest.Program{Notify: true}, never),
	)
	sc.end()
	want := map[string]proc.Exit{"seven": {Known: true, Code: 7}, "killed": {Known: true, Signal: "SIGKILL"}}
	for name, signal := range map[string]string{"seven": "TERM", "killed": "KILL"} {
		sc.systemctl("kill", "--kill-who=main", "--signal="+signal, sc.alias(name))
		sc.await(name+" has ended", func() bool { return sc.show(name, "ActiveState") == "failed" })
	}
	sc.another()
	for name, exit := range want {
		sc.await(name+" is known to have ended", func() bool { return sc.status(unitOf(name)).State == supervise.Failed })
		if status := sc.status(unitOf(name)); status.LastExit == nil || cmp.Diff(exit, *status.LastExit) != "" {
			t.Errorf("%s: %s", name, cmp.Diff(&exit, status.LastExit))
		}
	}
}

// TestNoSliceIsLeft: with the last of a snap its slice goes, and what is set for it holds for the next life.
func TestNoSliceIsLeft(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	slice := sc.prefix + "-hand" + slice
	shown := func(property string) string {
		t.Helper()
		return sc.systemctl("show", "--value", "--property="+property, slice)
	}
	sc.start(sc.spec("web", supervisetest.Program{Notify: true}))
	sc.t.Cleanup(func() { _ = os.RemoveAll(filepath.Join("/etc/systemd/system.control", slice+dropIn)) })
	sc.systemctl("set-property", slice, "TasksMax=1234")
	if err := sc.s.DropLogs(sc.ctx, "hand"); err != nil {
		t.Error(err)
	}
	if state := shown("ActiveState"); state != "active" {
		t.Errorf("the slice of what runs is %s", state)
	}
	if _, err := sc.s.Stop(sc.ctx, supervise.StopRequest{Units: []tenure.UnitID{unitOf("web")}, Reason: tenure.ReasonRemove}); err != nil {
		t.Error(err)
	}
	if err := sc.s.Forget(sc.ctx, unitOf("web")); err != nil {
		t.Error(err)
	}
	if err := sc.s.DropLogs(sc.ctx, "hand"); err != nil {
		t.Error(err)
	}
	if state := shown("ActiveState"); state != "inactive" {
		t.Errorf("the slice of nothing is %s", state)
	}
	sc.start(sc.spec("web", supervisetest.Program{Notify: true}))
	if got := shown("TasksMax"); got != "1234" {
		t.Errorf("TasksMax is %s in the next life", got)
	}
}
