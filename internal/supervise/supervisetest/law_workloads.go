package supervisetest

import (
	"slices"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

// helper is a process that a service forks and forgets.
func helper(name string) Program { return Program{Name: name, Daemonize: true} }

func toMain(s *supervise.Spec) { s.Stop.Target = supervise.TargetMain }

// withVMs names the workloads that hypervisor starts.
func withVMs(s *supervise.Spec) {
	s.Workloads = []supervise.Workload{{
		Name: "vm", Match: `name=machine-\d`,
		Stop: supervise.StopProtocol{Target: supervise.TargetGroup, Timeout: patience, Kill: supervise.KillAfterTimeout},
	}}
}

// hypervisor is a manager with two machines, one of which has a helper of its
// own, and a helper of the manager.
func hypervisor() Program {
	return Program{Notify: true, Children: []Program{
		{Name: "machine-1", Daemonize: true, Children: []Program{{Name: "disk"}}},
		{Name: "machine-2"},
		helper("dns"),
	}}
}

func leftover(l *law) {
	id := unit("careless")
	l.start(l.spec("careless", Program{Notify: true, Children: []Program{helper("forgotten")}}, toMain))
	infos := l.processes(id)
	if len(infos) != 2 {
		l.t.Fatalf("processes %+v, want two", infos)
	}
	main := l.status(id).Main
	ended := l.stop(id)
	if len(ended.Left) != 1 || ended.Left[0].Kind != tenure.Workload || ended.Left[0].Name != tenure.Leftover || ended.Left[0].Service() != id {
		l.t.Fatalf("left %v, want the leftover of %s", ended.Left, id)
	}
	left := ended.Left[0]
	split := l.event("split", func(e supervise.Event) bool { return e.Kind == supervise.EventSplit })
	if split.Unit != left || split.Parent != id {
		l.t.Errorf("event of the split: %+v", split)
	}
	if now := l.processes(left); len(now) != 1 || now[0].Process == main || now[0].Process != infos[1].Process {
		l.t.Errorf("processes of the leftover %+v, want %+v", now, infos[1])
	}
	l.start(l.spec("careless", Program{Notify: true}, toMain))
	if ended := l.stop(id); !slices.Equal(ended.Left, []tenure.UnitID{left}) {
		l.t.Errorf("left %v, want %v of the earlier stop", ended.Left, left)
	}
	l.stop(left)
	l.empty(left)
	if ended := l.stop(id); len(ended.Left) > 0 {
		l.t.Errorf("left %v, want nothing", ended.Left)
	}
}

func groupLeavesNothing(l *law) {
	id := unit("tidy")
	l.start(l.spec("tidy", Program{Notify: true, Children: []Program{helper("one"), {Name: "two"}}}))
	if infos := l.processes(id); len(infos) != 3 {
		l.t.Fatalf("processes %+v, want three", infos)
	}
	if ended := l.stop(id); len(ended.Left) > 0 {
		l.t.Errorf("left %v, want nothing", ended.Left)
	}
	l.empty(id)
}

// vms checks that exactly the two machines live, as they were, and returns them.
func (l *law) vms(left []tenure.UnitID, before map[tenure.Process]bool) []tenure.UnitID {
	l.t.Helper()
	if len(left) != 2 {
		l.t.Fatalf("left %v, want two machines", left)
	}
	count := 0
	for _, id := range left {
		if id.Name != "vm" || l.status(id).State != supervise.Running {
			l.t.Errorf("left %s, %+v", id, l.status(id))
		}
		for _, info := range l.processes(id) {
			count++
			if !before[info.Process] {
				l.t.Errorf("%s has %+v, which it had not", id, info)
			}
		}
	}
	if count != 3 {
		l.t.Errorf("%d processes live, want two machines and a disk", count)
	}
	return left
}

func (l *law) snapshot(id tenure.UnitID) map[tenure.Process]bool {
	l.t.Helper()
	all := make(map[tenure.Process]bool)
	for _, info := range l.processes(id) {
		all[info.Process] = true
	}
	return all
}

func workloads(l *law) {
	for _, target := range []supervise.Target{supervise.TargetGroup, supervise.TargetMain} {
		name := "virtd-" + string(target)
		id := unit(name)
		l.start(l.spec(name, hypervisor(), withVMs, func(s *supervise.Spec) { s.Stop.Target = target }))
		before := l.snapshot(id)
		if len(before) != 5 {
			l.t.Fatalf("processes %v, want five", before)
		}
		ended := l.stop(id)
		left := ended.Left
		if target == supervise.TargetMain {
			// What is not named is the leftover.
			at := slices.IndexFunc(left, func(u tenure.UnitID) bool { return u.Name == tenure.Leftover })
			if at < 0 {
				l.t.Fatalf("left %v, want the leftover too", left)
			}
			l.stop(left[at])
			left = slices.Delete(slices.Clone(left), at, at+1)
		}
		l.stop(l.vms(left, before)...)
		for _, e := range l.seen {
			if e.Kind == supervise.EventSignal && len(l.seen) > 0 && e.Unit != id {
				l.t.Errorf("a machine was signalled: %+v", e)
			}
		}
	}
}

func workloadsCrash(l *law) {
	id := unit("virtd")
	p := hypervisor()
	p.Exits, p.RunFor, p.Code = true, 50*time.Millisecond, 1
	l.start(l.spec("virtd", p, withVMs))
	before := l.snapshot(id)
	l.becomes(id, supervise.Failed)
	l.stop(l.vms(l.stop(id).Left, before)...)
}

func stopWorkload(l *law) {
	id := unit("virtd")
	l.start(l.spec("virtd", hypervisor(), withVMs, func(s *supervise.Spec) {
		s.Workloads[0].Stop.Command = &supervise.Command{Argv: Program{Name: "vm-shutdown", Exits: true, Kill: "MAINPID"}.Command(l.Exe).Argv}
	}))
	left := l.stop(id).Left
	if len(left) != 2 {
		l.t.Fatalf("left %v, want two machines", left)
	}
	one, two := left[0], left[1]
	l.stop(one)
	if _, known := l.known(one); known {
		l.t.Errorf("%s is known after its end", one)
	}
	if status := l.status(two); status.State != supervise.Running {
		l.t.Errorf("%s is %s, want it untouched", two, status.State)
	}
	l.stop(two, one)
}
