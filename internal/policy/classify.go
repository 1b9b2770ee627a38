package policy

import (
	"cmp"
	"regexp"
	"slices"

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
//   - All others no longer have a parent that leads to the main process: under
//     TargetGroup they end with the service and are part of it; under TargetMain
//     each tree of them is a leftover.
//
// When the main process has ended, its children have another parent: classify
// again without it.
func Classify(procs []Process, workloads []Workload, main tenure.Process, target Target) []Class {
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
// The service itself has ownService; an orphan tree has the name Leftover.
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
		if !known {
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
	inWorkload := parent.state == ownTree && parent.name != tenure.Leftover
	switch {
	case c.procs[i].Process == c.main:
		return owner{state: ownService}
	case inWorkload:
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

func (c *classifier) classes(target Target) []Class {
	service := Class{}
	trees := map[int]*Class{}
	for i, p := range c.procs {
		o := c.owner[i]
		orphan := o.name == tenure.Leftover
		if o.state == ownService || (orphan && target != TargetMain) {
			service.Processes = append(service.Processes, p)
			continue
		}
		if trees[o.root] == nil {
			trees[o.root] = &Class{Name: o.name, Root: c.procs[o.root].Process}
		}
		trees[o.root].Processes = append(trees[o.root].Processes, p)
	}
	classes := []Class{service}
	for _, tree := range trees {
		classes = append(classes, *tree)
	}
	slices.SortFunc(classes[1:], func(a, b Class) int { return compareProcesses(a.Root, b.Root) })
	for _, class := range classes {
		slices.SortFunc(class.Processes, func(a, b Process) int { return compareProcesses(a.Process, b.Process) })
	}
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
