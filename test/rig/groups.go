package rig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tenure/internal/daemon"
	"tenure/internal/proc"
)

// Group is one control group of an instance, with the processes in it and below
// it.
type Group struct {
	Path string
	PIDs []int
}

// Hierarchy is the directory that has a directory for each snap, which has the
// groups of the snap's units.
func (i *Instance) Hierarchy() string {
	for _, group := range groups(i.Root) {
		switch filepath.Base(group.Path()) {
		case daemon.HierarchyName(i.Root), daemon.SliceName(i.Root) + ".slice":
			return group.Path()
		}
	}
	i.t.Fatal("the instance has no control group")
	return ""
}

// Systemd reports whether systemd starts what the instance runs.
func (i *Instance) Systemd() bool {
	i.t.Helper()
	return filepath.Ext(i.Hierarchy()) == ".slice"
}

// Runs reports whether a control group, as processes see theirs, is that of a unit of a
// snap of the instance.
func (i *Instance) Runs(snap, group string) bool {
	i.t.Helper()
	top := filepath.Base(i.Hierarchy())
	if slice, ok := strings.CutSuffix(top, ".slice"); ok {
		snap = slice + "-" + snap + ".slice"
	}
	return strings.Contains(group, "/"+top+"/"+snap+"/")
}

// Groups are the groups of units that there are, whoever knows of them, by path.
func (i *Instance) Groups() []Group {
	i.t.Helper()
	paths, err := filepath.Glob(filepath.Join(i.Hierarchy(), "*", "*"))
	if err != nil {
		i.t.Fatal(err)
	}
	var found []Group
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			continue
		}
		infos, err := proc.GroupAt(path).Processes()
		if errors.Is(err, proc.ErrNoGroup) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			i.t.Fatal(fmt.Errorf("groups: %w", err))
		}
		group := Group{Path: path}
		for _, info := range infos {
			group.PIDs = append(group.PIDs, info.PID)
		}
		slices.Sort(group.PIDs)
		found = append(found, group)
	}
	return found
}
