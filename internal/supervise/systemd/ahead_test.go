package systemd

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// revision is the spec of a service that says its revision, which is not in its unit before.
func (sc *scene) revision(kind supervise.Type, n int) supervise.Spec {
	sc.t.Helper()
	p := supervisetest.Program{Notify: true, Status: "revision " + strconv.Itoa(n)}
	return sc.spec("web", p, func(s *supervise.Spec) { s.Revision, s.Type = tenure.LocalRevision(n), kind })
}

// ahead prepares the start of a service, and returns the name of its unit and who waits in it.
func (sc *scene) ahead(spec supervise.Spec) (unit string, waiting *proc.Handle) {
	sc.t.Helper()
	if err := sc.s.Prepare(sc.ctx, spec); err != nil {
		sc.t.Fatal(err)
	}
	now := sc.show("web", "Id")
	unit = strings.TrimSuffix(sc.systemctl("list-units", "--plain", "--no-legend", "--state=activating,active", sc.alias("web")+".*.service"), "\n")
	for line := range strings.Lines(unit) {
		if name := strings.Fields(line)[0]; name != now {
			unit = name
		}
	}
	pid, err := strconv.Atoi(sc.systemctl("show", "--value", "--property=MainPID", unit))
	if err != nil || pid == 0 {
		sc.t.Fatalf("nobody waits in %s: %v", unit, err)
	}
	info, err := proc.Read(pid)
	if err == nil {
		waiting, err = proc.Open(info.Process)
	}
	if err != nil {
		sc.t.Fatal(err)
	}
	sc.t.Cleanup(waiting.Close)
	if main := sc.status(unitOf("web")).Main; waiting.Process() == main || sc.show("web", "MainPID") != strconv.Itoa(main.PID) {
		sc.t.Errorf("the service is process %s of systemd's, %v of ours, and %v waits", sc.show("web", "MainPID"), main, waiting.Process())
	}
	return unit, waiting
}

// gone waits until nobody waits in a unit any more, and systemd has forgotten it.
func (sc *scene) gone(unit string, waiting *proc.Handle) {
	sc.t.Helper()
	if _, err := waiting.Wait(sc.ctx); err != nil {
		sc.t.Error(err)
	}
	sc.await("systemd has forgotten "+unit, func() bool {
		return sc.systemctl("list-units", "--all", "--plain", "--no-legend", unit) == ""
	})
	for _, path := range []string{"/run/systemd/system/" + unit, sc.path("specs/" + unit + specSuffix)} {
		sc.await(path+" is removed", func() bool {
			_, err := os.Lstat(path)
			return os.IsNotExist(err)
		})
	}
}

// switchTo is the switch of a refresh.
func (sc *scene) switchTo(spec supervise.Spec) supervise.Status {
	sc.t.Helper()
	if _, err := sc.s.Stop(sc.ctx, supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}, HoldSockets: true}); err != nil {
		sc.t.Fatal(err)
	}
	sc.start(spec)
	return sc.status(spec.Unit)
}

// Who was started ahead is the service after the switch, and nobody before.
func TestAStartAhead(t *testing.T) {
	t.Parallel()
	for _, kind := range []supervise.Type{supervise.Notify, supervise.Simple} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			sc := newScene(t)
			sc.start(sc.revision(kind, 1))
			unit, waiting := sc.ahead(sc.revision(kind, 2))
			now := sc.switchTo(sc.revision(kind, 2))
			if now.Main != waiting.Process() || !strings.HasSuffix(now.Group, unit) {
				t.Errorf("the service is %+v, and process %v has waited in %s", now, waiting.Process(), unit)
			}
			info, err := proc.Read(now.Main.PID)
			if want := sc.revision(kind, 2).Command.Argv; err != nil || !slices.Equal(info.Args, want) {
				t.Errorf("it executes %q, %v, want %q", info.Args, err, want)
			}
			sc.await("its name is that of the service", func() bool { return sc.show("web", "Id") == unit })
		})
	}
}

// TestAStartAheadWaitsForNoSignal: what the package's stop signal does to a launcher does not matter.
func TestAStartAheadWaitsForNoSignal(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.revision(supervise.Notify, 1))
	next := sc.revision(supervise.Notify, 2)
	next.Stop.Signal = "SIGUSR1"
	unit, waiting := sc.ahead(next)
	if err := sc.s.Unprepare(sc.ctx, next.Unit); err != nil {
		t.Error(err)
	}
	sc.gone(unit, waiting)
}

// A start ahead that is not used leaves nothing, whoever has ended it; the service does not notice.
func TestAStartAheadIsDropped(t *testing.T) {
	t.Parallel()
	for name, drop := range map[string]func(sc *scene, unit string){
		"undone": func(sc *scene, _ string) {
			if err := sc.s.Unprepare(sc.ctx, unitOf("web")); err != nil {
				sc.t.Error(err)
			}
		},
		"another one": func(sc *scene, _ string) {
			if now := sc.switchTo(sc.revision(supervise.Notify, 3)); now.Revision != tenure.LocalRevision(3) {
				sc.t.Errorf("the service is %+v", now)
			}
		},
		"the supervisor ends": func(sc *scene, _ string) {
			sc.end()
			sc.another()
		},
		"by hand": func(sc *scene, unit string) {
			sc.systemctl("stop", unit)
			if now := sc.switchTo(sc.revision(supervise.Notify, 2)); now.Revision != tenure.LocalRevision(2) {
				sc.t.Errorf("the service is %+v", now)
			}
			// Its own process is there, in the unit that was to have it.
			sc.systemctl("stop", unit)
			sc.start(sc.revision(supervise.Notify, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sc := newScene(t)
			sc.start(sc.revision(supervise.Notify, 1))
			unit, waiting := sc.ahead(sc.revision(supervise.Notify, 2))
			drop(sc, unit)
			sc.gone(unit, waiting)
			if status := sc.status(unitOf("web")); status.State != supervise.Running {
				t.Errorf("the service is %+v", status)
			}
		})
	}
}
