package test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	gocmp "github.com/google/go-cmp/cmp"

	"tenure/client"
	"tenure/test/rig"
)

// model is what there is of a snap, in so few words that it can be written
// down for each operation: the oracle, which knows nothing of how Tenure gets there.
type model struct {
	// name is the snap; empty is the one called probe.
	name string
	// beside are other snaps.
	beside []model
	// kept are its revisions, by number; none is that it is not there.
	kept    []int
	current int
	// disabled is that its current revision is not active.
	disabled bool
	// units are what runs, "svc x1".
	units []string
	// off are the services that are not started by themselves.
	off []string
	// staged is the revision that waits to become current.
	staged int
	// conf is its configuration, as JSON.
	conf string
	// commands are the names in snap/bin.
	commands []string
	// saved is how many snapshots there are of it.
	saved int
	held  string
	// tracks is the channel that its updates come from, if they come from a source.
	tracks string
	// written is, by revision, what is in its data: which revision wrote it.
	written map[int]string
}

// facts are all that is true of m, one a line, in order.
func (m model) facts() []string {
	var facts []string
	fact := func(format string, args ...any) { facts = append(facts, fmt.Sprintf(format, args...)) }
	m.tell(fact)
	for _, other := range m.beside {
		other.tell(fact)
	}
	slices.Sort(facts)
	return facts
}

func (m model) tell(fact func(string, ...any)) {
	name := cmp.Or(m.name, "probe")
	revisions := slices.Clone(m.kept)
	if m.staged != 0 {
		revisions = append(revisions, m.staged)
		fact("refresh-snap waits")
		fact("snap %s x%d staged", name, m.staged)
	}
	for _, n := range revisions {
		fact("file %s_x%d.snap", name, n)
		fact("loop %s_x%d.snap", name, n)
		fact("mount /snap/%s/x%d", name, n)
		if m.written[n] != "" {
			fact("data %s/x%d of %s", name, n, m.written[n])
		}
	}
	for _, n := range m.kept {
		status := "installed"
		if n == m.current && !m.disabled {
			status = "active"
		}
		fact("snap %s x%d %s current=%t held=%s tracks=%s", name, n, status, n == m.current, m.held, m.tracks)
	}
	if len(m.kept) > 0 {
		fact("mount /snap/%s", name)
		fact("mount /var/snap/%s/common", name)
		fact("conf %s %s", name, cmp.Or(m.conf, "{}"))
	}
	if len(m.kept) > 0 && !m.disabled {
		for _, dir := range []string{"/snap", "/var/snap", "/root/snap"} {
			fact("link %s/%s/current x%d", dir, name, m.current)
		}
	}
	for _, unit := range m.units {
		fact("unit %s.%s", name, unit)
	}
	for _, service := range m.off {
		fact("off %s.%s", name, service)
	}
	for _, command := range m.commands {
		fact("command %s", command)
	}
	for range m.saved {
		fact("snapshot of %s", name)
	}
}

// outlook is all that can be seen of an instance: facts, as those of a model, and everything
// that lies below its root.
type outlook struct{ facts, tree []string }

// whole is both.
func (o outlook) whole() []string { return slices.Concat(o.facts, o.tree) }

// diff is how there differs from what it is to be; the tree where that is known.
func (o outlook) diff(there outlook) string {
	if o.tree == nil {
		return gocmp.Diff(o.facts, there.facts)
	}
	return gocmp.Diff(o.whole(), there.whole())
}

func (o outlook) fits(there outlook) bool {
	return slices.Equal(o.facts, there.facts) && (o.tree == nil || slices.Equal(o.tree, there.tree))
}

// look is what there is now.
func (m *matrix) look(ctx context.Context) (outlook, error) {
	var o outlook
	fact := func(format string, args ...any) { o.facts = append(o.facts, fmt.Sprintf(format, args...)) }
	installed, err := m.lookAtSnaps(ctx, fact)
	if err != nil {
		return o, err
	}
	for _, name := range installed {
		conf, err := m.Client().Conf(ctx, name, nil)
		text, bad := json.Marshal(conf)
		if err := errors.Join(err, bad); err != nil {
			return o, err
		}
		fact("conf %s %s", name, text)
	}
	sets, err := m.Client().Snapshots(ctx, 0, nil)
	if err != nil {
		return o, err
	}
	for i := range sets {
		for j := range sets[i].Snapshots {
			fact("snapshot of %s%s", sets[i].Snapshots[j].Snap, sets[i].Snapshots[j].Broken)
		}
	}
	changes, err := m.Client().Changes(ctx, "all", "")
	if err != nil {
		return o, err
	}
	for i := range changes {
		if !changes[i].Ready {
			fact("%s waits", changes[i].Kind)
		}
	}
	if err := m.lookAtUnits(ctx, installed, fact); err != nil {
		return o, err
	}
	for _, point := range rig.Mounts(m.Root) {
		fact("mount %s", strings.TrimPrefix(point, m.Root))
	}
	for _, file := range rig.Loops(m.Root) {
		fact("loop %s", filepath.Base(file))
	}
	if o.tree, err = m.lookAtTree(fact); err != nil {
		return o, err
	}
	slices.Sort(o.facts)
	return o, nil
}

func (m *matrix) lookAtSnaps(ctx context.Context, fact func(string, ...any)) (installed []string, err error) {
	all, err := m.Client().Snaps(ctx, true)
	if err != nil {
		return nil, err
	}
	for i := range all {
		snap := &all[i]
		if snap.StagedBy != "" {
			fact("snap %s %s staged", snap.Name, snap.Revision)
			continue
		}
		if snap.Current {
			installed = append(installed, snap.Name)
		}
		fact("snap %s %s %s current=%t held=%s tracks=%s", snap.Name, snap.Revision, snap.Status, snap.Current, snap.Hold, snap.TrackingChannel)
	}
	return installed, nil
}

var trailingPID = regexp.MustCompile(`\.\d+$`) //nolint:gochecknoglobals // Compiled once.

func (m *matrix) lookAtUnits(ctx context.Context, installed []string, fact func(string, ...any)) error {
	units, err := m.Client().Units(ctx)
	if err != nil {
		return err
	}
	for i := range units {
		unit := &units[i]
		if ofItsService(unit, units) {
			continue
		}
		name := trailingPID.ReplaceAllString(unit.ID, ".#")
		if unit.State == "running" {
			fact("unit %s %s", name, unit.Revision)
		} else {
			fact("unit %s %s %s", name, unit.Revision, unit.State)
		}
		for _, p := range unit.Processes {
			// What says that it is of a revision is not enough: it runs from there.
			if own := ownRevision(p.PID); own != unit.Revision && !m.renews {
				fact("process of %s is of %q", name, own)
			}
		}
	}
	if len(installed) == 0 {
		return nil
	}
	services, err := m.Client().Services(ctx, installed)
	for i := range services {
		if !services[i].Enabled {
			fact("off %s.%s", services[i].Snap, services[i].Name)
		}
	}
	return err
}

// ofItsService reports whether a unit is a workload that was set apart from a service that runs on: it
// is when it is old enough, which may be now.
func ofItsService(unit *client.Unit, all []client.Unit) bool {
	service, _, workload := strings.Cut(unit.ID, "/")
	return workload && slices.ContainsFunc(all, func(other client.Unit) bool {
		return other.ID == service && other.Revision == unit.Revision && other.State == "running"
	})
}

var mountOfSnap = regexp.MustCompile(`/snap/[a-z]+/x\d+$`) //nolint:gochecknoglobals // Compiled once.

var changing = regexp.MustCompile(`(snapshots/)\d+`) //nolint:gochecknoglobals // Compiled once.

// lookAtTree lists everything below the root, but what tells of the past, and what is
// in memory of the supervisor for itself.
func (m *matrix) lookAtTree(fact func(string, ...any)) ([]string, error) {
	var tree []string
	mounted := map[string]bool{}
	for _, point := range rig.Mounts(m.Root) {
		mounted[point] = mountOfSnap.MatchString(point)
	}
	err := filepath.WalkDir(m.Root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		below := strings.TrimPrefix(path, m.Root)
		if err != nil || below == "" {
			return err
		}
		if unremarkable(below) {
			return nil
		}
		line, err := m.entry(path, below, entry, fact)
		if line != "" {
			tree = append(tree, changing.ReplaceAllString(line, "$1#"))
		}
		if mounted[path] && err == nil {
			return fs.SkipDir
		}
		return err
	})
	return tree, err
}

// unremarkable reports whether something in the tree is not looked at. The directory for work of
// snapshots goes when a daemon starts; what lies in it is looked at. A backup of the journal that is not
// complete is in the making, or goes when the next daemon starts. Workloads have files once they
// are units; and what systemd has been told is numbered.
func unremarkable(path string) bool {
	if path == "/var/lib/tenure/snapshots/.work" || strings.Contains(path, "/probe.vms+vm.") {
		return true
	}
	for _, skip := range []string{
		"/var/lib/tenure/history", "/var/lib/tenure/state.db", "/var/lib/tenure/failpoint", "/var/lib/tenure/units/",
		"/.mortal", "/var/lib/tenure/.state.db.bak-", "/run/tenure/u/", "/run/tenure/etc",
	} {
		if strings.HasPrefix(path, skip) {
			return true
		}
	}
	return false
}

// entry is a line about one thing in the tree; what the model speaks of are facts.
func (m *matrix) entry(path, below string, entry fs.DirEntry, fact func(string, ...any)) (string, error) {
	info, err := entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
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
	case base == "mark":
		text, err := os.ReadFile(path) //nolint:gosec // Below the root.
		fact("data %s of %s", strings.TrimPrefix(filepath.Dir(below), "/var/snap/"), text)
		return "", err
	}
	// What only grows, and what says when it was made.
	if !info.Mode().IsRegular() || strings.HasPrefix(below, "/var/lib/tenure/logs/") || strings.HasPrefix(below, "/var/lib/tenure/snapshots/") || strings.HasPrefix(below, "/run/") {
		return fmt.Sprintf("%s %s", info.Mode(), below), nil
	}
	text, err := os.ReadFile(path) //nolint:gosec // Below the root.
	sum := sha256.Sum256(text)
	return fmt.Sprintf("%s %s %s", info.Mode(), below, hex.EncodeToString(sum[:4])), err
}

// mark writes into the data of the current revision, as the snap would, if there is one.
func (m *matrix) mark() {
	m.t.Helper()
	current, err := os.Readlink(m.Path("var/snap/probe/current"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err := os.WriteFile(m.Path("var/snap/probe", current, "mark"), []byte(current), 0o600); err != nil {
		m.t.Fatal(err)
	}
}
