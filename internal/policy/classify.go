package policy

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"tenure"
)

// Class is a part of a service's processes that has one fate.
type Class struct {
	// Name is the name of the workload; tenure.Leftover for what the service left
	// behind without naming it; empty for the service itself.
	Name string
	// Root is the process that the others descend from and that names the unit. It is
	// zero for the service itself.
	Root tenure.Process
	// Processes are those of the class, oldest first. Those that are Foreign stay
	// in the groups that the service made, and are not to be moved.
	Processes []Process
}

// Unit is the unit that the class is or becomes, for a class of service.
func (c Class) Unit(service tenure.UnitID) tenure.UnitID {
	if c.Name == "" {
		return service
	}
	return service.Workload(c.Name, c.Root.PID)
}

// Classify splits the processes of a service into the service itself, which
// comes first and may be empty, and the workloads, oldest root first. Every process
// of procs is in exactly one class.
//
//   - The main process is the service itself, whatever its command line.
//   - A process that matches a workload, and what descends from it, is that
//     workload. The first pattern that matches counts; below a match no other
//     pattern is tried.
//   - What descends from the main process otherwise is the service itself.
//   - A group that the service made, other than the one that the main process is in,
//     belongs as a whole to the first workload that has a process in it.
//   - All others no longer have a parent that leads to the main process: under
//     TargetGroup they end with the service and are part of it; under TargetMain
//     they are its leftover, one class named by the oldest.
//
// When the main process has ended, its children have another parent: classify
// again without it. A parent that started after its child is another process
// that was given the pid, and is not followed.
func Classify(procs []Process, workloads []Workload, main tenure.Process, target Target) []Class {
	procs = slices.Clone(procs)
	slices.SortStableFunc(procs, func(a, b Process) int { return compareProcesses(a.Process, b.Process) })
	c := classifier{
		byPID:    make(map[int]int, len(procs)),
		procs:    procs,
		patterns: compile(workloads),
		main:     main,
		owner:    make([]owner, len(procs)),
	}
	for i, p := range procs {
		c.byPID[p.PID] = i
	}
	for i := range procs {
		c.resolve(i)
	}
	c.claimGroups()
	return c.classes(target)
}

type pattern struct {
	name string
	re   *regexp.Regexp
}

func compile(workloads []Workload) []pattern {
	var patterns []pattern
	for _, w := range workloads {
		if re, err := regexp.Compile(w.Match); err == nil && w.Match != "" {
			patterns = append(patterns, pattern{w.Name, re})
		}
	}
	return patterns
}

// owner is whom a process belongs to: the class name and the index of its root.
// The service itself has ownService; an orphan has the name Leftover.
type owner struct {
	state ownerState
	name  string
	root  int
}

type ownerState uint8

const (
	ownUnknown ownerState = iota
	ownVisiting
	ownService
	ownTree
)

type classifier struct {
	procs    []Process
	byPID    map[int]int
	patterns []pattern
	main     tenure.Process
	owner    []owner
}

// resolve finds the owner of procs[i] and of all its ancestors. A loop of parents,
// which the kernel never shows in one reading, is cut where it is entered.
func (c *classifier) resolve(i int) {
	var path []int
	above := owner{}
	for {
		if state := c.owner[i].state; state != ownUnknown {
			if state != ownVisiting {
				above = c.owner[i]
			}
			break
		}
		c.owner[i].state = ownVisiting
		path = append(path, i)
		parent, known := c.byPID[c.procs[i].PPID]
		if !known || c.procs[parent].Start > c.procs[i].Start {
			break
		}
		i = parent
	}
	for _, i := range slices.Backward(path) {
		above = c.own(i, above)
		c.owner[i] = above
	}
}

func (c *classifier) own(i int, parent owner) owner {
	switch {
	case c.procs[i].Process == c.main:
		return owner{state: ownService}
	case parent.isWorkload():
		return parent
	}
	for _, p := range c.patterns {
		if p.re.MatchString(c.procs[i].CommandLine) {
			return owner{state: ownTree, name: p.name, root: i}
		}
	}
	if parent.state == ownUnknown {
		return owner{state: ownTree, name: tenure.Leftover, root: i}
	}
	return parent
}

// claimGroups gives each group that the service made to the first workload in it.
func (c *classifier) claimGroups() {
	claims := map[string]owner{}
	for i, p := range c.procs {
		if p.Process == c.main && p.Group != "" {
			claims[p.topGroup()] = owner{}
		}
		_, claimed := claims[p.topGroup()]
		if p.Group != "" && !claimed && c.owner[i].isWorkload() {
			claims[p.topGroup()] = c.owner[i]
		}
	}
	for i, p := range c.procs {
		if claim := claims[p.topGroup()]; p.Group != "" && claim.isWorkload() && p.Process != c.main {
			c.owner[i] = claim
		}
	}
}

func (p Process) topGroup() string {
	top, _, _ := strings.Cut(p.Group, "/")
	return top
}

func (o owner) isWorkload() bool { return o.state == ownTree && o.name != tenure.Leftover }

// classes collects the processes of each owner. c.procs is sorted, and so are they.
func (c *classifier) classes(target Target) []Class {
	classes := []Class{{}}
	at := map[int]int{}
	for i, p := range c.procs {
		o := c.owner[i]
		if o.name == tenure.Leftover {
			o.root = -1
		}
		if o.state == ownService || o.root < 0 && target != TargetMain {
			classes[0].Processes = append(classes[0].Processes, p)
			continue
		}
		if _, known := at[o.root]; !known {
			at[o.root] = len(classes)
			classes = append(classes, Class{Name: o.name, Root: p.Process})
			if o.root >= 0 {
				classes[at[o.root]].Root = c.procs[o.root].Process
			}
		}
		class := &classes[at[o.root]]
		class.Processes = append(class.Processes, p)
	}
	slices.SortFunc(classes[1:], func(a, b Class) int { return compareProcesses(a.Root, b.Root) })
	return classes
}

func compareProcesses(a, b tenure.Process) int {
	return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.PID, b.PID))
}

// Split gives the units that a change will find in u: u itself with what is its own,
// and a unit for each workload among its processes. app is what the revision
// that u was started from declares. What is no service is not split.
func Split(u Unit, app App) []Unit {
	if u.ID.Kind != tenure.Service {
		return []Unit{u}
	}
	classes := Classify(u.Processes, app.Workloads, u.Main, app.Stop.Target)
	units := make([]Unit, len(classes))
	for i, class := range classes {
		units[i] = u
		units[i].ID = class.Unit(u.ID)
		units[i].Processes = class.Processes
		if i > 0 {
			units[i].Main = class.Root
			units[i].Active = true
		}
	}
	return units
}
