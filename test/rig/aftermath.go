package rig

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// aftermath tells of an instance whose test has failed what its daemon was doing: the last change
// step by step, the units, what it has logged, and where it waited. Few can be had again.
func (i *Instance) aftermath() {
	select {
	case <-i.daemon.ended:
	default:
		for _, args := range [][]string{{"tasks", "--last=refresh"}, {"changes"}, {"ps"}} {
			if result := i.execFor(5*time.Second, filepath.Join(i.Bin, "tenure"), args...); result.Status == 0 {
				i.t.Logf("tenure %s:\n%s", strings.Join(args, " "), result.Stdout)
			}
		}
	}
	logged := i.daemon.said()
	if stacks := i.daemon.quit()[len(logged):]; stacks != "" {
		i.t.Logf("the daemon waited in:\n%s", whereabouts(stacks))
	}
	i.t.Logf("the daemon said:\n%s", logged)
}

// quit ends the daemon as kill does, by a signal at which a Go program says where it is, and returns what it has said.
func (d *server) quit() string {
	_ = d.cmd.Process.Signal(syscall.SIGQUIT) // It may have ended.
	select {
	case <-d.ended:
	case <-time.After(5 * time.Second):
	}
	d.kill()
	return d.said()
}

var (
	inFunction = regexp.MustCompile(`(?m)^tenure/internal/([\w/]+\.\S+)\(`)
	inState    = regexp.MustCompile(`^goroutine \d+.* \[([^\]]+)\]`)
)

// whereabouts makes a line of each goroutine of ours, innermost function first, and counts those that are alike.
func whereabouts(stacks string) string {
	counts := map[string]int{}
	for block := range strings.SplitSeq(stacks, "\n\n") {
		state := inState.FindStringSubmatch(block)
		var names []string
		for _, found := range inFunction.FindAllStringSubmatch(block, 5) {
			names = append(names, found[1])
		}
		if state != nil && len(names) > 0 {
			counts[fmt.Sprintf("[%s] %s", state[1], strings.Join(names, " < "))]++
		}
	}
	var text strings.Builder
	for _, line := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&text, "%3d %s\n", counts[line], line)
	}
	return text.String()
}
