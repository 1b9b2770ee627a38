package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/supervise"
)

// model is what there is of a snap, in so few words that it can be written down for each operation: the oracle,
// which knows nothing of how Tenure gets there.
type model struct {
	// name is the snap; empty is the one called probe.
	name   string
	beside *model
	// kept are its revisions; none is that it is not there.
	kept    []int
	current int
	// disabled is that its current revision is not active.
	disabled bool
	// units are what runs, "svc x1"; stopped are the services that the administrator has stopped.
	units, stopped []string
	// staged is the revision that waits to become current.
	staged   int
	conf     string
	commands []string
	// saved is how many snapshots there are of it.
	saved int
	held  bool
	// written is, by revision, what is in its data: which revision wrote it.
	written map[int]string
}

func x(n int) string { return fmt.Sprintf("x%d", n) }

// facts are all that is true of m, one a line, in order.
func (m *model) facts() []string {
	var facts []string
	for ; m != nil; m = m.beside {
		m.tell(func(format string, args ...any) { facts = append(facts, fmt.Sprintf(format, args...)) })
	}
	slices.Sort(facts)
	return facts
}

func (m *model) tell(fact func(string, ...any)) {
	name := m.name
	if name == "" {
		name = "probe"
	}
	there := slices.Clone(m.kept)
	if m.staged != 0 {
		there = append(there, m.staged)
		fact("refresh-snap waits")
	}
	for _, n := range there {
		fact("file %s_x%d.snap", name, n)
		fact("mount /snap/%s/x%d", name, n)
		if m.written[n] != "" {
			fact("data %s/x%d of %s", name, n, m.written[n])
		}
	}
	if len(m.kept) > 0 {
		var kept []string
		for _, n := range there {
			kept = append(kept, x(n))
		}
		fact("snap %s x%d active=%t of %v stopped=%v", name, m.current, !m.disabled, kept, m.stopped)
		fact("mount /snap/%s", name)
		fact("mount /var/snap/%s/common", name)
	}
	if len(m.kept) > 0 && !m.disabled {
		for _, dir := range []string{"/snap", "/var/snap", "/root/snap"} {
			fact("link %s/%s/current x%d", dir, name, m.current)
		}
	}
	for _, unit := range m.units {
		fact("unit %s.%s", name, unit)
	}
	for _, command := range m.commands {
		fact("command %s", command)
	}
	for range m.saved {
		fact("snapshot of %s", name)
	}
	if m.conf != "" {
		fact("conf %s %s", name, m.conf)
	}
	if m.held {
		fact("held %s", name)
	}
}

// sight is all that can be seen of a machine: facts, as those of a model, and everything
// that lies below its root.
type sight struct{ facts, tree []string }

func (o sight) whole() []string { return slices.Concat(o.facts, o.tree) }

func (o sight) diff(there sight) string { return cmp.Diff(o.whole(), there.whole()) }

// look is what there is now.
func (m *mortal) look() sight {
	m.t.Helper()
	var o sight
	fact := func(format string, args ...any) { o.facts = append(o.facts, fmt.Sprintf(format, args...)) }
	var err error
	o.tree, err = m.lookAtTree(fact)
	if err := errors.Join(err, m.lookAtSnaps(fact), m.lookAtUnits(fact), m.lookAtMounts(fact)); err != nil {
		m.t.Fatal(err)
	}
	for _, c := range m.engine.List(change.Filter{Select: change.All}) {
		if !c.Status.Ready() {
			fact("%s waits", c.Kind)
		}
	}
	slices.Sort(o.facts)
	return o
}

func (m *mortal) lookAtSnaps(fact func(string, ...any)) error {
	states, err := m.snaps.All()
	if err != nil {
		return err
	}
	for i := range states {
		s := &states[i]
		if !s.Line.Installed() {
			fact("snap %s is not gone", s.Instance)
			continue
		}
		kept := slices.SortedFunc(slices.Values(s.Line.Kept()), tenure.Revision.Compare)
		fact("snap %s %s active=%t of %v stopped=%v", s.Instance, s.Line.Current, s.Line.Active, kept, s.Stopped)
		conf, err := m.Conf(string(s.Instance), nil)
		if err != nil {
			return err
		}
		text, err := json.Marshal(conf)
		if err != nil {
			return err
		}
		if len(conf) > 0 {
			fact("conf %s %s", s.Instance, text)
		}
		on, _, err := m.holds.docs.Get(string(s.Instance))
		if err != nil {
			return err
		}
		if on.General != nil {
			fact("held %s", s.Instance)
		}
	}
	sets, err := m.Snapshots(0, nil)
	for i := range sets {
		fact("snapshot of %s%s", sets[i].Snap, sets[i].Broken)
	}
	return err
}

func (m *mortal) lookAtUnits(fact func(string, ...any)) error {
	statuses, err := m.twin.Units(m.t.Context())
	for i := range statuses {
		s := &statuses[i]
		switch {
		case s.State == supervise.Running:
			fact("unit %s %s", trimPID(s.Unit.String()), s.Revision)
		case s.State != supervise.Inactive:
			fact("unit %s %s %s", trimPID(s.Unit.String()), s.Revision, s.State)
		}
	}
	return err
}

// trimPID is a unit without the process that it is called after.
func trimPID(unit string) string {
	if name, _, found := strings.Cut(unit, "/"); found {
		return name + "/*"
	}
	return unit
}

func (m *mortal) lookAtMounts(fact func(string, ...any)) error {
	mounts, err := m.table.Below(m.root())
	for _, info := range mounts {
		below := strings.TrimPrefix(info.Dir, m.root())
		if isMissing(info.Dir) {
			below += " on nothing"
		}
		fact("mount %s", below)
	}
	return err
}

// changing are numbers that differ from run to run.
var changing = regexp.MustCompile(`(snapshots/|-)\d+`) //nolint:gochecknoglobals // Compiled once.

// lookAtTree lists everything below the root, but what tells of the past and what goes with the machine.
func (m *mortal) lookAtTree(fact func(string, ...any)) (tree []string, err error) {
	return tree, filepath.WalkDir(m.root(), func(path string, entry fs.DirEntry, err error) error {
		below := strings.TrimPrefix(path, m.root())
		if err != nil || below == "" {
			return err
		}
		switch below {
		case "/run", "/var/lib/tenure/history", "/var/lib/tenure/snapshots/.work":
			return fs.SkipDir
		}
		line, err := entryOf(path, below, entry, fact)
		tree = append(tree, changing.ReplaceAllString(line, "$1#"))
		return err
	})
}

// entryOf is a line about one thing in the tree; what the model speaks of are facts.
func entryOf(path, below string, entry fs.DirEntry, fact func(string, ...any)) (string, error) {
	info, err := entry.Info()
	if err != nil {
		return "", err
	}
	dir, base := filepath.Split(below)
	if dir == "/snap/bin/" {
		fact("command %s", base)
	}
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := os.Readlink(path)
		if base == "current" {
			fact("link %s %s", below, target)
		}
		return fmt.Sprintf("%s %s -> %s", info.Mode(), below, target), err
	case dir == "/var/lib/tenure/snaps/":
		fact("file %s", base)
	case dir == "/var/lib/tenure/snapshots/", entry.IsDir():
		return fmt.Sprintf("%s %s", info.Mode(), below), nil
	}
	text, err := os.ReadFile(path) //nolint:gosec // Below the root.
	if base == "mark" {
		fact("data %s of %s", strings.TrimPrefix(filepath.Dir(below), "/var/snap/"), text)
	}
	return fmt.Sprintf("%s %s %q", info.Mode(), below, text), err
}

// fingerprint tells machines apart by all that a daemon sees of one when it starts: every file, the journal among them, the units, and
// what is mounted. What cannot be seen of the supervisor and the mount table changes only when they are asked for something.
func (m *mortal) fingerprint(asked int) uint64 {
	var sum maphash.Hash
	sum.SetSeed(m.seed)
	note := func(args ...any) { _, _ = fmt.Fprintln(&sum, args...) } // It takes all.
	err := filepath.WalkDir(m.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text, err := textOf(path, info.Mode())
		note(path, info.Mode(), len(text))
		_, _ = sum.Write([]byte(text))
		return err
	})
	statuses, unitsErr := m.twin.Units(context.Background())
	units, marshalErr := json.Marshal(statuses)
	mounts, mountsErr := m.table.Below(m.root())
	if err := errors.Join(err, unitsErr, marshalErr, mountsErr); err != nil {
		m.t.Error(err)
	}
	note(asked, string(units), mounts)
	return sum.Sum64()
}
