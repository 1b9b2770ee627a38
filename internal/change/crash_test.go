package change_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/change/changetest"
)

var errDead = errors.New("the machine is off")

// world is the system that steps modify. It can lose power at any of its
// ticks: every boundary of the engine, both sides of every write to the store,
// and both sides of every effect of a step. Then nothing that is left of the
// engine has any effect until it is revived.
type world struct {
	mu      sync.Mutex
	left    int // Ticks until the power goes; negative is never.
	dead    bool
	off     func()
	effects []string
	faults  []string
	// kept are the names of the steps of which the store says, by what it has kept along, that they are done.
	kept map[string]bool
	// inGap is set while nothing may be written.
	inGap bool
	store changetest.Memory
}

func newWorld() *world {
	w := &world{left: -1, kept: make(map[string]bool)}
	w.store.Before = func() error {
		w.mu.Lock()
		if w.inGap && !w.dead {
			w.faults = append(w.faults, "a write inside the gap")
		}
		w.mu.Unlock()
		return w.tick()
	}
	w.store.After = w.tick
	return w
}

func (w *world) tick() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tickLocked()
}

func (w *world) tickLocked() error {
	if !w.dead && w.left == 0 {
		w.dead = true
		w.off()
	}
	if w.dead {
		return errDead
	}
	w.left--
	return nil
}

func (w *world) boundary(p change.Point) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch p.Phase {
	case change.GapBegin:
		w.inGap = true
	case change.GapEnd, change.BeforeUndo, change.Durable:
		w.inGap = false
	case change.AfterDo, change.BeforeDo, change.BeforeProbe, change.AfterProbe, change.AfterUndo:
	}
	_ = w.tickLocked() // The engine does not hear of it either.
}

// keep has the store keep, along with what a step did, whether it is done.
func (w *world) keep(ctx context.Context, name string, done bool) {
	change.Along(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if delete(w.kept, name); done {
			w.kept[name] = true
		}
	})
}

func (w *world) endGap() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inGap = false
}

func (w *world) has(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.effects, name)
}

// set brings an effect about. Exact steps complain if it is there already.
func (w *world) set(name string, exact bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.tickLocked(); err != nil {
		return err
	}
	present := slices.Contains(w.effects, name)
	if present && exact {
		w.faults = append(w.faults, name+" done twice")
	}
	if !present {
		w.effects = append(w.effects, name)
	}
	return w.tickLocked()
}

// clear takes back an effect, which must be the last one.
func (w *world) clear(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.tickLocked(); err != nil {
		return err
	}
	at := slices.Index(w.effects, name)
	if at >= 0 && at != len(w.effects)-1 {
		w.faults = append(w.faults, name+" undone out of order")
	}
	if at >= 0 {
		w.effects = slices.Delete(w.effects, at, at+1)
	}
	return w.tickLocked()
}

// part is the parameter of every step of these tests: what it does.
type part struct {
	Name string
	// Fails makes Do fail, having done nothing; Partly, having done everything.
	Fails, Partly bool
	// UndoFails makes Undo fail, having undone everything.
	UndoFails bool
	// Aborts makes Do ask for the abort of its own change.
	Aborts bool
	// Waits makes Do wait, once, for someone to wake it.
	Waits bool
	// Inserts makes Do insert a task, joined to its own, which only has something kept along.
	Inserts bool
}

// inserted is the name of what a part of that name inserts.
func inserted(name string) string { return name + "+" }

// done is what the steps of these tests say that they did.
type done struct{ Name string }

// plain is a step that can be repeated, probed one that cannot.
type plain struct {
	w     *world
	exact bool
	abort func(change.ID)
	wake  func(change.ID)
}

type probed struct{ plain }

// blind is a step of the gap that leaves nothing to be seen, and nothing to be
// undone; but it must not be repeated when steps after it have been done.
type blind struct{ w *world }

func (s plain) Do(ctx context.Context, p part) (done, error) {
	if p.Fails || p.Partly || p.Waits {
		s.w.endGap()
	}
	switch {
	case p.Fails:
		s.w.keep(ctx, p.Name, true)
		return done{}, errors.New("boom")
	case p.Waits && !s.w.has("woken "+p.Name):
		go s.wake(change.IDFrom(ctx))
		if err := s.w.remember("woken " + p.Name); err != nil {
			return done{}, err
		}
		return done{}, &change.Waiting{For: "a friend"}
	case p.Aborts:
		s.abort(change.IDFrom(ctx))
	}
	if p.Inserts {
		name := inserted(p.Name)
		if err := change.Insert(ctx, nil, change.NewTask("keeper", name, part{Name: name}).JoinedOn()); err != nil {
			return done{}, err
		}
	}
	if err := s.w.set(p.Name, s.exact); err != nil {
		return done{}, err
	}
	s.w.keep(ctx, p.Name, true)
	if p.Partly {
		return done{p.Name}, change.Partial(errors.New("half a boom"))
	}
	return done{p.Name}, nil
}

func (s plain) Undo(ctx context.Context, p part, d done) error {
	if d.Name != p.Name {
		return fmt.Errorf("undo of %s got %q", p.Name, d.Name)
	}
	if err := s.w.clear(p.Name); err != nil {
		return err
	}
	s.w.keep(ctx, p.Name, false)
	if p.UndoFails {
		return errors.New("undo boom")
	}
	return nil
}

func (s probed) Probe(ctx context.Context, p part) (done, bool, error) {
	has := s.w.has(p.Name)
	if has {
		s.w.keep(ctx, p.Name, true)
	}
	if has && p.Partly {
		return done{p.Name}, true, change.Partial(errors.New("half a boom"))
	}
	return done{p.Name}, has, nil
}

func (s blind) Do(_ context.Context, p part) (done, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for _, e := range s.w.effects {
		if strings.HasPrefix(e, "step") && e > p.Name && !s.w.dead {
			s.w.faults = append(s.w.faults, p.Name+" done after "+e)
		}
	}
	return done{p.Name}, s.w.tickLocked()
}

func (s blind) Undo(_ context.Context, p part, d done) error {
	if d.Name != p.Name {
		return fmt.Errorf("undo of %s got %q", p.Name, d.Name)
	}
	return nil
}

func (s blind) Probe(_ context.Context, p part) (done, bool, error) {
	return done{p.Name}, false, nil
}

// keeper is a step that does nothing but have something kept.
type keeper struct{ w *world }

func (s keeper) Do(ctx context.Context, p part) (done, error) {
	s.w.keep(ctx, p.Name, true)
	return done{p.Name}, nil
}

func (s keeper) Undo(ctx context.Context, p part, _ done) error {
	s.w.keep(ctx, p.Name, false)
	return nil
}

// remember notes something that is no effect of a step.
func (w *world) remember(note string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errDead
	}
	w.effects = slices.Insert(w.effects, 0, note)
	return nil
}

// plan is the tasks of one change.
type plan []change.TaskSpec

// session is one life of the engine.
type session struct {
	engine *change.Engine
	stop   context.CancelFunc
	ended  chan error
}

// begin starts an engine on what the world has kept.
func (w *world) begin(ctx context.Context, left int) *session {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{stop: cancel, ended: make(chan error, 1)}
	w.mu.Lock()
	w.dead, w.left, w.off, w.inGap = false, left, cancel, false
	w.mu.Unlock()
	reg := change.NewRegistry()
	steps := plain{
		w:     w,
		abort: func(id change.ID) { go func() { _ = s.engine.Abort(ctx, id) }() },
		wake:  func(id change.ID) { _ = s.engine.Wake(ctx, id) },
	}
	exact := steps
	exact.exact = true
	change.Register(reg, "plain", steps)
	change.Register(reg, "probed", probed{exact})
	change.Register(reg, "blind", blind{w})
	change.Register(reg, "keeper", keeper{w})
	s.engine = change.New(change.Config{Store: &w.store, Registry: reg, Boundary: w.boundary})
	go func() { s.ended <- s.engine.Run(ctx) }()
	return s
}

func (s *session) end() error {
	s.stop()
	return <-s.ended
}

// live runs p in a new world that loses power after each of the numbers of
// ticks in turn, and then never. It returns the change as it ended, if it ever
// began.
func live(t *rapid.T, w *world, p plan, lives ...int) (change.Change, bool) {
	ctx := context.Background()
	var id change.ID
	for _, left := range append(lives, -1) {
		s := w.begin(ctx, left)
		select {
		case <-s.engine.Ready():
		case err := <-s.ended:
			s.stop()
			if left < 0 {
				t.Fatalf("Run: %v", err)
			}
			continue
		}
		var err error
		if id, err = s.prompt(ctx, id, p); err != nil && left < 0 {
			t.Fatalf("start or wake: %v", err)
		}
		c, err := s.engine.WaitFor(ctx, id)
		if endErr := s.end(); endErr != nil && left < 0 {
			t.Fatalf("Run: %v", endErr)
		}
		if err == nil {
			return c, true
		}
		if left < 0 {
			t.Fatalf("WaitFor: %v", err)
		}
	}
	return change.Change{}, false
}

// prompt makes p run: it starts it, or wakes it, as those do who watch for what
// it waits for.
func (s *session) prompt(ctx context.Context, id change.ID, p plan) (change.ID, error) {
	existing := s.engine.List(change.Filter{})
	switch {
	case len(existing) == 0 && id == 0:
		return s.engine.Start(ctx, change.NewChange{Kind: "test", Snaps: []tenure.Instance{"a"}, Tasks: p})
	case len(existing) > 0 && existing[0].Status == change.Wait:
		return existing[0].ID, s.engine.Wake(ctx, existing[0].ID)
	case len(existing) > 0:
		id = existing[0].ID
	}
	return id, nil
}

// outcome is what a plan must lead to, by a simpler way of thinking: if
// nothing fails everything is there, otherwise nothing is.
func outcome(p plan) (effects []string, status change.Status) {
	status = change.Done
	undone := false
	for _, spec := range p {
		part, _ := spec.Params().(part)
		switch {
		case part.Fails, part.Partly:
			return nil, change.Error
		case part.Aborts:
			undone = true
		}
		if spec.Kind != "blind" {
			effects = append(effects, part.Name)
		}
	}
	if undone {
		return nil, change.Undone
	}
	return effects, status
}

func (w *world) result() (effects, faults []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.effects {
		if strings.HasPrefix(e, "step") {
			effects = append(effects, e)
		}
	}
	return effects, w.faults
}

func drawPlan(t *rapid.T, draw func(i int, p *part)) plan {
	n := rapid.IntRange(1, 7).Draw(t, "steps")
	var p plan
	for i := range n {
		part := part{Name: fmt.Sprintf("step%d", i)}
		draw(i, &part)
		kind := rapid.SampledFrom([]string{"plain", "probed", "gap", "gap", "gap", "blind"}).Draw(t, "kind")
		switch {
		case kind == "gap" || kind == "blind" && (part.Fails || part.Partly || part.Waits || part.Aborts):
			p = append(p, change.NewTask("probed", part.Name, part).InGap())
		case kind == "blind":
			p = append(p, change.NewTask("blind", part.Name, part).InGap())
		case rapid.Bool().Draw(t, "joined"):
			p = append(p, change.NewTask(kind, part.Name, part).JoinedOn())
		default:
			part.Inserts = kind == "plain" && !part.Fails && !part.Partly && rapid.Bool().Draw(t, "inserts")
			p = append(p, change.NewTask(kind, part.Name, part))
		}
	}
	return p
}

// count runs p without a crash and says how many ticks that took.
func count(t *rapid.T, p plan) int {
	w := newWorld()
	live(t, w, p)
	w.mu.Lock()
	defer w.mu.Unlock()
	return -1 - w.left
}

// TestCrashAnywhere loses power at every tick of random changes, and once more
// after that, and compares what is there in the end with outcome.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlan(t, func(_ int, p *part) {
			switch rapid.IntRange(0, 9).Draw(t, "fate") {
			case 0:
				p.Fails = true
			case 1:
				p.Partly = true
			case 2:
				p.Waits = true
			default:
			}
		})
		wantEffects, wantStatus := outcome(p)
		wantKept := slices.Clone(wantEffects)
		for _, spec := range p {
			if part, _ := spec.Params().(part); part.Inserts && len(wantEffects) > 0 {
				wantKept = append(wantKept, inserted(part.Name))
			}
		}
		slices.Sort(wantKept)
		again := rapid.IntRange(0, 12).Draw(t, "second life")
		for k := range count(t, p) + 1 {
			w := newWorld()
			c, began := live(t, w, p, k, again)
			effects, faults := w.result()
			if len(faults) > 0 {
				t.Fatalf("crash at %d: %v", k, faults)
			}
			if !began {
				t.Fatalf("crash at %d: the change never ended", k)
			}
			kept := slices.Sorted(maps.Keys(w.kept))
			if c.Status != wantStatus || !slices.Equal(effects, wantEffects) || !slices.Equal(kept, wantKept) {
				t.Fatalf("crash at %d: %s with %v (kept %v), want %s with %v (kept %v)\n%+v", k, c.Status, effects, kept, wantStatus, wantEffects, wantKept, c)
			}
		}
	})
}

// TestCrashWhileAborting does the same with changes that are aborted by one of
// their steps: whether the wish comes in time, and is durable before the power
// goes, is open, but half a change is never left, whatever undo says.
func TestCrashWhileAborting(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlan(t, func(_ int, p *part) {
			p.UndoFails = rapid.IntRange(0, 5).Draw(t, "undo fails") == 0
			switch rapid.IntRange(0, 5).Draw(t, "fate") {
			case 0:
				p.Aborts = true
			case 1:
				p.Waits = true
			default:
			}
		})
		again := rapid.IntRange(0, 12).Draw(t, "second life")
		for k := range count(t, p) + 4 {
			w := newWorld()
			w.store.Before = w.tick // Aborting may write at any time.
			c, _ := live(t, w, p, k, again)
			if fault := w.half(c, p); fault != "" {
				t.Fatalf("crash at %d: %s\n%+v", k, fault, c)
			}
		}
	})
}

// half says in what way c was left half done or half undone.
func (w *world) half(c change.Change, p plan) string {
	effects, faults := w.result()
	visible := slices.DeleteFunc(slices.Clone(p), func(spec change.TaskSpec) bool { return spec.Kind == "blind" })
	switch {
	case len(faults) > 0:
		return fmt.Sprint(faults)
	case c.Status == change.Done && len(effects) != len(visible), c.Status != change.Done && len(effects) > 0:
		return fmt.Sprintf("%s with %v", c.Status, effects)
	}
	for i := range c.Tasks {
		if !c.Tasks[i].Status.Ready() {
			return fmt.Sprintf("task %d is left %s", i, c.Tasks[i].Status)
		}
	}
	return ""
}
