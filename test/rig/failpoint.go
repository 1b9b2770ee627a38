package rig

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Boundary is a line of what a daemon with fail points says of a boundary that it
// has passed: "refresh-snap link-snap before-do gap=true".
type Boundary struct {
	ChangeKind, TaskKind, Phase string
	Gap                         bool
}

// Arm makes a daemon with fail points die at the n-th boundary that it passes from
// now on, and note those that it passes; with 0 it only notes them. What was
// noted before is forgotten.
func (i *Instance) Arm(n int) {
	i.t.Helper()
	file := i.Path("var/lib/tenure/failpoint")
	err := os.Remove(i.Path("var/lib/tenure/failpoints.log"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, os.WriteFile(file+".new", []byte(strconv.Itoa(n)), 0o600), os.Rename(file+".new", file))
	if err != nil {
		i.t.Fatal(err)
	}
}

// Disarm takes back Arm, and gives what was noted.
func (i *Instance) Disarm() []Boundary {
	i.t.Helper()
	if err := os.Remove(i.Path("var/lib/tenure/failpoint")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.t.Fatal(err)
	}
	text, err := os.ReadFile(i.Path("var/lib/tenure/failpoints.log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.t.Fatal(err)
	}
	var passed []Boundary
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 4 {
			i.t.Fatalf("fail points: line %q", line)
		}
		passed = append(passed, Boundary{
			ChangeKind: fields[0], TaskKind: fields[1], Phase: fields[2], Gap: fields[3] == "gap=true",
		})
	}
	return passed
}
