package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/client"
	"tenure/test/rig"
)

// standing is all of an instance that operations may touch, in words.
type standing struct {
	// Snaps are all kept revisions, and what is said of each.
	Snaps []string
	// Procs are the processes, by snap and name.
	Procs map[string]string
	// Same are those that must be, and are, the same or others than before.
	Same map[string]string
	// SnapDirs, DataDirs, Files and Bin are names in directories; Links what links lead to.
	SnapDirs, DataDirs, Files, Staging, Bin []string
	Links                                   map[string]string
	Mounts, Loops                           []string
	// Marks are the contents of data, Confs the configurations.
	Marks, Confs map[string]string
	// Pins are why revisions that are not current are kept.
	Pins map[string]string
	// InProgress are the changes that go on. Strange are processes and control groups of
	// nobody.
	InProgress, Strange []string
}

// sorted orders the lists.
func (want *standing) sorted() *standing {
	for _, list := range [][]string{want.Snaps, want.SnapDirs, want.DataDirs, want.Files, want.Bin, want.Mounts, want.Loops} {
		slices.Sort(list)
	}
	return want
}

func newStanding() *standing {
	return &standing{
		Procs: map[string]string{}, Same: map[string]string{}, Links: map[string]string{},
		Marks: map[string]string{}, Confs: map[string]string{}, Pins: map[string]string{},
	}
}

func sortedNames[T any](of map[string]T) []string { return slices.Sorted(maps.Keys(of)) }

// wanted is what the world must look like.
func (w *world) wanted(root string, before map[string]known) *standing {
	want := newStanding()
	kept := w.settle()
	for _, name := range sortedNames(w.Snaps) {
		s := w.Snaps[name]
		if !s.installed() {
			continue
		}
		w.wantSnap(want, root, s, kept[name])
		w.wantProcs(want, s, before)
	}
	want.wantRevisions(root, &snap{Name: baseName, line: w.Base, Enabled: true}, kept[baseName])
	return want.sorted()
}

func (w *world) wantSnap(want *standing, root string, s *snap, kept []int) {
	want.wantRevisions(root, s, kept)
	for _, revision := range kept {
		mark := s.Marks[revision]
		if revision == s.Staged {
			continue // It is copied once more when it becomes current.
		}
		want.Marks[s.Name+"@"+x(revision)] = mark
	}
	want.Marks[s.Name+" common"] = s.Common
	want.Confs[s.Name] = fmt.Sprint(s.Conf)
	if s.Enabled {
		want.Bin = append(want.Bin, s.Name+"."+app)
		if s.Alias {
			want.Bin = append(want.Bin, s.Name+"-alias")
		}
	}
	w.wantPins(want, s, kept)
}

// wantRevisions is what there must be of the revisions of any snap.
func (want *standing) wantRevisions(root string, s *snap, kept []int) {
	name, said := s.Name, ""
	if s.Held {
		said += " held"
	}
	if !s.Enabled {
		said += " disabled"
	}
	at := func(elem ...string) string { return filepath.Join(append([]string{root}, elem...)...) }
	for _, link := range []string{"snap", "var/snap"} {
		if s.Enabled {
			want.Links[filepath.Join(link, name)] = x(s.Current)
		}
	}
	want.Mounts = append(want.Mounts, at("snap", name), at("var/snap", name, "common"))
	for _, revision := range kept {
		listed := name + " " + x(revision)
		switch revision {
		case s.Current:
			listed += " current" + said
		case s.Staged:
			listed += " staged"
		}
		file := name + "_" + x(revision) + ".snap"
		want.Snaps = append(want.Snaps, listed)
		want.SnapDirs, want.DataDirs = append(want.SnapDirs, name+"/"+x(revision)), append(want.DataDirs, name+"/"+x(revision))
		want.Files, want.Loops = append(want.Files, file), append(want.Loops, at("var/lib/tenure/snaps", file))
		want.Mounts = append(want.Mounts, at("snap", name, x(revision)))
	}
}

// wantPins is why revisions that are not current are kept.
func (w *world) wantPins(want *standing, s *snap, kept []int) {
	for _, revision := range kept {
		if revision == s.Current {
			continue
		}
		var why []string
		if revision == s.retained() {
			why = append(why, "retained")
		}
		for _, name := range sortedNames(s.Procs) {
			if s.Procs[name].Revision == revision && !slices.Contains(why, "unit") {
				why = append(why, "unit")
			}
		}
		if revision == s.Staged {
			why = append(why, "change")
		}
		want.Pins[s.Name+"@"+x(revision)] = strings.Join(why, " ")
	}
}

// wantProcs is what there must be of processes, and whether they are those of before.
func (w *world) wantProcs(want *standing, s *snap, before map[string]known) {
	for name, p := range s.Procs {
		key := s.Name + ":" + name
		want.Procs[key] = p.String()
		if b, seen := before[key]; seen && !p.Loose && !p.Maybe {
			want.Same[key] = sameWords(b.life == p.Life)
		}
	}
}

func sameWords(same bool) string {
	if same {
		return "the process of before"
	}
	return "another process"
}

// found is what there is. It tells processes by the first argument of their program.
func (r *operator) found(ctx context.Context, w *world) (*standing, map[string]known, error) {
	got, now := newStanding(), map[string]known{}
	units, err := r.client.Units(ctx)
	if err != nil {
		return nil, nil, err
	}
	r.units, r.apps = len(units), 0
	waits := map[string]bool{}
	mine := map[int]bool{r.PID(): true, r.Holder(): true}
	for i := range units {
		if units[i].Kind == string(tenure.AppRun) {
			r.apps++
		}
		if units[i].Staged != "" {
			waits[units[i].Snap] = true
		}
		for j := range units[i].Processes {
			p := &units[i].Processes[j]
			mine[p.PID] = true
			r.foundProcess(got, now, &units[i], p)
		}
	}
	r.waiting = len(waits)
	r.strange(got, mine)
	for _, find := range []func(context.Context, *standing) error{r.foundSnaps, r.foundChanges, r.foundConfs} {
		if err := find(ctx, got); err != nil {
			return nil, nil, err
		}
	}
	r.foundFiles(got)
	w.adopt(got, now)
	return got.sorted(), now, nil
}

func (r *operator) foundProcess(got *standing, now map[string]known, unit *client.Unit, p *client.Process) {
	name := p.Command
	words := strings.Fields(p.Command)
	if len(words) > 1 {
		name = words[1]
	}
	if slices.Contains(words, "fork") {
		name += " before it forks"
	}
	if at := strings.IndexByte(unit.ID, '@'); at > 0 && unit.Kind == "service" {
		name = unit.ID[strings.IndexByte(unit.ID, '.')+1:]
	}
	key := unit.Snap + ":" + name
	for got.Procs[key] != "" {
		key += " again"
	}
	base := strings.TrimPrefix(unit.Base, baseName+"@")
	got.Procs[key] = fmt.Sprintf("%s on %s, base %s", unit.Kind, unit.Revision, base)
	if env := ownRevision(p.PID); env != unit.Revision {
		got.Procs[key] += ", which says it is of " + env
	}
	id := tenure.Process{PID: p.PID, Start: p.Start}
	now[key] = known{Process: id, unit: unit.ID, base: base}
	if before, seen := r.known[key]; seen {
		got.Same[key] = sameWords(before.Process == id)
	}
}

// adopt takes from what there is what the model leaves open: which life of a process it
// is, and whether it is there at all.
func (w *world) adopt(got *standing, now map[string]known) {
	for _, s := range w.Snaps {
		for name, p := range s.Procs {
			key := s.Name + ":" + name
			if p.Loose || p.Maybe {
				delete(got.Same, key)
			}
		}
	}
	for key := range got.Same {
		if _, there := now[key]; !there {
			delete(got.Same, key)
		}
	}
}

// ownRevision is $SNAP_REVISION of a process.
func ownRevision(pid int) string {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return err.Error()
	}
	revision := ""
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte("SNAP_REVISION=")); ok {
			revision = string(value)
		}
	}
	return revision
}

// strange are processes of the root that are in no unit, and groups that are empty.
func (r *operator) strange(got *standing, mine map[int]bool) {
	for _, group := range r.Groups() {
		if len(group.PIDs) == 0 {
			got.Strange = append(got.Strange, "empty group "+group.Path)
		}
	}
	for _, line := range rig.Processes(r.Root) {
		pid, _, _ := strings.Cut(line, " ")
		if n, err := strconv.Atoi(pid); err != nil || !mine[n] {
			got.Strange = append(got.Strange, "process "+line)
		}
	}
}

func (r *operator) foundSnaps(ctx context.Context, got *standing) error {
	all, err := r.client.Snaps(ctx, true)
	if err != nil {
		return err
	}
	for i := range all {
		s := &all[i]
		got.Snaps = append(got.Snaps, listed(s))
		if s.Name == baseName {
			continue
		}
		if s.StagedBy == "" {
			got.Marks[s.Name+"@"+s.Revision] = text(r.Path("var/snap", s.Name, s.Revision, "mark"))
		}
		if s.Current {
			got.Marks[s.Name+" common"] = text(r.Path("var/snap", s.Name, "common/mark"))
			continue
		}
		pins, err := r.client.Pins(ctx, s.Name+"@"+s.Revision)
		if err != nil {
			return err
		}
		var why []string
		for _, pin := range pins {
			if !slices.Contains(why, pin.Kind) {
				why = append(why, pin.Kind)
			}
		}
		got.Pins[s.Name+"@"+s.Revision] = strings.Join(why, " ")
	}
	return nil
}

// listed is what is said of a revision.
func listed(s *client.Snap) string {
	words := s.Name + " " + s.Revision
	switch {
	case s.Current:
		words += " current"
		if s.Hold != "" {
			words += " held"
		}
		if s.Status != "active" {
			words += " disabled"
		}
	case s.StagedBy != "":
		words += " staged"
	}
	return words
}

// text is what is in a file; nothing if there is none.
func text(path string) string {
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error()
	}
	return string(content)
}

func (r *operator) foundChanges(ctx context.Context, got *standing) error {
	changes, err := r.client.Changes(ctx, "in-progress", "")
	for i := range changes {
		got.InProgress = append(got.InProgress, changes[i].ID+" "+changes[i].Summary)
	}
	return err
}

func (r *operator) foundConfs(ctx context.Context, got *standing) error {
	snaps, err := r.client.Snaps(ctx, false)
	if err != nil {
		return err
	}
	for i := range snaps {
		if snaps[i].Name == baseName {
			continue
		}
		conf, err := r.client.Conf(ctx, snaps[i].Name, nil)
		if err != nil {
			return err
		}
		got.Confs[snaps[i].Name] = fmt.Sprint(conf)
	}
	return nil
}

// foundFiles reads directories.
func (r *operator) foundFiles(got *standing) {
	names := func(dir string) (list []string) {
		entries, _ := os.ReadDir(dir) // What is missing is missed.
		for _, entry := range entries {
			list = append(list, entry.Name())
		}
		return list
	}
	for _, place := range []struct {
		dir  string
		list *[]string
	}{{"snap", &got.SnapDirs}, {"var/snap", &got.DataDirs}} {
		for _, name := range names(r.Path(place.dir)) {
			for _, sub := range names(r.Path(place.dir, name)) {
				switch {
				case name == "bin" || sub == "common":
				case sub == "current":
					got.Links[filepath.Join(place.dir, name)], _ = os.Readlink(r.Path(place.dir, name, sub))
				default:
					*place.list = append(*place.list, name+"/"+sub)
				}
			}
		}
	}
	got.Files, got.Staging = names(r.Path("var/lib/tenure/snaps")), names(r.Path("var/lib/tenure/staging"))
	got.Bin = names(r.Path("snap/bin"))
	got.Mounts, got.Loops = rig.Mounts(r.Root), rig.Loops(r.Root)
}

// settling is how long what nothing needs any more may stay, and what is started again may
// take.
const settling = 2 * time.Minute

// compare waits until there is what there must be, and gives the difference if that
// does not come. What the model leaves open it takes over.
func (r *operator) compare(ctx context.Context, w *world) (string, error) {
	deadline := time.Now().Add(settling)
	for {
		want := w.wanted(r.Root, r.known)
		got, now, err := r.found(ctx, w)
		diff := ""
		if err == nil {
			w.close(want, got)
			diff = cmp.Diff(want, got)
		}
		if diff == "" && err == nil {
			r.learn(w, now)
			return "", nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return diff, err
		}
		_ = r.pause(ctx, nil)
	}
}

// close takes over what the model leaves open.
func (w *world) close(want, got *standing) {
	for _, s := range w.Snaps {
		for name, p := range s.Procs {
			key := s.Name + ":" + name
			is, there := got.Procs[key]
			if p.Maybe && !there {
				delete(want.Procs, key)
			}
			if there && slices.Contains(p.open(), is) {
				want.Procs[key] = is
			}
		}
	}
}

// open is all that a process may be.
func (p *process) open() []string {
	kinds := []string{p.Kind}
	if p.Kind == "" {
		kinds = []string{"service", "workload"}
	}
	var all []string
	for _, kind := range kinds {
		for _, base := range append([]int{p.Base}, p.Bases...) {
			one := *p
			one.Kind, one.Base = kind, base
			all = append(all, one.String())
		}
	}
	return all
}

// learn keeps what there is for the next step.
func (r *operator) learn(w *world, now map[string]known) {
	for _, s := range w.Snaps {
		for name, p := range s.Procs {
			key := s.Name + ":" + name
			k, there := now[key]
			if !there {
				delete(s.Procs, name)
				continue
			}
			p.Loose, p.Maybe, p.Bases, p.Unit, k.life = false, false, nil, k.unit, p.Life
			p.Base, _ = strconv.Atoi(strings.TrimPrefix(k.base, "x"))
			if p.Kind == "" {
				p.Kind = "workload"
				if !strings.Contains(k.unit, "/") {
					p.Kind = "service"
				}
			}
			now[key] = k
		}
	}
	r.known = now
}
