package test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fsnotify/fsnotify"

	"tenure/client"
	"tenure/test/rig"
)

// refresh is a refresh of a scene to one of files, in turn.
type refresh struct {
	name  string
	files []string
	// fails is that its services cannot start, so that it is undone.
	fails bool
	// points are the boundaries that it passes when nobody dies.
	points []rig.Boundary
}

// file is the one that the scene does not run now.
func (r *refresh) file(s *scene) string { return r.files[s.current%len(r.files)] }

// death is when the daemon is killed during a refresh.
type death struct {
	// at is the boundary, counted from 1, at which it dies; 0 is at the sight of.
	at int
	of *sight
	// again is the boundary at which the next daemon dies, if not 0.
	again int
}

// sight is something inside a step that can be seen from outside: the nth
// thing of a name that appears in a directory, or the end of the old service.
type sight struct {
	name string
	// dir is below the root.
	dir   string
	base  func(*scene, string) bool
	op    fsnotify.Op
	nth   int
	ended bool
}

// moment is one kill, for the histogram.
type moment struct {
	snap, change, task, phase string
	gap                       bool
}

// momentOf says where the daemon was by the last boundary that it has passed.
func (s *scene) momentOf(passed []rig.Boundary, of *sight, life string) moment {
	m := moment{snap: s.snap, change: "refresh-snap", task: "(request)", phase: "not begun"}
	if len(passed) > 0 {
		last := passed[len(passed)-1]
		m.change, m.task, m.phase = last.ChangeKind, last.TaskKind, last.Phase
		m.gap = inGap(last)
	}
	if of != nil {
		m.phase = "after " + m.phase + ", seeing " + of.name
	}
	m.change += life
	return m
}

// inGap reports whether the process that has passed b, and nothing after it, is
// between the stop and the start of a refresh that goes forward.
func inGap(b rig.Boundary) bool {
	switch b.Phase {
	case "gap-begin", "before-do", "after-do", "before-probe", "after-probe":
		return b.Gap
	default:
		return false
	}
}

// count carries out r without a death, and learns its boundaries.
func (s *scene) count(ctx context.Context, r *refresh) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, rig.Patience)
	defer cancel()
	s.arrive(ctx)
	s.Arm(0)
	if _, err := s.Client().Do(ctx, client.Action{Action: "refresh", Files: []string{r.file(s)}, Dangerous: true}); err != nil {
		s.t.Fatal(err)
	}
	s.conclude(ctx, r, false)
	r.points = s.Disarm()
}

// conclude waits for the end of a refresh and checks that it has come to one of
// the two ends that it may have.
func (s *scene) conclude(ctx context.Context, r *refresh, mayBeLost bool) {
	s.t.Helper()
	status, failure := s.settled(ctx)
	switch {
	case status == "" && mayBeLost:
	case status == "Done" && !r.fails:
		s.advance()
	case status == "Error" && r.fails:
	default:
		s.t.Errorf("the change is %q: %s", status, failure)
	}
	s.check(ctx)
	s.depart(ctx)
	s.mark()
}

// die carries out r, kills the daemon in the course of it, starts another one, and
// checks what has come of it. It reports false if that did not pass so many boundaries this time.
func (s *scene) die(ctx context.Context, r *refresh, d death) ([]moment, bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, rig.Patience)
	defer cancel()
	s.arrive(ctx)
	s.Arm(d.at)
	seen := make(chan error, 1)
	if d.of != nil {
		s.await(ctx, d.of, seen)
	}
	survived, asked := make(chan bool, 1), error(nil)
	go func() {
		_, asked = s.Client().Do(ctx, client.Action{Action: "refresh", Files: []string{r.file(s)}, Dangerous: true})
		survived <- asked == nil && s.outlive(ctx)
	}()
	if d.of != nil {
		if err := <-seen; err != nil {
			s.t.Fatalf("%s of %s: %v", d.of.name, r.name, err)
		}
		s.Kill()
	}
	if <-survived && d.of == nil {
		s.Disarm()
		s.conclude(ctx, r, false)
		return nil, false
	}
	select {
	case <-s.Ended():
	case <-ctx.Done():
		s.t.Fatalf("the daemon passed boundary %d of %s alive: %v", d.at, r.name, asked)
	}
	passed := s.Disarm()
	var moments []moment
	// What is seen of the end may be seen too late.
	if d.of == nil || len(passed) < len(r.points) {
		moments = append(moments, s.momentOf(passed, d.of, ""))
	}
	if d.at > 0 && len(passed) != d.at {
		s.t.Errorf("the daemon died at boundary %d of %s instead of %d", len(passed), r.name, d.at)
	}
	if d.again > 0 {
		moments = append(moments, s.dieAgain(ctx, d.again)...)
	}
	if ended(s) {
		s.Start()
	}
	s.conclude(ctx, r, len(passed) == 0)
	return moments, true
}

// dieEverywhere dies at every boundary of r, or at every fifth.
func (s *scene) dieEverywhere(ctx context.Context, r *refresh, kills *tally) {
	s.t.Helper()
	for n := 0; n < len(r.points); n += often(1, 5) {
		s.strike(ctx, r, death{at: n + 1}, kills)
	}
}

// strike is die for the histogram. What is wrong after one death makes all that
// follow wrong, so the first is the last.
func (s *scene) strike(ctx context.Context, r *refresh, d death, kills *tally) {
	s.t.Helper()
	// An observation that is over when it is looked at for the first time, on a machine that has much to do, is looked
	// at no second time, and there are fewer boundaries from there on.
	tries := 1
	if observed := slices.IndexFunc(r.points, func(b rig.Boundary) bool { return b.TaskKind == "observe-snap-services" }); observed >= 0 && d.at > observed {
		tries = 5
	}
	for range tries {
		moments, died := s.die(ctx, r, d)
		kills.add(moments...)
		if s.t.Failed() {
			s.t.Fatalf("so it is after the deaths %+v", moments)
		}
		if died {
			return
		}
	}
	s.t.Fatalf("%s has passed no boundary %d of %d", r.name, d.at, len(r.points))
}

// dieAgain starts a daemon that dies at its boundary n, if it comes so far.
func (s *scene) dieAgain(ctx context.Context, n int) []moment {
	s.t.Helper()
	s.Arm(n)
	if err := s.TryStart(); err == nil {
		s.outlive(ctx)
	}
	passed := s.Disarm()
	if !ended(s) {
		return nil
	}
	return []moment{s.momentOf(passed, nil, ", resumed")}
}

// outlive waits until the change, or the daemon, has ended, and reports whether it was the change.
func (s *scene) outlive(ctx context.Context) bool {
	var seen uint64
	for {
		c, err := s.Client().Follow(ctx, strconv.Itoa(s.lastChange+1), seen)
		if failed, ok := errors.AsType[*client.Error](err); ok && failed.Status == 404 || err == nil && c.Ready {
			return err == nil
		}
		if err != nil {
			select {
			case <-s.Ended():
			case <-ctx.Done():
			}
			return false
		}
		seen = c.Revision
	}
}

func ended(s *scene) bool {
	select {
	case <-s.Ended():
		return true
	default:
		return false
	}
}

// await watches for a sight from when it returns, and sends nil when it was seen.
func (s *scene) await(ctx context.Context, of *sight, seen chan<- error) {
	s.t.Helper()
	if of.ended {
		main := s.Main(s.service())
		go func() { seen <- rig.Gone(ctx, main) }()
		return
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := watcher.Add(s.Path(of.dir)); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer watcher.Close() //nolint:errcheck // Only watched.
		for n := 0; ; {
			select {
			case event := <-watcher.Events:
				if event.Has(of.op) && of.base(s, filepath.Base(event.Name)) {
					n++
				}
				if n == of.nth {
					seen <- nil
					return
				}
			case err := <-watcher.Errors:
				seen <- err
				return
			case <-ctx.Done():
				seen <- context.Cause(ctx)
				return
			}
		}
	}()
}

// sights are what can be seen of every refresh, in the order in which it happens.
func sights(s *scene) []*sight {
	named := func(name string) func(*scene, string) bool {
		return func(_ *scene, base string) bool { return base == name }
	}
	prefixed := func(prefix string) func(*scene, string) bool {
		return func(_ *scene, base string) bool { return strings.HasPrefix(base, prefix) }
	}
	next := func(s *scene, base string) bool { return base == x(s.current+1) }
	list := []*sight{
		{name: "the staged file", dir: "var/lib/tenure/staging", base: prefixed(s.snap), op: fsnotify.Create, nth: 1},
		{name: "the stored file", dir: "var/lib/tenure/snaps", base: prefixed(s.snap), op: fsnotify.Create, nth: 1},
		{name: "the mount point", dir: "snap/" + s.snap, base: next, op: fsnotify.Create, nth: 1},
		{name: "the first copy begun", dir: "var/snap/" + s.snap, base: next, op: fsnotify.Create, nth: 1},
		{name: "the old process gone", ended: true},
		{name: "the next link", dir: "snap/" + s.snap, base: named(".current.next"), op: fsnotify.Create, nth: 1},
		{name: "the link switched", dir: "snap/" + s.snap, base: named("current"), op: fsnotify.Create, nth: 1},
		{name: "the data link switched", dir: "var/snap/" + s.snap, base: named("current"), op: fsnotify.Create, nth: 1},
	}
	for n := range 5 {
		list = append(list, &sight{
			name: "record " + strconv.Itoa(n+1) + " of the service", dir: "run/tenure/units",
			base: named(s.service() + ".json"), op: fsnotify.Create, nth: n + 1,
		})
	}
	return list
}
