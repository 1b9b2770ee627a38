package soak

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// The verdicts, in the words of plans.
const (
	restart  = "restart"
	reload   = "reload"
	handOver = "hand over"
	endure   = "endure"
	wait     = "defer"
	stop     = "stop"
)

// world is all that there is, as it must be between two steps.
type world struct {
	Snaps map[string]*snap
	// Base is the snap that every other one runs on.
	Base line
	// Sets are the snapshots that are kept, by their number.
	Sets map[uint64]*saved
	// Ruled are the snaps whose service "ready" endures, by a rule.
	Ruled map[string]bool
	// lives is how many processes there have been.
	lives int
}

// line are the revisions of one snap. Those that are kept for nothing are in none of both.
type line struct {
	// History are those that were current, and that a revert may go to.
	History []int
	// Aside are those that only living processes keep.
	Aside   []int
	Current int
	// Last is the highest number that was given.
	Last int
}

// snap is a snap as it must be; one that is not installed has no current revision.
type snap struct {
	line

	Name    string
	Roles   []role
	Enabled bool
	Held    bool
	Alias   bool
	// Variants are what the revisions are, Marks the content of their data, Confs their
	// configuration as it was when they were last current.
	Variants map[int]variant
	Marks    map[int]string
	Confs    map[int]map[string]string
	// Common is the content of the data of all revisions.
	Common string
	Conf   map[string]string
	// Stopped are the services that were stopped by name.
	Stopped map[string]bool
	// Staged is the revision that waits, with its variant.
	Staged        int
	StagedVariant variant
	// Procs are the processes, by what they are called.
	Procs map[string]*process
}

// process is a process that must be there.
type process struct {
	// Kind is that of its unit: service, workload or app.
	Kind string
	// Service is the service that it is of, or came out of; empty for an app.
	Service string
	// Revision and Base are those that it runs from.
	Revision, Base int
	// Bases are others that it may run on: the base was refreshed while it was started.
	Bases []int
	// Life is another number for each process that there is.
	Life int
	// Loose is that it may be another process all the same: the life before was cut short by
	// something that was undone. Maybe is that it may have ended or not.
	Loose, Maybe bool
	// Workload is the kind of a workload; Main that it is the main process of a service.
	Workload string
	Main     bool
	// Unit is the one that it was last seen in: what a service leaves behind when it stops is
	// in one together.
	Unit string
}

// saved is a snapshot of one snap.
type saved struct {
	Snap         string
	Mark, Common string
	Conf         map[string]string
}

func x(revision int) string { return "x" + strconv.Itoa(revision) }

func (l *line) installed() bool { return l.Current != 0 }

// to makes a new revision the current one, and leaves out of the history what was
// reverted from.
func (l *line) to(revision int) {
	if l.installed() {
		at := slices.Index(l.History, l.Current) + 1
		l.Aside = append(l.Aside, l.History[at:]...)
		l.History = l.History[:at]
	}
	l.History = append(l.History, revision)
	l.Current, l.Last = revision, max(l.Last, revision)
}

// previous is where a revert goes; 0 for nowhere.
func (l *line) previous() int {
	at := slices.Index(l.History, l.Current)
	if at < 1 {
		return 0
	}
	return l.History[at-1]
}

// retained is the one revision beside the current one that is kept for nothing else than
// a revert, by default; 0 for none.
func (l *line) retained() int {
	if previous := l.previous(); previous != 0 {
		return previous
	}
	if at := slices.Index(l.History, l.Current) + 1; at > 0 && at < len(l.History) {
		return l.History[at]
	}
	return 0
}

// collect forgets what nothing keeps, and gives what is kept.
func (l *line) collect(used map[int]bool) []int {
	gone := func(revision int) bool {
		return revision != l.Current && revision != l.retained() && !used[revision]
	}
	// What is retained depends on the history, which gets shorter all at once.
	history := slices.DeleteFunc(slices.Clone(l.History), gone)
	l.Aside = slices.DeleteFunc(l.Aside, gone)
	l.History = history
	return slices.Sorted(slices.Values(append(slices.Clone(l.History), l.Aside...)))
}

// services are those that a variant of the snap has.
func (s *snap) services(v variant) []role {
	if v.Rich {
		return append(slices.Clone(s.Roles), extra())
	}
	return s.Roles
}

// service is a service of the current revision.
func (s *snap) service(name string) (role, bool) {
	for _, r := range s.services(s.Variants[s.Current]) {
		if r.Name == name {
			return r, true
		}
	}
	return role{}, false
}

// start is that a service starts anew, from the current revision.
func (w *world) start(s *snap, r role) {
	if !r.Runs || s.Stopped[r.Name] {
		return
	}
	w.launch(s, r.Name, process{Kind: "service", Service: r.Name, Main: true})
}

// launch makes a process of a name, with a life that none had before.
func (w *world) launch(s *snap, name string, p process) {
	w.lives++
	p.Life = w.lives
	p.Revision, p.Base = s.Current, w.Base.Current
	s.Procs[name] = &p
}

// install makes a revision the first one.
func (w *world) install(s *snap, revision int, v variant) {
	*s = snap{Name: s.Name, Roles: s.Roles, Enabled: true, line: line{}}
	s.to(revision)
	s.Variants, s.Marks, s.Conf = map[int]variant{revision: v}, map[int]string{revision: ""}, map[string]string{}
	s.Confs, s.Stopped, s.Procs = map[int]map[string]string{}, map[string]bool{}, map[string]*process{}
	w.startAll(s)
}

// verdict is what a refresh or a revert to a revision does to a process.
func (w *world) verdict(s *snap, p *process, to variant, now bool) string {
	switch {
	case p.Kind == "app":
		return endure
	case p.Workload == "job":
		return stop
	case p.Kind == "workload", p.Workload != "", p.Service == template:
		return endure
	}
	at := slices.IndexFunc(s.services(to), func(r role) bool { return r.Name == p.Service })
	switch {
	case at < 0:
		return stop
	case p.Service == ready && w.Ruled[s.Name]:
		return endure
	}
	verdict := s.services(to)[at].Refresh
	if verdict == wait && now {
		return restart
	}
	return verdict
}

// verdicts are those of all processes.
func (w *world) verdicts(s *snap, to variant, now bool) map[string]string {
	all := map[string]string{}
	for name, p := range s.Procs {
		all[name] = w.verdict(s, p, to, now)
	}
	return all
}

// defers reports whether a refresh would have to wait.
func (w *world) defers(s *snap, to variant, now bool) bool {
	for _, v := range w.verdicts(s, to, now) {
		if v == wait {
			return true
		}
	}
	return false
}

// switchTo carries a refresh or a revert out: the revision is new, or one of the history.
func (w *world) switchTo(s *snap, revision int, v variant) {
	verdicts := w.verdicts(s, v, true)
	before := s.services(s.Variants[s.Current])
	s.Confs[s.Current] = maps.Clone(s.Conf)
	if slices.Contains(s.History, revision) {
		s.Current = revision
		s.Conf = maps.Clone(s.Confs[revision])
	} else {
		s.Marks[revision], s.Variants[revision] = s.Marks[s.Current], v
		s.to(revision)
	}
	s.Staged = 0
	w.bearVerdicts(s, verdicts)
	if !s.Enabled {
		return
	}
	for _, r := range s.services(v) {
		had := slices.ContainsFunc(before, func(old role) bool { return old.Name == r.Name })
		if !had {
			w.start(s, r)
		}
	}
}

// bearVerdicts has them happen to the processes of a snap whose current revision is the
// new one.
func (w *world) bearVerdicts(s *snap, verdicts map[string]string) {
	for name, verdict := range verdicts {
		p := s.Procs[name]
		switch verdict {
		case stop:
			delete(s.Procs, name)
		case restart, handOver:
			w.leaveBehind(s, p.Service)
			w.restart(s, p.Service, verdict)
		case reload:
			p.Revision = s.Current
		}
	}
}

// restart is that a service goes on anew. One with a socket is started by the next who
// connects, unless it hands over.
func (w *world) restart(s *snap, service, verdict string) {
	if r, _ := s.service(service); r.Socket && verdict == restart {
		delete(s.Procs, service)
		return
	}
	w.start(s, role{Name: service, Runs: true})
}

// leaveBehind makes of what a service has left in its unit a unit of its own.
func (w *world) leaveBehind(s *snap, service string) {
	for _, p := range s.Procs {
		if p.Service == service && !p.Main && p.Kind == "service" {
			p.Kind = "workload"
		}
	}
}

// failed is that a change to another revision was undone: what it has stopped was started
// again, or nothing of it was.
func (w *world) failed(s *snap, v variant) {
	for name, verdict := range w.verdicts(s, v, true) {
		p := s.Procs[name]
		switch verdict {
		case restart, handOver, reload:
			p.loosen(w.Base.Current)
			if r, _ := s.service(name); r.Socket && verdict == restart {
				p.Maybe = true
			}
			if p.Service == careless {
				w.looseChildren(s, p.Service)
			}
		case stop:
			p.loosen(w.Base.Current)
			p.Maybe = !p.Main
		}
	}
}

// loosen has p perhaps be started again, on a base.
func (p *process) loosen(base int) {
	p.Loose = true
	p.Bases = append(p.Bases, base)
}

// looseChildren are those of a service that was perhaps stopped.
func (w *world) looseChildren(s *snap, service string) {
	for _, p := range s.Procs {
		if p.Service == service && !p.Main && p.Kind == "service" {
			p.Kind = ""
		}
	}
}

// control stops and starts what is of a snap, as "tenure stop", "start" and "restart" do: a
// restart starts also what was stopped, and means instances that run.
func (w *world) control(s *snap, action string) {
	for _, r := range s.services(s.Variants[s.Current]) {
		p := s.Procs[r.Name]
		if action != "start" && p != nil {
			w.leaveBehind(s, r.Name)
		}
		if action == "stop" {
			s.Stopped[r.Name] = true
			delete(s.Procs, r.Name)
			continue
		}
		delete(s.Stopped, r.Name)
		switch {
		case p == nil && !r.Socket:
			w.start(s, r)
		case p != nil && action == "restart":
			w.restart(s, r.Name, restart)
		}
	}
	for name, p := range s.Procs {
		switch {
		case p.Service != template:
		case action == "stop":
			delete(s.Procs, name)
		case action == "restart":
			w.launch(s, name, *p)
		}
	}
}

// disable ends all that runs.
func (w *world) disable(s *snap) {
	s.Enabled, s.Procs = false, map[string]*process{}
}

// enable starts what starts by itself.
func (w *world) enable(s *snap) {
	s.Enabled, s.Stopped = true, map[string]bool{}
	w.startAll(s)
}

func (w *world) startAll(s *snap) {
	for _, r := range s.services(s.Variants[s.Current]) {
		if !r.Socket {
			w.start(s, r)
		}
	}
}

// remove leaves nothing.
func (w *world) remove(s *snap) {
	*s = snap{Name: s.Name, Roles: s.Roles}
}

// boot is that the machine was shut down and started again.
func (w *world) boot() {
	for _, s := range w.Snaps {
		if !s.installed() {
			continue
		}
		s.Procs, s.Stopped = map[string]*process{}, map[string]bool{}
		if s.Staged != 0 {
			w.switchTo(s, s.Staged, s.StagedVariant)
			s.Procs = map[string]*process{}
		}
		if s.Enabled {
			w.startAll(s)
		}
	}
}

// baseTo is that the base was refreshed while processes were started: those with a life
// after that of since, and those that were perhaps started again.
func (w *world) baseTo(revision, since int) {
	for _, s := range w.Snaps {
		for _, p := range s.Procs {
			if p.Life > since || p.Loose {
				p.Bases = append(p.Bases, revision)
			}
		}
	}
	w.Base.to(revision)
}

// settle is what happens by itself between two steps: what nothing needs is collected.
// It gives what is kept of each snap.
func (w *world) settle() map[string][]int {
	kept := map[string][]int{}
	ofBase := map[int]bool{}
	for name, s := range w.Snaps {
		used := map[int]bool{s.Staged: true}
		for _, p := range s.Procs {
			used[p.Revision], ofBase[p.Base] = true, true
			for _, base := range p.Bases {
				ofBase[base] = true
			}
		}
		if s.installed() {
			kept[name] = s.collect(used)
			if s.Staged != 0 {
				kept[name] = append(kept[name], s.Staged)
			}
		}
	}
	kept[baseName] = w.Base.collect(ofBase)
	return kept
}

// String is what a process is, for comparisons.
func (p *process) String() string {
	kind := p.Kind
	if kind == "" {
		kind = "service or workload"
	}
	return fmt.Sprintf("%s on %s, base %s", kind, x(p.Revision), x(p.Base))
}
