package systemd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/sandbox"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// scene is a supervisor, and an administrator who has but systemctl.
type scene struct {
	*root

	t   *testing.T
	ctx context.Context //nolint:containedctx // The test's own, with a bound.
	s   *Supervisor
	end func()
	// ended is that there is no supervisor.
	ended bool
}

const patience = 30 * time.Second

func newScene(t *testing.T) *scene {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience) //nolint:usetesting // Used after the test's own.
	sc := &scene{root: newRoot(t), t: t, ctx: ctx}
	sc.another()
	t.Cleanup(func() {
		if sc.ended {
			sc.another()
		}
		sc.clear(t, sc.s)
		sc.end()
		sc.sweep(t)
		cancel()
	})
	return sc
}

// another is another supervisor in the place of the one that has ended.
func (sc *scene) another() {
	sc.t.Helper()
	sc.ended = false
	s, end := sc.run(sc.t)
	sc.s, sc.end = s, func() {
		sc.ended = true
		end()
	}
}

func unitOf(name string) tenure.UnitID { return tenure.ServiceUnit("hand", tenure.App(name)) }

func (sc *scene) spec(name string, p supervisetest.Program, change ...func(*supervise.Spec)) supervise.Spec {
	sc.t.Helper()
	p.Name = name
	spec := supervise.Spec{
		Unit: unitOf(name), Revision: tenure.LocalRevision(1), Type: supervise.Notify, Command: p.Command(supervisetest.Executable(sc.t)),
		Stop:    supervise.StopProtocol{Target: supervise.TargetGroup, Timeout: patience, Kill: supervise.KillAfterTimeout},
		Restart: supervise.RestartPolicy{Condition: supervise.RestartAlways},
	}
	for _, c := range change {
		c(&spec)
	}
	return spec
}

func (sc *scene) start(specs ...supervise.Spec) {
	sc.t.Helper()
	if err := sc.s.Start(sc.ctx, specs...); err != nil {
		sc.t.Fatal(err)
	}
}

func (sc *scene) status(id tenure.UnitID) supervise.Status {
	sc.t.Helper()
	status, known := sc.s.status(sc.ctx, id)
	if !known {
		sc.t.Fatalf("%s is not known", id)
	}
	return status
}

// alias is the name of a service for systemctl.
func (sc *scene) alias(name string) string { return sc.prefix + ".hand." + name }

// systemctl runs that, and returns what it says.
func (sc *scene) systemctl(args ...string) string {
	sc.t.Helper()
	out, err := exec.CommandContext(sc.ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		sc.t.Fatalf("systemctl %s: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (sc *scene) show(name, property string) string {
	sc.t.Helper()
	return sc.systemctl("show", "--value", "--property="+property, sc.alias(name))
}

// await waits for a state of which nobody is told outside of systemd.
func (sc *scene) await(what string, is func() bool) {
	sc.t.Helper()
	for !is() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-sc.ctx.Done():
			sc.t.Fatalf("never: %s", what)
		}
	}
}

func machines() supervisetest.Program {
	return supervisetest.Program{Notify: true, Children: []supervisetest.Program{
		{Name: "machine-1", Daemonize: true, Children: []supervisetest.Program{{Name: "disk"}}},
		{Name: "machine-2"},
		{Name: "dns", Daemonize: true},
	}}
}

func withMachines(s *supervise.Spec) {
	s.Workloads = []supervise.Workload{{
		Name: "vm", Match: `name=machine-\d`,
		Stop: supervise.StopProtocol{Target: supervise.TargetGroup, Timeout: patience, Kill: supervise.KillAfterTimeout},
	}}
}

func (sc *scene) workloads() (all []supervise.Status) {
	sc.t.Helper()
	units, err := sc.s.Units(sc.ctx)
	if err != nil {
		sc.t.Fatal(err)
	}
	return slices.DeleteFunc(units, func(s supervise.Status) bool { return s.Unit.Kind != tenure.Workload })
}

func TestStatusByHand(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.spec("web", supervisetest.Program{Notify: true, Status: "at your service"}))
	main := sc.status(unitOf("web")).Main
	sc.await("systemd knows that it is ready", func() bool { return sc.show("web", "ActiveState") == "active" })
	said := sc.systemctl("status", "--no-pager", sc.alias("web"))
	for _, want := range []string{"hand.web (revision x1)", "Active: active (running)", "at your service", fmt.Sprintf("Main PID: %d", main.PID)} {
		if !strings.Contains(said, want) {
			t.Errorf("systemctl status says no %q:\n%s", want, said)
		}
	}
	if got := sc.show("web", "Slice"); got != sc.prefix+"-hand.slice" {
		t.Errorf("slice %s", got)
	}
}

func TestStopByHandLeavesWorkloads(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.spec("virtd", machines(), withMachines))
	before, err := sc.s.Processes(sc.ctx, unitOf("virtd"))
	if err != nil || len(before) != 5 {
		t.Fatalf("processes %v, %v, want five", before, err)
	}
	sc.systemctl("stop", sc.alias("virtd"))
	if status := sc.status(unitOf("virtd")); status.State != supervise.Inactive {
		t.Errorf("the service is %s, want that it rests", status.State)
	}
	left := 0
	for _, workload := range sc.workloads() {
		infos, err := sc.s.Processes(sc.ctx, workload.Unit)
		if err != nil {
			t.Error(err)
		}
		for _, info := range infos {
			if left++; !slices.ContainsFunc(before, func(i proc.Info) bool { return i.Process == info.Process }) {
				t.Errorf("%s has %s, which was not there before", workload.Unit, info.CommandLine())
			}
		}
		if !strings.HasSuffix(workload.Group, ".scope") {
			t.Errorf("%s is in %s, want a scope", workload.Unit, workload.Group)
		}
	}
	if left != 3 {
		t.Errorf("%d processes live, want two machines and a disk", left)
	}
	if state := sc.show("virtd", "ActiveState"); state != "inactive" {
		t.Errorf("systemd says %s", state)
	}
}

func TestRestartByHand(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.spec("virtd", machines(), withMachines))
	old := sc.status(unitOf("virtd"))
	sc.systemctl("restart", sc.alias("virtd"))
	now := sc.status(unitOf("virtd"))
	if now.State != supervise.Running || now.Main == old.Main || now.Generation != old.Generation+1 || now.Group != old.Group {
		t.Errorf("after the restart it is %+v, before %+v", now, old)
	}
	if len(sc.workloads()) != 2 {
		t.Errorf("workloads %+v, want two machines", sc.workloads())
	}
}

func TestHandOverMovesTheAlias(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.spec("web", supervisetest.Program{Notify: true}))
	old := sc.show("web", "Id")
	next := sc.spec("web", supervisetest.Program{Notify: true}, func(s *supervise.Spec) { s.Revision = tenure.LocalRevision(2) })
	if err := sc.s.Succeed(sc.ctx, next); err != nil {
		t.Fatal(err)
	}
	draining, err := sc.s.TakeOver(sc.ctx, unitOf("web"), 0)
	if err != nil {
		t.Fatal(err)
	}
	sc.await("the alias is that of the new generation", func() bool { return sc.show("web", "Id") != old })
	if said := sc.systemctl("status", "--no-pager", sc.alias("web")); !strings.Contains(said, "(revision x2)") || !strings.Contains(said, "active (running)") {
		t.Errorf("systemctl status says:\n%s", said)
	}
	// The old one is ended by hand, by its own name and settings.
	sc.systemctl("stop", old)
	sc.await("nobody knows the old generation any more", func() bool {
		_, known := sc.s.status(sc.ctx, draining)
		return !known
	})
	if status := sc.status(unitOf("web")); status.State != supervise.Running || status.Revision != tenure.LocalRevision(2) {
		t.Errorf("the service is %+v", status)
	}
}

func TestWithoutASupervisor(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.spec("web", supervisetest.Program{Notify: true, Store: []string{"kept"}}))
	old := sc.status(unitOf("web"))
	sc.end()
	sc.systemctl("restart", sc.alias("web"))
	if state := sc.show("web", "ActiveState"); state != "active" {
		t.Errorf("systemd says %s", state)
	}
	sc.another()
	now := sc.status(unitOf("web"))
	if now.State != supervise.Running || now.Main == old.Main || fmt.Sprint(now.Main.PID) != sc.show("web", "MainPID") {
		t.Errorf("the next supervisor has found %+v, before it was %+v", now, old)
	}
	sc.end()
	sc.systemctl("stop", sc.alias("web"))
	sc.another()
	if now := sc.status(unitOf("web")); now.State.Alive() {
		t.Errorf("the next supervisor has found %+v of what was stopped", now)
	}
}

func TestTheNextSupervisorAdopts(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.spec("virtd", machines(), withMachines))
	if err := sc.s.Split(sc.ctx, unitOf("virtd")); err != nil {
		t.Fatal(err)
	}
	before := append(sc.workloads(), sc.status(unitOf("virtd")))
	sc.end()
	sc.another()
	for _, old := range before {
		if now := sc.status(old.Unit); now.Main != old.Main || now.State != supervise.Running || now.Group != old.Group {
			t.Errorf("the next supervisor has found %+v, before it was %+v", now, old)
		}
	}
	sc.systemctl("stop", sc.alias("virtd"))
	if status := sc.status(unitOf("virtd")); status.State != supervise.Inactive || len(sc.workloads()) != 2 {
		t.Errorf("after a stop by hand the service is %s, the workloads %+v", status.State, sc.workloads())
	}
}

// TestWithoutItsFiles is what a service says that is started before anybody has mounted its snap.
func TestWithoutItsFiles(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.start(sc.spec("web", supervisetest.Program{Notify: true}))
	unit := sc.show("web", "Id")
	sc.end()
	sc.systemctl("stop", sc.alias("web"))
	path := filepath.Join(sc.path("specs"), unit+specSuffix)
	written, err := readSpec(path)
	if err != nil {
		t.Fatal(err)
	}
	spec := *written
	spec.Profile = sandbox.Profile{Root: sandbox.RootBase, Base: sc.path("base")}
	text, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(sc.ctx, "systemctl", "start", sc.alias("web")).CombinedOutput(); err == nil {
		t.Errorf("systemctl start has started it: %s", out)
	}
	sc.systemctl("stop", sc.alias("web")) // It is not started again.
	said, err := exec.CommandContext(sc.ctx, "sh", "-c", `journalctl --sync && exec journalctl --quiet --unit="$0"`, unit).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	for _, want := range []string{"nothing is mounted at " + sc.path("base"), "tenured-boot.service"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
}
