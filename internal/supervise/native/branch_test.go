package native

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

func TestFamily(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		leader  int
		tree    []string
		members []int
		claims  []string
		err     error
	}{
		{"a child of a child, with its own", 12, []string{"10 1 virtd", "11 10 sh", "12 11 vm", "13 12 disk", "14 11 other"}, []int{12, 13}, nil, nil},
		{"what was born before has only its parent's pid", 12, []string{"10 1 virtd", "13 12 older", "12 10 vm"}, []int{12}, nil, nil},
		{"the main process stays", 12, []string{"12 1 monitor", "10 12 virtd", "13 12 disk"}, []int{12, 13}, nil, nil},
		{"a group of its own goes with it", 12, []string{"10 1 lxd", "12 10 monitor", "13 12 c1/init:init", "14 13 c1:sh"}, []int{12}, []string{"c1"}, nil},
		{"a group that others are in stays", 12, []string{"10 1 lxd", "12 10 monitor", "13 12 c1:init", "14 10 c1:sh"}, []int{12}, nil, nil},
		{"in a group of its own", 12, []string{"10 1 lxd", "12 10 c1:init", "13 12 sh"}, []int{13}, []string{"c1"}, nil},
		{"in a group that others are in", 12, []string{"10 1 lxd", "12 10 c1:init", "13 10 c1:sh"}, nil, nil, supervise.ErrRunning},
		{"in the group of the main process", 12, []string{"10 1 c1:lxd", "12 10 c1:init"}, nil, nil, supervise.ErrRunning},
		{"not there", 15, []string{"10 1 lxd"}, nil, nil, errMoved},
	} {
		infos := tree(t, test.tree...)
		processOf := func(pid int) (p tenure.Process) {
			for _, info := range infos {
				if info.PID == pid {
					p = info.Process
				}
			}
			return p
		}
		leader := processOf(test.leader)
		if leader.PID == 0 {
			leader.PID = test.leader
		}
		p, err := family(infos, leader, processOf(10))
		if !errors.Is(err, test.err) {
			t.Errorf("%s: %v, want %v", test.name, err, test.err)
		}
		if test.err != nil {
			continue
		}
		var members []int
		for _, member := range p.Members {
			members = append(members, member.PID)
		}
		slices.Sort(members)
		if diff := cmp.Diff([]any{test.members, test.claims}, []any{members, p.Claims}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func workloadNamed(t *testing.T, service tenure.UnitID, name string) tenure.UnitID {
	t.Helper()
	id, err := service.ParseWorkload(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A process that is adopted is not moved out of a group that its service made.
func TestAdoptInAGroupOfTheService(t *testing.T) {
	t.Parallel()
	s := newRoot(t).supervisor(t)
	spec := service(t, "lxd", supervisetest.Program{Notify: true, Children: []supervisetest.Program{{Name: "container", Daemonize: true}}})
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	container, group := payload(t, s, spec.Unit)
	ct := workloadNamed(t, spec.Unit, "ct@one")
	if err := s.Adopt(t.Context(), spec.Branch(ct, nil, spec.Stop), container.Process); err != nil {
		t.Fatal(err)
	}
	if infos, err := group.Processes(); err != nil || len(infos) != 1 || infos[0].Process != container.Process {
		t.Errorf("the group has %+v, %v, want the container where it was", infos, err)
	}
	if owner, ok := s.UnitOf(group.Path()); !ok || owner != ct {
		t.Errorf("the group is of %s, want %s", owner, ct)
	}
	again := workloadNamed(t, spec.Unit, "ct@two")
	if err := s.Adopt(t.Context(), spec.Branch(again, nil, spec.Stop), container.Process); !errors.Is(err, supervise.ErrRunning) {
		t.Errorf("adopt out of a claimed group: %v, want ErrRunning", err)
	}
	ended, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}})
	if err != nil || !slices.Equal(ended.Left, []tenure.UnitID{ct}) {
		t.Errorf("ended %+v, %v, want %s left", ended, err, ct)
	}
}

// A daemon that died while it started a workload leaves it started once or never, and
// one that died while it adopted a process leaves all of it in one unit.
func TestBranchOverTheDaemon(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	s, end := r.run(t)
	spec := service(t, "virtd", supervisetest.Program{Notify: true, Children: []supervisetest.Program{{Name: "vm", Children: []supervisetest.Program{{Name: "disk"}}}}})
	if err := s.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	infos, err := s.Processes(t.Context(), spec.Unit)
	if err != nil || len(infos) != 3 {
		t.Fatalf("processes %+v, %v", infos, err)
	}
	born, unborn, adopted := workloadNamed(t, spec.Unit, "vm@born"), workloadNamed(t, spec.Unit, "vm@unborn"), workloadNamed(t, spec.Unit, "vm@adopted")
	if err := s.Branch(t.Context(), spec.Unit, spec.Branch(born, spec.Command.Argv, spec.Stop)); err != nil {
		t.Fatal(err)
	}
	was := statusOf(t, s, born)
	end()

	store := records{r.path("units")}
	rewrite := func(from, to tenure.UnitID, change func(*record)) {
		rec, err := readRecord(store.path(from))
		if err != nil {
			t.Fatal(err)
		}
		spec := rec.Spec.Branch(to, rec.Spec.Command.Argv, rec.Spec.Stop)
		rec.Spec = &spec
		change(rec)
		if err := store.save(rec); err != nil {
			t.Fatal(err)
		}
	}
	launching := func(rec *record) {
		rec.Launching, rec.State, rec.Main, rec.Ready = true, supervise.Starting, tenure.Process{}, false
	}
	rewrite(born, born, launching)
	rewrite(born, unborn, func(rec *record) {
		launching(rec)
		group, err := r.hierarchy.Create(groupName(unborn, 1))
		if err != nil {
			t.Fatal(err)
		}
		rec.Group = group.Path()
	})
	rewrite(born, adopted, func(rec *record) {
		group, err := r.hierarchy.Create(groupName(adopted, 1))
		if err != nil {
			t.Fatal(err)
		}
		from := statusOf(t, s, spec.Unit).Group
		if err := proc.GroupAt(from).Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		rec.Group, rec.From, rec.Main = group.Path(), from, infos[1].Process
		rec.Moving = []tenure.Process{infos[1].Process, infos[2].Process}
	})

	s = r.supervisor(t)
	if status := until(t, s, born, func(s supervise.Status) bool { return s.State == supervise.Running }); status.Main != was.Main {
		t.Errorf("%s is %+v, want the process %+v", born, status, was.Main)
	}
	if status := until(t, s, unborn, func(s supervise.Status) bool { return s.State == supervise.Failed }); status.Generation != 1 {
		t.Errorf("%s was started again: %+v", unborn, status)
	}
	until(t, s, adopted, func(s supervise.Status) bool { return s.State == supervise.Running })
	for id, want := range map[tenure.UnitID]int{spec.Unit: 1, adopted: 2} {
		now, err := s.Processes(t.Context(), id)
		if err != nil || len(now) != want {
			t.Errorf("%s has %+v, %v, want %d processes", id, now, err, want)
		}
	}
	frozen, err := proc.GroupAt(statusOf(t, s, spec.Unit).Group).Frozen()
	if err != nil || frozen {
		t.Errorf("the service stands still: %t, %v", frozen, err)
	}
}

// A service that takes its time to end may start workloads meanwhile, unless nothing of
// it is to be left.
func TestNothingComesOutOfWhatIsRemoved(t *testing.T) {
	t.Parallel()
	s := newRoot(t).supervisor(t)
	for _, reason := range tenure.Reasons() {
		spec := service(t, "virtd", supervisetest.Program{Notify: true, IgnoreTerm: true, Children: []supervisetest.Program{{Name: "vm", IgnoreTerm: true}}})
		if err := s.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		infos, err := s.Processes(t.Context(), spec.Unit)
		if err != nil || len(infos) != 2 {
			t.Fatalf("processes %+v, %v", infos, err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := s.Stop(t.Context(), supervise.StopRequest{Units: []tenure.UnitID{spec.Unit}, Reason: reason})
			ended <- err
		}()
		until(t, s, spec.Unit, func(s supervise.Status) bool { return s.State == supervise.Stopping })
		var want error
		if reason.Final() {
			want = supervise.ErrNotReady
		}
		born, adopted := workloadNamed(t, spec.Unit, "vm@born-"+string(reason)), workloadNamed(t, spec.Unit, "vm@adopted-"+string(reason))
		plain := service(t, "vm", supervisetest.Program{})
		if err := s.Branch(t.Context(), spec.Unit, spec.Branch(born, plain.Command.Argv, plain.Stop)); !errors.Is(err, want) {
			t.Errorf("start on %s: %v, want %v", reason, err, want)
		}
		if err := s.Adopt(t.Context(), spec.Branch(adopted, nil, plain.Stop), infos[1].Process); !errors.Is(err, want) {
			t.Errorf("adopt on %s: %v, want %v", reason, err, want)
		}
		for _, info := range infos {
			signalTo(t, info.Process, syscall.SIGKILL)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
