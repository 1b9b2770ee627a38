package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure"
	"tenure/client"
	"tenure/test/rig"
)

// scene is a snap with one service in a root of its own, and all that must be true
// of it between two refreshes.
type scene struct {
	*rig.Instance

	t          *testing.T
	snap, app  string
	base       string
	commands   []string
	lastChange int
	// current and kept are revisions by number; kept is in order.
	current int
	kept    []int
	// stay are the workloads that came out of the service, whatever happens to it.
	stay map[string]workload
	// begin, if set, makes the service start something that comes out of it at its next
	// stop: the guest.
	begin func(ctx context.Context) workload
	guest *workload
	// marks are the contents of the file "mark" in the data of each revision.
	marks map[int]string
	// answer asks the service who it is, and whatever else only it can know.
	answer func(ctx context.Context, revision int) error
}

// newScene installs file in a root of its own.
func newScene(t *testing.T, snap, app string, before []string, file string) *scene {
	t.Helper()
	s := &scene{
		Instance: rig.New(t, rig.Config{FailPoints: true}),
		t:        t, snap: snap, app: app,
		current: 1, kept: []int{1},
		stay: map[string]workload{}, marks: map[int]string{},
	}
	for _, other := range before {
		s.Tenure("install", "--dangerous", other)
		s.lastChange++
	}
	s.Tenure("install", "--dangerous", file)
	s.lastChange++
	s.mark()
	return s
}

func (s *scene) service() string { return s.snap + "." + s.app }

func x(revision int) string { return "x" + strconv.Itoa(revision) }

func (s *scene) data(elem ...string) string {
	return filepath.Join(append([]string{s.Path("var/snap", s.snap)}, elem...)...)
}

// mark makes the data of the current revision its own.
func (s *scene) mark() {
	s.t.Helper()
	s.marks[s.current] = fmt.Sprintf("marked as %s after change %d\n", x(s.current), s.lastChange)
	if err := os.WriteFile(s.data(x(s.current), "mark"), []byte(s.marks[s.current]), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// workload is what must live, as the same process, on the revision that it is from.
type workload struct {
	Process  tenure.Process
	Revision string
}

func (w workload) unit() string {
	return tenure.ServiceUnit("virt", "virtd").Workload("vm", w.Process.PID).String()
}

// arrive has the service start its guest.
func (s *scene) arrive(ctx context.Context) {
	if s.begin != nil {
		w := s.begin(ctx)
		s.guest = &w
	}
}

// depart ends the guest.
func (s *scene) depart(ctx context.Context) {
	s.t.Helper()
	if s.guest == nil {
		return
	}
	err := unix.Kill(s.guest.Process.PID, unix.SIGKILL)
	if err == nil {
		err = rig.Gone(ctx, s.guest.Process)
	}
	if err != nil {
		s.t.Fatalf("end the guest: %v", err)
	}
	delete(s.stay, s.guest.unit())
	s.guest = nil
}

// advance notes that a refresh has come to its end, all of it.
func (s *scene) advance() {
	next := s.current + 1
	if s.guest != nil {
		s.stay[s.guest.unit()] = *s.guest
	}
	s.marks[next] = s.marks[s.current]
	kept := []int{s.current, next}
	for _, w := range s.stay {
		revision, _ := strconv.Atoi(w.Revision[1:]) // One of ours.
		kept = append(kept, revision)
	}
	s.kept = slices.Compact(slices.Sorted(slices.Values(kept)))
	s.current = next
}

// settled waits until no change goes on, and says how the one that was last asked
// for has ended, if it ever came to be.
func (s *scene) settled(ctx context.Context) (status, failure string) {
	s.t.Helper()
	id := strconv.Itoa(s.lastChange + 1)
	var seen uint64
	for {
		c, err := s.Client().Follow(ctx, id, seen)
		if failed, ok := errors.AsType[*client.Error](err); ok && failed.Status == 404 {
			return "", ""
		}
		if err != nil {
			s.t.Fatalf("follow change %s: %v", id, err)
		}
		if c.Ready {
			s.lastChange++
			return c.Status, c.Err
		}
		seen = c.Revision
	}
}

// check holds what there is against what there must be: the state before a
// change or after it, and nothing in between. What a change has done with, the
// collector and the kernel may take a moment more to be rid of, and nothing else.
func (s *scene) check(ctx context.Context) {
	s.t.Helper()
	if err := s.answer(ctx, s.current); err != nil {
		s.t.Errorf("the service: %v", err)
	}
	want, got := s.wanted(), s.found(ctx)
	if diff := cmp.Diff(want, got.without(want)); diff != "" {
		s.t.Errorf("what is there (-want +got):\n%s\n%s", diff, s.why(ctx))
		return
	}
	// Nobody tells when a mount or a loop device goes.
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(settling)
	for {
		diff, orphans := cmp.Diff(want, s.found(ctx)), s.orphans()
		if diff == "" && len(orphans) == 0 {
			return
		}
		select {
		case <-again.C:
		case <-deadline:
			s.t.Errorf("what is there after %s (-want +got):\n%s\n%s\nof no unit: %s", settling, diff, s.why(ctx), strings.Join(orphans, "\n"))
			return
		}
	}
}

// settling is how long what nothing needs any more may stay.
const settling = 5 * time.Second

// without is w without what is there beside want and may be on its way out.
func (w standing) without(want standing) standing {
	for _, list := range []struct{ got, want *[]string }{
		{&w.Listed, &want.Listed},
		{&w.SnapDir, &want.SnapDir},
		{&w.DataDir, &want.DataDir},
		{&w.Files, &want.Files},
		{&w.Mounts, &want.Mounts},
		{&w.Loops, &want.Loops},
	} {
		*list.got = slices.DeleteFunc(slices.Clone(*list.got), func(name string) bool { return !slices.Contains(*list.want, name) })
	}
	w.Marks = maps.Clone(w.Marks)
	maps.DeleteFunc(w.Marks, func(revision, _ string) bool { return want.Marks[revision] == "" })
	return w
}

// why is what the daemon says about the last change and about what it keeps.
func (s *scene) why(ctx context.Context) string {
	var b strings.Builder
	if c, err := s.Client().Change(ctx, strconv.Itoa(s.lastChange)); err == nil {
		for i := range c.Tasks {
			fmt.Fprintf(&b, "%s %s %q\n", c.Tasks[i].Kind, c.Tasks[i].Status, c.Tasks[i].Log)
		}
	}
	for _, name := range s.names("snap", s.snap) {
		if pins, err := s.Client().Pins(ctx, s.snap+"@"+name); err == nil {
			fmt.Fprintf(&b, "%s: %v\n", name, pins)
		}
	}
	return b.String()
}

// standing is all of an instance that a change may touch.
type standing struct {
	InProgress                           []string
	Listed                               []string
	Link, DataLink                       string
	SnapDir, DataDir, Files, Staged, Bin []string
	Mounts, Loops                        []string
	Marks                                map[string]string
	Units                                map[string]string
	// Service is the revision that the main process of the service was started from,
	// by its own environment.
	Service string
	Stay    map[string]workload
}

func (s *scene) wanted() standing {
	want := standing{
		Link: x(s.current), DataLink: x(s.current),
		SnapDir: []string{"current"}, DataDir: []string{"common", "current"},
		Mounts: []string{s.Path("snap", s.snap), s.data("common")},
		Bin:    s.commands,
		Marks:  map[string]string{},
		Units:  map[string]string{s.service(): x(s.current) + " running"}, Service: x(s.current),
		Stay: s.stay,
	}
	for _, revision := range s.kept {
		name := x(revision)
		listed := name
		if revision == s.current {
			listed += " current"
		}
		file := s.snap + "_" + name + ".snap"
		want.Listed = append(want.Listed, listed)
		want.SnapDir, want.DataDir = append(want.SnapDir, name), append(want.DataDir, name)
		want.Files = append(want.Files, file)
		want.Loops = append(want.Loops, s.Path("var/lib/tenure/snaps", file))
		want.Mounts = append(want.Mounts, s.Path("snap", s.snap, name))
		want.Marks[name] = s.marks[revision]
	}
	if s.base != "" {
		file := s.base + "_x1.snap"
		want.Files, want.Loops = append(want.Files, file), append(want.Loops, s.Path("var/lib/tenure/snaps", file))
		want.Mounts = append(want.Mounts, s.Path("snap", s.base), s.Path("snap", s.base, "x1"), s.Path("var/snap", s.base, "common"))
	}
	for unit, w := range s.stay {
		want.Units[unit] = w.Revision + " running"
	}
	return want.sorted()
}

func (w standing) sorted() standing {
	for _, list := range [][]string{w.Listed, w.SnapDir, w.DataDir, w.Files, w.Staged, w.Bin, w.Mounts, w.Loops} {
		slices.Sort(list)
	}
	return w
}

func (s *scene) found(ctx context.Context) standing {
	s.t.Helper()
	got := standing{
		Link: link(s.Path("snap", s.snap, "current")), DataLink: link(s.data("current")),
		SnapDir: s.names("snap", s.snap), DataDir: s.names("var/snap", s.snap),
		Files: s.names("var/lib/tenure/snaps"), Staged: s.names("var/lib/tenure/staging"), Bin: s.names("snap/bin"),
		Mounts: rig.Mounts(s.Root), Loops: rig.Loops(s.Root),
		Marks: map[string]string{}, Units: map[string]string{}, Stay: map[string]workload{},
	}
	changes, err := s.Client().Changes(ctx, "in-progress", "")
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range changes {
		got.InProgress = append(got.InProgress, changes[i].ID+" "+changes[i].Kind+" "+changes[i].Status)
	}
	all, err := s.Client().Snaps(ctx, true)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range all {
		if all[i].Name != s.snap {
			continue
		}
		listed := all[i].Revision
		if all[i].Current {
			listed += " current"
		}
		got.Listed = append(got.Listed, listed)
		mark, err := os.ReadFile(s.data(all[i].Revision, "mark"))
		if err != nil {
			mark = []byte(err.Error())
		}
		got.Marks[all[i].Revision] = string(mark)
	}
	s.foundUnits(&got)
	return got.sorted()
}

func (s *scene) foundUnits(got *standing) {
	for id, unit := range s.Units() {
		got.Units[id] = unit.Revision + " " + unit.State
		for _, p := range unit.Processes {
			switch {
			case id == s.service() && p.Main:
				got.Service = ownRevision(p.PID)
			case id != s.service():
				got.Stay[id] = workload{Process: tenure.Process{PID: p.PID, Start: p.Start}, Revision: unit.Revision}
			}
		}
	}
}

// ownRevision is $SNAP_REVISION of a process.
func ownRevision(pid int) string {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return err.Error()
	}
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		if revision, ok := bytes.CutPrefix(entry, []byte("SNAP_REVISION=")); ok {
			return string(revision)
		}
	}
	return ""
}

func link(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return err.Error()
	}
	return target
}

func (s *scene) names(dir ...string) []string {
	s.t.Helper()
	entries, err := os.ReadDir(s.Path(dir...))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// orphans are the control groups and the processes of this root that are of no unit.
func (s *scene) orphans() []string {
	known := map[int]bool{s.PID(): true}
	for _, unit := range s.Units() {
		for _, p := range unit.Processes {
			known[p.PID] = true
		}
	}
	var orphans []string
	for _, group := range s.Groups() {
		if len(group.PIDs) == 0 {
			orphans = append(orphans, "empty group "+group.Path)
		}
	}
	for _, line := range rig.Processes(s.Root) {
		pid, command, _ := strings.Cut(line, " ")
		number, err := strconv.Atoi(pid)
		holder := strings.Contains(command, "tenured holder --root "+s.Root)
		if err != nil || !known[number] && !holder {
			orphans = append(orphans, "process "+line)
		}
	}
	return orphans
}
