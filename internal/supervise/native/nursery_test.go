package native

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// manages is a manager of machines that has none yet.
func manages(t *testing.T, change ...func(*supervise.Spec)) supervise.Spec {
	t.Helper()
	return service(t, "virtd", supervisetest.Program{Notify: true}, append(change, func(s *supervise.Spec) {
		s.Workloads = []supervise.Workload{{Name: "vm", Match: `^\S+ \S+ name=machine `, Stop: s.Stop}}
	})...)
}

// fork starts a program that daemonizes in the group of a unit, as one of its processes
// would, and returns when it is ready.
func fork(t *testing.T, s *Supervisor, id tenure.UnitID, p supervisetest.Program) {
	t.Helper()
	forkInto(t, proc.GroupAt(statusOf(t, s, id).Group), p)
}

func forkInto(t *testing.T, where proc.Group, p supervisetest.Program) {
	t.Helper()
	group, err := where.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	// A shell is its parent: whom this process has forked, the supervisor in it reaps.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `"$@"; exit $?`, "sh"}, p.Command(supervisetest.Executable(t)).Argv...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd()), Setsid: true} //nolint:gosec // A descriptor is no number to overflow.
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
}

// splits gives the units that come out of others from now on.
func splits(t *testing.T, s *Supervisor) <-chan supervise.Event {
	t.Helper()
	events, found := s.Events(t.Context()), make(chan supervise.Event, 16)
	go func() {
		for e := range events {
			if e.Kind == supervise.EventSplit {
				found <- e
			}
		}
	}()
	return found
}

func next(t *testing.T, found <-chan supervise.Event) supervise.Event {
	t.Helper()
	select {
	case e := <-found:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no unit came out of the service")
		return supervise.Event{}
	}
}

func names(t *testing.T, s *Supervisor, id tenure.UnitID) (all []string) {
	t.Helper()
	infos, err := s.Processes(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		_, name, _ := strings.Cut(info.CommandLine(), "name=")
		name, _, _ = strings.Cut(name, " ")
		all = append(all, name)
	}
	return all
}

func (n *nursery) listens() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.deafen != nil
}

// A machine is a unit of its own while its manager runs on, with what it forks, and
// keeps its name when the manager stops. Nobody listens while no manager runs.
func TestWorkloadIsAUnitWhileItsServiceRuns(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	r.settle = 20 * time.Millisecond
	s := r.supervisor(t)
	if err := s.Start(t.Context(), service(t, "plain", supervisetest.Program{})); err != nil {
		t.Fatal(err)
	}
	if s.nursery.listens() {
		t.Error("it listens although no service has workloads")
	}
	spec, found := manages(t), splits(t, s)
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	main := statusOf(t, s, spec.Unit).Main
	fork(t, s, spec.Unit, supervisetest.Program{Name: "dns", Daemonize: true})
	fork(t, s, spec.Unit, supervisetest.Program{Name: "machine", Daemonize: true, Children: []supervisetest.Program{{Name: "disk"}}})
	split := next(t, found)
	if split.Parent != spec.Unit || split.Unit.Service() != spec.Unit || split.Unit.Name != "vm" {
		t.Errorf("event %+v, want a vm of %s", split, spec.Unit)
	}
	if got := names(t, s, split.Unit); !slices.Contains(got, "machine") || !slices.Contains(got, "disk") || slices.Contains(got, "dns") {
		t.Errorf("%s has %v, want the machine and its disk", split.Unit, got)
	}
	if got := names(t, s, spec.Unit); !slices.Equal(got, []string{"virtd", "dns"}) {
		t.Errorf("%s has %v, want the manager and its dns", spec.Unit, got)
	}
	if status := statusOf(t, s, spec.Unit); status.State != supervise.Running || status.Main != main {
		t.Errorf("status of the manager %+v, want it untouched", status)
	}
	ended, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}, Reason: tenure.ReasonRefresh})
	if err != nil || !slices.Contains(ended.Left, split.Unit) {
		t.Errorf("ended %+v, %v, want %s left", ended, err, split.Unit)
	}
	if s.nursery.listens() {
		t.Error("it listens although the service has stopped")
	}
}

// A service that does not stand still in time is asked to again.
func TestWorkloadIsAUnitInTheEnd(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	r.settle = time.Millisecond
	s := r.supervisor(t)
	spec := manages(t)
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	u, _ := s.find(spec.Unit)
	prepared, failed := make(chan struct{}), make(chan struct{})
	err := u.tell(t.Context(), func(context.Context) {
		defer close(prepared)
		u.early.again = time.Millisecond
		u.early.stand = func(context.Context, time.Duration) (func(), error) {
			defer close(failed)
			u.early.stand = u.stand
			return func() {}, context.DeadlineExceeded
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	<-prepared
	found := splits(t, s)
	fork(t, s, spec.Unit, supervisetest.Program{Name: "machine", Daemonize: true})
	<-failed
	if split := next(t, found); split.Parent != spec.Unit || split.Unit.Name != "vm" {
		t.Errorf("event %+v, want a vm of %s", split, spec.Unit)
	}
}

// Workloads that started while no supervisor ran are set apart by the next one.
func TestWorkloadIsAUnitAfterAdoption(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	first, end := r.run(t)
	spec := manages(t)
	if err := first.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	end()
	fork(t, first, spec.Unit, supervisetest.Program{Name: "machine", Daemonize: true})
	r.settle = time.Nanosecond
	s := r.supervisor(t)
	units, err := s.Units(t.Context())
	if err != nil || len(units) != 2 {
		t.Errorf("units %+v, %v, want the manager and its machine", units, err)
	}
}

// What a service starts after another supervisor has adopted it is set apart as well, although
// nothing has happened to the service since.
func TestAdoptedServiceIsFollowed(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	r.settle = time.Millisecond
	first, end := r.run(t)
	spec := manages(t)
	if err := first.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	end()
	s := r.supervisor(t)
	found := splits(t, s)
	fork(t, s, spec.Unit, supervisetest.Program{Name: "machine", Daemonize: true})
	if split := next(t, found); split.Parent != spec.Unit || split.Unit.Name != "vm" {
		t.Errorf("event %+v, want a vm of %s", split, spec.Unit)
	}
}

// A monitor that has been a unit for long makes a group for what it runs, below the
// manager's, as container managers do: that is part of its unit, lives through a
// stop of the manager, and its name can be used again when it is gone.
func TestGroupMadeForAWorkload(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	r.settle = time.Millisecond
	s := r.supervisor(t)
	spec, found := manages(t), splits(t, s)
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	fork(t, s, spec.Unit, supervisetest.Program{Name: "machine", Daemonize: true, Children: []supervisetest.Program{{Name: "guest"}}})
	vm := next(t, found).Unit
	infos, err := s.Processes(t.Context(), vm)
	if err != nil || len(infos) != 2 {
		t.Fatalf("processes of %s: %+v, %v", vm, infos, err)
	}
	group := proc.GroupAt(statusOf(t, s, spec.Unit).Group + "/guest")
	if err := os.Mkdir(group.Path(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := group.Move(infos[1].PID); err != nil {
		t.Fatal(err)
	}
	for !slices.Contains(names(t, s, vm), "guest") && time.Since(begun) < 20*time.Second {
		// As a container begins its life. While one lives, the group is not the machine's alone.
		forkInto(t, group, supervisetest.Program{Name: "shell", Exits: true})
		<-time.After(20 * time.Millisecond) // Nobody tells what joins a unit.
	}
	if got := names(t, s, vm); !slices.Equal(got, []string{"machine", "guest"}) {
		t.Errorf("%s has %v, want the machine and its guest", vm, got)
	}
	if unit, ok := s.UnitOf(group.Path()); !ok || unit != vm {
		t.Errorf("the guest's group is of %s, want %s", unit, vm)
	}
	if _, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{vm}}); err != nil {
		t.Fatal(err)
	}
	until(t, s, spec.Unit, func(supervise.Status) bool {
		ceded, known, err := request(t.Context(), s, spec.Unit, func(u *unit, _ context.Context, reply chan<- int) { reply <- len(u.rec.Ceded) })
		return known && err == nil && ceded == 0
	})
}
