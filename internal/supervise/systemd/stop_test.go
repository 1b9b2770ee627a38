package systemd

import (
	"context"
	"errors"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// What the administrator's rules say of the end of a service holds where systemd is asked for it, too:
// neither the supervisor kills it when the time is over that the package gives, nor does systemd, which knows no more.
func TestRulesHoldForAStopByHand(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.arbiter.Heed(func(context.Context, tenure.UnitID) (supervise.Terms, error) {
		return supervise.Terms{Kill: supervise.KillNever}, nil
	})
	sc.start(sc.spec("db", supervisetest.Program{Notify: true, IgnoreTerm: true}, func(s *supervise.Spec) { s.Stop.Timeout = 100 * time.Millisecond }))
	main, err := proc.Open(sc.status(unitOf("db")).Main)
	if err != nil {
		t.Fatal(err)
	}
	defer main.Close()
	sc.systemctl("stop", "--no-block", sc.alias("db"))
	ctx, cancel := context.WithTimeout(sc.ctx, stopNet+time.Second)
	defer cancel()
	if _, err := main.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the service was killed: %v", err)
	}
	if _, err := sc.s.Stop(sc.ctx, supervise.StopRequest{Units: []tenure.UnitID{unitOf("db")}, Kill: true}); err != nil {
		t.Error(err)
	}
}

// lost is a service that systemd has taken another process for the main one of, which has been ended by a signal.
func (sc *scene) lost(signal unix.Signal) supervise.Status {
	sc.t.Helper()
	sc.start(sc.spec("web", supervisetest.Program{Notify: true, Children: []supervisetest.Program{{Name: "worker", Daemonize: true}}}))
	service := sc.status(unitOf("web"))
	infos, err := sc.s.Processes(sc.ctx, unitOf("web"))
	if err != nil || len(infos) != 2 {
		sc.t.Fatalf("processes %v, %v, want two", infos, err)
	}
	worker := infos[0].PID + infos[1].PID - service.Main.PID
	if err := relay(service.Main.PID, mainPID+"="+strconv.Itoa(worker)); err != nil {
		sc.t.Fatal(err)
	}
	sc.await("systemd takes another process for the main one", func() bool { return sc.show("web", "MainPID") == strconv.Itoa(worker) })
	if err := unix.Kill(worker, signal); err != nil {
		sc.t.Fatal(err)
	}
	return service
}

// untouched fails the test unless the service is as it was.
func (sc *scene) untouched(service supervise.Status) {
	sc.t.Helper()
	if now := sc.status(unitOf("web")); now.State != supervise.Running || now.Main != service.Main {
		sc.t.Errorf("the service is %+v, and was %+v", now, service)
	}
}

// Where systemd takes the good end of an earlier main process for that of the service nothing becomes of it, until
// somebody does want its end.
func TestSystemdLosesTheMainProcess(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	service := sc.lost(unix.SIGTERM)
	sc.await("systemd takes the service for ended", func() bool { return sc.show("web", "ActiveState") == "deactivating" })
	ctx, cancel := context.WithTimeout(sc.ctx, 300*time.Millisecond)
	defer cancel()
	q := question{Unit: sc.show("web", "Id"), Orphan: true}
	if err := sc.s.stopByHand(ctx, q, proc.GroupAt(service.Group)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who asks is told that it has ended: %v", err)
	}
	sc.untouched(service)
	sc.systemctl("stop", sc.alias("web"))
	if now := sc.status(unitOf("web")); now.State != supervise.Inactive {
		t.Errorf("the service is %s, want that it rests", now.State)
	}
}

// Where it takes a bad end for it, and starts the service anew, it is told which process that is.
func TestSystemdFindsTheMainProcess(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	service := sc.lost(unix.SIGKILL)
	sc.await("systemd takes the service for ended", func() bool { return sc.show("web", "SubState") == "auto-restart" })
	sc.systemctl("stop", sc.alias("web")) // It would wait for a minute.
	sc.systemctl("start", sc.alias("web"))
	if pid, state := sc.show("web", "MainPID"), sc.show("web", "ActiveState"); pid != strconv.Itoa(service.Main.PID) || state != "active" {
		t.Errorf("systemd says %s, main process %s, want active and %d", state, pid, service.Main.PID)
	}
	sc.untouched(service)
}

// systemd, which believes root, is not told of a main process that is not the unit's.
func TestAForgedMainIsNotPassedOn(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	other := exec.CommandContext(sc.ctx, "sleep", "infinity")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = other.Process.Kill(), other.Wait() })
	forged := strconv.Itoa(other.Process.Pid)
	sc.start(sc.spec("web", supervisetest.Program{Notify: true, Say: []string{mainPID + "=" + forged}, Status: "ready"}))
	sc.await("systemd knows that it is ready", func() bool { return sc.show("web", "StatusText") == "ready" })
	if got := sc.show("web", "MainPID"); got != strconv.Itoa(sc.status(unitOf("web")).Main.PID) {
		t.Errorf("systemd takes process %s for the main one; forged was %s", got, forged)
	}
}
