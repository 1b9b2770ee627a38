package native

import (
	"fmt"
	"regexp"
	"strings"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// matcher is a workload with its pattern ready for use.
type matcher struct {
	supervise.Workload

	pattern *regexp.Regexp
}

// compileWorkloads makes the patterns of a Spec ready. A workload without one is for
// the service to name.
func compileWorkloads(workloads []supervise.Workload) ([]matcher, error) {
	matchers := make([]matcher, 0, len(workloads))
	for _, w := range workloads {
		if w.Match == "" {
			continue
		}
		pattern, err := regexp.Compile(w.Match)
		if err != nil {
			return nil, fmt.Errorf("workload %s: %w", w.Name, err)
		}
		matchers = append(matchers, matcher{w, pattern})
	}
	return matchers, nil
}

// pick is one workload that was found among the processes of a service.
type pick struct {
	Workload supervise.Workload
	Leader   proc.Info
	// Into is the unit that the workload is already, with the leader in it, and that
	// what is found here joins; zero for a new one.
	Into tenure.UnitID
	// Members are the leader and what came out of it that is in the service's own
	// group, and must move.
	Members []proc.Info
	// Claims are the groups below the service's own, relative to it, in which the
	// workload has processes. They go with it as they are.
	Claims []string
}

// sorted is what classify makes of the processes of a service.
type sorted struct {
	Picks []pick
	// Rest are the service's own processes, and what it did not name.
	Rest []proc.Info
	// Spared are processes of workloads in a group that the service made and
	// that its main process is in too. They are left alone where they are until
	// the main process has ended.
	Spared []proc.Info
}

// classify tells the workloads among the processes of a service from the rest.
// The first pattern that matches wins; a process that matches and all that came
// out of it are one workload, so a match inside a workload is part of it. The
// main process is never a workload.
//
// A group that the service made belongs as a whole to the first workload that
// has a process in it: processes are not moved out of such groups.
//
// What came out of a process of kin is part of that unit, wherever it is.
func classify(matchers []matcher, main tenure.Process, infos []proc.Info, kin kinship) sorted {
	c := classifier{
		matchers: matchers, main: main, kin: kin,
		byPID:   make(map[int]proc.Info, len(infos)),
		index:   make(map[tenure.Process]int),
		claimed: make(map[string]bool),
	}
	mainGroup := ""
	for _, info := range infos {
		c.byPID[info.PID] = info
		if info.Process == main && info.Foreign {
			mainGroup = topGroup(info.Group)
		}
	}
	c.claim(infos, mainGroup)
	return c.sort(infos)
}

// claim gives groups that the service made to the first workload in each.
func (c *classifier) claim(infos []proc.Info, mainGroup string) {
	for _, info := range infos {
		top := topGroup(info.Group)
		if !info.Foreign || top == mainGroup || c.claimed[top] {
			continue
		}
		if p := c.pick(info); p != nil {
			c.claimed[top] = true
			p.Claims = append(p.Claims, top)
		}
	}
}

// sort puts every process where it belongs.
func (c *classifier) sort(infos []proc.Info) (out sorted) {
	for _, info := range infos {
		switch {
		case info.Foreign && c.claimed[topGroup(info.Group)]:
		case info.Foreign && c.matches(info):
			out.Spared = append(out.Spared, info)
		case info.Foreign:
			out.Rest = append(out.Rest, info)
		default:
			if p := c.pick(info); p != nil {
				p.Members = append(p.Members, info)
			} else {
				out.Rest = append(out.Rest, info)
			}
		}
	}
	for _, p := range c.picks {
		// One whose processes are all in groups of an earlier one is part of it.
		if len(p.Members) > 0 || len(p.Claims) > 0 {
			out.Picks = append(out.Picks, *p)
		}
	}
	return out
}

// kinship are the processes of units that came out of the service before, by pid.
type kinship map[int]kinsman

type kinsman struct {
	proc.Info

	unit tenure.UnitID
}

type classifier struct {
	matchers []matcher
	main     tenure.Process
	kin      kinship
	byPID    map[int]proc.Info
	index    map[tenure.Process]int
	claimed  map[string]bool
	picks    []*pick
}

// pick is the workload that info belongs to, or nil.
func (c *classifier) pick(info proc.Info) *pick {
	leader, workload, ok := c.outermost(info)
	if !ok {
		return nil
	}
	at, known := c.index[leader.Process]
	if !known {
		at = len(c.picks)
		c.index[leader.Process] = at
		p := &pick{Workload: workload, Leader: leader}
		if parent, ok := c.kin[leader.PID]; ok && parent.Process == leader.Process {
			p.Into = parent.unit
		}
		c.picks = append(c.picks, p)
	}
	return c.picks[at]
}

func (c *classifier) matches(info proc.Info) bool {
	_, _, ok := c.outermost(info)
	return ok
}

// outermost climbs from info to its ancestors, as far as they are listed and
// are not the main process, and returns the highest that matches.
func (c *classifier) outermost(info proc.Info) (leader proc.Info, w supervise.Workload, ok bool) {
	for range len(c.byPID) {
		if info.Process == c.main {
			break
		}
		if workload, matches := match(c.matchers, info); matches {
			leader, w, ok = info, workload, true
		}
		if parent, ok := c.kin[info.PPID]; ok && parent.Start <= info.Start {
			return parent.Info, supervise.Workload{Name: parent.unit.Name}, true
		}
		parent, listed := c.byPID[info.PPID]
		if !listed || parent.Start > info.Start {
			break
		}
		info = parent
	}
	return leader, w, ok
}

func match(matchers []matcher, info proc.Info) (supervise.Workload, bool) {
	line := info.CommandLine()
	for _, m := range matchers {
		if m.pattern.MatchString(line) {
			return m.Workload, true
		}
	}
	return supervise.Workload{}, false
}

// topGroup is the first component of a group that a service made.
func topGroup(rel string) string {
	top, _, _ := strings.Cut(rel, "/")
	return top
}
