package supervisetest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

// brancher is the supervisor's ability to make workloads by name; one that has
// none has nothing to prove.
func (l *law) brancher() supervise.Brancher {
	l.t.Helper()
	b, able := l.Supervisor.(supervise.Brancher)
	if !able {
		l.t.Skip("this supervisor makes no workloads by name")
	}
	return b
}

// named is the workload of a service that it has named.
func named(service, name string) tenure.UnitID {
	id, err := unit(service).ParseWorkload(name)
	if err != nil {
		panic(err) // The parts of the law name them well.
	}
	return id
}

func (l *law) workload(id tenure.UnitID, p Program, change ...func(*supervise.Spec)) supervise.Spec {
	p.Name = id.Label
	return l.spec(id.Label, p, append(change, func(s *supervise.Spec) { s.Unit, s.Type = id, supervise.Simple })...)
}

func (l *law) branch(id tenure.UnitID, p Program, change ...func(*supervise.Spec)) {
	l.t.Helper()
	if err := l.brancher().Branch(l.ctx, id.Service(), l.workload(id, p, change...)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *law) refuses(what string, want, got error) {
	l.t.Helper()
	if !errors.Is(got, want) {
		l.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func branches(l *law) {
	id, web, db := unit("virtd"), named("virtd", "vm@web"), named("virtd", "vm")
	l.start(l.spec("virtd", Program{Notify: true}))
	l.branch(web, Program{})
	split := l.event("split", func(e supervise.Event) bool { return e.Kind == supervise.EventSplit })
	if split.Unit != web || split.Parent != id {
		l.t.Errorf("event of the branch: %+v", split)
	}
	l.branch(db, Program{Children: []Program{{Name: "disk"}}})
	status := l.inState(web, supervise.Running)
	if infos := l.processes(web); len(infos) != 1 || infos[0].Process != status.Main || status.Generation != 1 {
		l.t.Errorf("%s is %+v with %+v", web, status, infos)
	}
	if infos := l.processes(id); len(infos) != 1 {
		l.t.Errorf("processes of the service %+v, want one", infos)
	}
	l.refuses("a name that lives", supervise.ErrRunning, l.brancher().Branch(l.ctx, id, l.workload(web, Program{})))
	l.refuses("a service that is not known", supervise.ErrUnknown, l.brancher().Branch(l.ctx, unit("other"), l.workload(named("other", "vm"), Program{})))
	l.refuses("a name that is not its own", supervise.ErrUnknown, l.brancher().Branch(l.ctx, id, l.workload(id.Workload("vm", 7), Program{})))
	if ended := l.stop(id); !slices.Equal(ended.Left, []tenure.UnitID{db, web}) {
		l.t.Errorf("left %v, want both workloads", ended.Left)
	}
	if now := l.inState(web, supervise.Running); now.Main != status.Main {
		l.t.Errorf("main %+v, want %+v", now.Main, status.Main)
	}
	l.refuses("a service that has ended", supervise.ErrNotReady, l.brancher().Branch(l.ctx, id, l.workload(named("virtd", "vm@late"), Program{})))
	l.stop(web, db)
}

func branchEnds(l *law) {
	job := named("batch", "job@one")
	l.start(l.spec("batch", Program{Notify: true}))
	l.branch(job, Program{Exits: true, Code: 3})
	l.becomes(job, supervise.Failed)
	l.empty(job)
	if exit := l.status(job).LastExit; exit == nil || exit.Code != 3 {
		l.t.Errorf("exit %v, want 3", exit)
	}
	l.branch(job, Program{Exits: true, RunFor: 20 * time.Millisecond})
	l.becomes(job, supervise.Inactive)
	l.empty(job)
	if status := l.status(job); status.Generation != 2 || status.LastExit == nil || !status.LastExit.Success() {
		l.t.Errorf("status %+v, want a second generation that ended well", status)
	}
	err := l.brancher().Branch(l.ctx, job.Service(), l.workload(job, Program{}, func(s *supervise.Spec) { s.Command.Argv = []string{"/nonexistent/program"} }))
	l.refuses("a program that does not exist", supervise.ErrNotReady, err)
	l.inState(job, supervise.Failed)
	if err := l.Supervisor.Forget(l.ctx, job); err != nil {
		l.t.Error(err)
	}
	if _, known := l.known(job); known {
		l.t.Errorf("%s is known after it was forgotten", job)
	}
	l.stop(unit("batch"))
}

func branchDaemonizes(l *law) {
	vm := named("virtd", "vm@web")
	l.start(l.spec("virtd", Program{Notify: true}))
	l.branch(vm, Program{Daemonize: true})
	main := l.event("another main process", func(e supervise.Event) bool { return e.Kind == supervise.EventMain && e.Unit == vm }).Processes[0]
	if status := l.inState(vm, supervise.Running); status.Main != main || status.Main != l.processes(vm)[0].Process {
		l.t.Errorf("status %+v, want the main process %+v", status, main)
	}
	l.stop(vm, unit("virtd"))
}

func branchStops(l *law) {
	reader, ok := l.Supervisor.(supervise.LogReader)
	if !ok {
		l.t.Skip("this supervisor keeps no logs")
	}
	vm := named("virtd", "vm@web")
	l.start(l.spec("virtd", Program{Notify: true}))
	l.branch(vm, Program{IgnoreTerm: true, Print: []string{"booting"}}, func(s *supervise.Spec) {
		s.Stop.Command = &supervise.Command{Argv: Program{Name: "vm-shutdown", Exits: true}.Command(l.Exe).Argv}
		s.Stop.Timeout = 30 * time.Millisecond
	})
	l.logged(reader, vm, 1)
	l.stop(unit("virtd"))
	if ended := l.stop(vm); !slices.Equal(ended.Killed, []tenure.UnitID{vm}) || len(ended.Left) > 0 {
		l.t.Errorf("ended %+v, want it killed after its own grace", ended)
	}
	l.inState(vm, supervise.Inactive)
}

// nested is a manager with a process three deep, and another.
func nested() Program {
	return Program{Notify: true, Children: []Program{
		{Name: "monitor", Children: []Program{{Name: "machine", Children: []Program{{Name: "disk"}}}}},
		{Name: "dns"},
	}}
}

// process is the process of a unit that runs the program name.
func (l *law) process(id tenure.UnitID, name string) tenure.Process {
	l.t.Helper()
	for _, info := range l.processes(id) {
		if strings.Contains(info.CommandLine(), "name="+name+" ") {
			return info.Process
		}
	}
	l.t.Fatalf("%s has no process %s", id, name)
	return tenure.Process{}
}

func (l *law) adopt(id tenure.UnitID, p tenure.Process) {
	l.t.Helper()
	if err := l.brancher().Adopt(l.ctx, l.workload(id, Program{}), p); err != nil {
		l.t.Fatal(err)
	}
}

func adopts(l *law) {
	id, vm := unit("virtd"), named("virtd", "vm@web")
	l.start(l.spec("virtd", nested()))
	before := l.snapshot(id)
	machine := l.process(id, "machine")
	l.adopt(vm, machine)
	if status := l.inState(vm, supervise.Running); status.Main != machine {
		l.t.Errorf("main %+v, want %+v", status.Main, machine)
	}
	if infos := l.processes(vm); len(infos) != 2 || !before[infos[0].Process] || !before[infos[1].Process] {
		l.t.Errorf("processes %+v, want the machine and its disk", infos)
	}
	if infos := l.processes(id); len(infos) != 3 {
		l.t.Errorf("processes %+v of the service, want its own three", infos)
	}
	if ended := l.stop(id); !slices.Equal(ended.Left, []tenure.UnitID{vm}) {
		l.t.Errorf("left %v, want %s", ended.Left, vm)
	}
	l.stop(vm)
	l.empty(vm)
	l.inState(vm, supervise.Inactive)
}

func adoptsAgain(l *law) {
	id, one, two := unit("virtd"), named("virtd", "vm@one"), named("virtd", "vm@two")
	l.start(l.spec("virtd", nested()))
	machine := l.process(id, "machine")
	l.adopt(one, machine)
	disk := l.process(one, "disk")
	l.adopt(two, disk)
	if infos := l.processes(one); len(infos) != 1 || l.status(two).Main != disk {
		l.t.Errorf("%s has %+v, want the machine alone", one, infos)
	}
	three := named("virtd", "vm@three")
	l.adopt(three, machine)
	l.becomes(one, supervise.Failed)
	if status := l.inState(three, supervise.Running); status.Main != machine {
		l.t.Errorf("main %+v, want %+v", status.Main, machine)
	}
	l.stop(id, two, three)
	l.inState(two, supervise.Inactive)
}

func adoptsNothing(l *law) {
	id, vm := unit("virtd"), named("virtd", "vm@web")
	l.start(l.spec("virtd", nested()))
	adopt := func(id tenure.UnitID, p tenure.Process) error {
		return l.brancher().Adopt(l.ctx, l.workload(id, Program{}), p)
	}
	l.refuses("the main process", supervise.ErrRunning, adopt(vm, l.status(id).Main))
	machine := l.process(id, "machine")
	other := machine
	other.Start++
	l.refuses("another process of the pid", supervise.ErrUnknown, adopt(vm, other))
	l.refuses("a name with a pid", supervise.ErrUnknown, adopt(id.Workload("vm", 7), machine))
	foreign := vm
	foreign.Snap = "other"
	l.refuses("a process of another snap", supervise.ErrUnknown, adopt(foreign, machine))
	if _, known := l.known(vm); known {
		l.t.Errorf("%s is known", vm)
	}
	l.adopt(vm, machine)
	l.refuses("a name that lives", supervise.ErrRunning, adopt(vm, l.process(id, "dns")))
	l.stop(id, vm)
}
