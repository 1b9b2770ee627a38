package supervisetest

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// process is one that the Twin interprets.
type process struct {
	tenure.Process

	t       *Twin
	program Program
	args    []string
	ppid    int
	started time.Time
	// unit is the unit that it belongs to, if any; aux hears how a command of a
	// unit's ends.
	unit *twinUnit
	aux  func(proc.Exit)
	env  map[string]string
	// stops end what waits for a time.
	stops []func()
	// child is the pid of the last process that it has forked.
	child int
	// term is set when it has been told to end and takes its time.
	term bool
}

// twinSocket is an open declared socket, with the connections that wait in it.
type twinSocket struct {
	waiting []chan string
	// servers take connections from it, the latest first of all.
	servers []*process
}

// spawn starts a program: for a unit, or with env as a command, or on its own.
func (t *Twin) spawn(u *twinUnit, program Program, ppid int, env map[string]string) *process {
	t.lastPID++
	p := &process{
		Process: tenure.Process{PID: t.lastPID, Start: uint64(t.lastPID)}, //nolint:gosec // It counts up from a thousand.
		t:       t, program: program, args: program.Command("/twin").Argv, ppid: ppid, started: time.Now(), unit: u, env: env,
	}
	t.processes[p.PID] = p
	p.begin()
	return p
}

// begin does all that comes before the program is ready. What ends it is put off,
// so that whoever starts it has noted that it runs.
func (p *process) begin() {
	if p.program.Daemonize {
		rest := p.program
		rest.Daemonize = false
		p.t.spawn(p.unit, rest, 1, nil)
		p.put(0, func() { p.exit(proc.Exit{Known: true}) })
		return
	}
	if p.unit != nil {
		p.print()
	}
	if p.program.Kill != "" {
		if pid, err := strconv.Atoi(p.env[p.program.Kill]); err == nil {
			p.put(0, func() {
				if target := p.t.processes[pid]; target != nil {
					target.signal(syscall.SIGTERM)
				}
			})
		}
	}
	for _, child := range p.program.Children {
		p.child = p.t.spawn(p.unit, child, p.PID, nil).PID
	}
	if p.program.Passed && p.unit != nil {
		p.say("STATUS=" + passedText(strings.Join(p.unit.passed, ":")))
	}
	for _, name := range p.program.Store {
		p.notify(func(u *twinUnit) { u.stored = append(u.stored, name) })
	}
	if p.program.Serve && p.unit != nil {
		p.serve()
	}
	if p.program.Notify {
		if p.program.Status != "" {
			p.notify(func(u *twinUnit) { u.status.Text = p.program.Status })
		}
		p.put(0, func() {
			p.say(p.program.Say...)
			p.put(p.program.ReadyAfter, func() { p.say(append([]string{"READY=1"}, p.program.Add...)...) })
		})
	}
	for n := range p.program.Alive {
		p.put(time.Duration(n+1)*p.program.Every, func() { p.say("WATCHDOG=1") })
	}
	if p.program.Exits {
		p.put(p.program.RunFor, func() {
			p.put(0, func() { p.exit(proc.Exit{Known: true, Code: p.program.Code, Signal: p.program.Die}) })
		})
	}
}

// put does something later, unless the process has ended by then. No time at
// all is as soon as what goes on is done.
func (p *process) put(d time.Duration, f func()) {
	alive := func() {
		if p.t.processes[p.PID] == p {
			f()
		}
	}
	if d == 0 {
		p.t.later = append(p.t.later, alive)
		return
	}
	p.stops = append(p.stops, p.t.after(d, alive))
}

// notify tells the supervisor of the process's unit.
func (p *process) notify(say func(*twinUnit)) {
	if p.unit != nil {
		say(p.unit)
	}
}

func (p *process) info() proc.Info {
	return proc.Info{Process: p.Process, PPID: p.ppid, Args: p.args, Comm: "twin", State: 'S', Started: p.started}
}

// signal does what the program does when it gets one.
func (p *process) signal(number syscall.Signal) {
	killed := proc.Exit{Known: true, Signal: proc.SignalName(number)}
	switch {
	case number == syscall.SIGTERM && p.program.IgnoreTerm:
	case number == syscall.SIGTERM && p.program.gentle():
		if !p.term {
			p.term = true
			p.put(0, func() { p.say(p.program.TermSay) })
			p.put(p.program.TermAfter, func() { p.exit(proc.Exit{Known: true, Code: p.program.TermCode}) })
		}
	case number == syscall.SIGHUP && p.program.Reload != "":
		p.notify(func(u *twinUnit) { u.status.Text = p.program.Reload })
	default:
		p.put(0, func() { p.exit(killed) })
	}
}

// exit ends the process; its children get another parent.
func (p *process) exit(how proc.Exit) {
	delete(p.t.processes, p.PID)
	for _, stop := range p.stops {
		stop()
	}
	for _, child := range p.t.processes {
		if child.ppid == p.PID {
			child.ppid = 1
		}
	}
	for _, socket := range p.t.sockets {
		socket.servers = slices.DeleteFunc(socket.servers, func(server *process) bool { return server == p })
	}
	switch {
	case p.aux != nil:
		p.aux(how)
	case p.unit != nil:
		p.unit.exited(p, how)
	}
}

// descendants are p and what came out of it, oldest first.
func (t *Twin) descendants(p *process) []*process {
	family := []*process{p}
	for i := 0; i < len(family); i++ {
		for _, other := range t.processes {
			if other.ppid == family[i].PID {
				family = append(family, other)
			}
		}
	}
	slices.SortFunc(family, byAge)
	return family
}

func byAge(a, b *process) int { return cmp.Compare(a.PID, b.PID) }

// Connect opens a connection to a declared socket. The answer is the pid of the
// process that takes it; the channel is closed when the connection ends.
func (t *Twin) Connect(socket supervise.Socket) <-chan string {
	answer := make(chan string, 1)
	t.do(func() {
		open := t.sockets[socket.Address]
		if open == nil {
			close(answer)
			return
		}
		open.waiting = append(open.waiting, answer)
		if last := len(open.servers) - 1; last >= 0 {
			open.servers[last].answer(open)
			return
		}
		for _, u := range t.units {
			u.connected()
		}
	})
	return answer
}

// serve takes the connections of all sockets of the process's unit.
func (p *process) serve() {
	for _, declared := range p.unit.status.Spec.Sockets {
		if socket := p.t.sockets[declared.Address]; socket != nil {
			socket.servers = append(socket.servers, p)
			p.answer(socket)
		}
	}
}

func (p *process) answer(socket *twinSocket) {
	for _, connection := range socket.waiting {
		connection <- strconv.Itoa(p.PID)
		close(connection)
	}
	socket.waiting = nil
}
