package change_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/change/changetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a step whose parameter names the function that it runs.
type script struct {
	do   map[string]func(context.Context) (string, error)
	undo map[string]func(context.Context, string) error
	// found is what Probe finds done.
	found map[string]bool

	mu    sync.Mutex
	calls []string
}

func newScript() *script {
	return &script{
		do:    make(map[string]func(context.Context) (string, error)),
		undo:  make(map[string]func(context.Context, string) error),
		found: make(map[string]bool),
	}
}

func (s *script) called(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, what)
}

func (s *script) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.calls, " ")
}

func (s *script) Do(ctx context.Context, name string) (string, error) {
	s.called(name)
	if f := s.do[name]; f != nil {
		return f(ctx)
	}
	return "did " + name, nil
}

func (s *script) Undo(ctx context.Context, name, done string) error {
	s.called("-" + name)
	if f := s.undo[name]; f != nil {
		return f(ctx, done)
	}
	return nil
}

// probedScript is a script that can be probed.
type probedScript struct{ *script }

func (s probedScript) Probe(_ context.Context, name string) (string, bool, error) {
	s.called("?" + name)
	return "found " + name, s.found[name], nil
}

func (s *script) registry() *change.Registry {
	reg := change.NewRegistry()
	change.Register(reg, "step", s)
	change.Register(reg, "probed", probedScript{s})
	return reg
}

// tasks makes tasks of names; those that start with "gap" are in the gap.
func tasks(names ...string) []change.TaskSpec {
	var specs []change.TaskSpec
	for _, name := range names {
		if strings.HasPrefix(name, "gap") {
			specs = append(specs, change.NewTask("probed", "Do "+name, name).InGap())
		} else {
			specs = append(specs, change.NewTask("step", "Do "+name, name))
		}
	}
	return specs
}

func on(snap tenure.Instance, names ...string) change.NewChange {
	return change.NewChange{Kind: "test-" + string(snap), Summary: "Test", Snaps: []tenure.Instance{snap}, Tasks: tasks(names...)}
}

// run is a running engine, which ends with the test or with stop.
func run(t *testing.T, cfg change.Config) (e *change.Engine, stop func()) {
	t.Helper()
	e = change.New(cfg)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	<-e.Ready()
	return e, stop
}

func start(t *testing.T, e *change.Engine, n change.NewChange) change.ID {
	t.Helper()
	id, err := e.Start(t.Context(), n)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	return id
}

func wait(t *testing.T, e *change.Engine, id change.ID, status change.Status) change.Change {
	t.Helper()
	var c change.Change
	for rev := uint64(0); ; rev = c.Rev {
		var err error
		if c, err = e.Watch(t.Context(), id, rev); err != nil {
			t.Fatalf("Watch: %v", err)
		}
		if c.Status == status {
			return c
		}
		if c.Status.Ready() {
			t.Fatalf("change ended %s, want %s: %s", c.Status, status, c.Err)
		}
	}
}

func statuses(c change.Change) string {
	var all []string
	for i := range c.Tasks {
		all = append(all, string(c.Tasks[i].Status))
	}
	return strings.Join(all, "/")
}

func TestUndoInReverse(t *testing.T) {
	t.Parallel()
	s := newScript()
	s.do["c"] = func(context.Context) (string, error) { return "", errors.New("boom") }
	var got string
	s.undo["a"] = func(_ context.Context, done string) error { got = done; return nil }
	s.undo["b"] = func(context.Context, string) error { return errors.New("stuck") }
	e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
	c := wait(t, e, start(t, e, on("x", "a", "b", "c", "d")), change.Error)
	if want := "a b c -b -a"; s.log() != want {
		t.Errorf("calls %q, want %q", s.log(), want)
	}
	if want := "Undone/Error/Error/Hold"; statuses(c) != want {
		t.Errorf("tasks %q, want %q", statuses(c), want)
	}
	if want := "Do b: cannot undo: stuck\nDo c: boom"; c.Err != want {
		t.Errorf("Err %q, want %q", c.Err, want)
	}
	if got != "did a" {
		t.Errorf("undo of a got %q", got)
	}
	if log := c.Tasks[2].Log; len(log) != 1 || !strings.HasSuffix(log[0], " ERROR boom") {
		t.Errorf("log %q", log)
	}
	if c.Ready.IsZero() || c.Holds {
		t.Errorf("ended change: ready %v, holds %v", c.Ready, c.Holds)
	}
}

func TestPanicIsFailure(t *testing.T) {
	t.Parallel()
	s := newScript()
	s.do["b"] = func(context.Context) (string, error) { panic("oops") }
	e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
	c := wait(t, e, start(t, e, on("x", "a", "b")), change.Error)
	if want := "Do b: step panicked: oops"; c.Err != want {
		t.Errorf("Err %q, want %q", c.Err, want)
	}
	if want := "a b -a"; s.log() != want {
		t.Errorf("calls %q, want %q", s.log(), want)
	}
}

func TestStartRefusesMistakes(t *testing.T) {
	t.Parallel()
	e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: newScript().registry()})
	for name, test := range map[string]struct {
		spec change.TaskSpec
		want string
	}{
		"kind":   {change.NewTask("other", "x", "x"), `start k: task "x": no step of kind "other"`},
		"type":   {change.NewTask("step", "x", 3), `start k: task "x": step "step" takes string, not int`},
		"gap":    {change.NewTask("step", "x", "x").InGap(), `start k: task "x": step "step" is in a gap and cannot be probed`},
		"zeroed": {change.TaskSpec{Kind: "step", Summary: "x"}, `start k: task "x": step "step" takes string, not <nil>`},
	} {
		_, err := e.Start(t.Context(), change.NewChange{Kind: "k", Tasks: []change.TaskSpec{test.spec}})
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: error %v, want %s", name, err, test.want)
		}
	}
	if all := e.List(change.Filter{}); len(all) > 0 {
		t.Errorf("refused changes exist: %v", all)
	}
}

func TestRegisterTwicePanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	reg := newScript().registry()
	change.Register(reg, "step", newScript())
}

// gate is a step that begins, and then blocks until it is opened or cancelled.
type gate struct{ begun, open chan struct{} }

func newGate() gate { return gate{begun: make(chan struct{}), open: make(chan struct{})} }

func (g gate) do(ctx context.Context) (string, error) {
	close(g.begun)
	select {
	case <-g.open:
		return "opened", nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func TestConflict(t *testing.T) {
	t.Parallel()
	s := newScript()
	g, other := newGate(), newGate()
	s.do["slow"], s.do["beside"] = g.do, other.do
	e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
	id := start(t, e, on("x", "slow"))
	<-g.begun
	_, err := e.Start(t.Context(), change.NewChange{Kind: "k", Snaps: []tenure.Instance{"y", "x"}, Tasks: tasks("a")})
	conflict, ok := errors.AsType[*change.ConflictError](err)
	if want := (change.ConflictError{Snap: "x", ID: id, Kind: "test-x"}); !ok || *conflict != want {
		t.Fatalf("error %v, want %+v", err, want)
	}
	beside := start(t, e, on("y", "beside"))
	<-other.begun // Both run now.
	close(other.open)
	wait(t, e, beside, change.Done)
	close(g.open)
	wait(t, e, id, change.Done)
	wait(t, e, start(t, e, on("x", "a")), change.Done)
}

func TestAbortRunning(t *testing.T) {
	t.Parallel()
	s := newScript()
	g := newGate()
	s.do["slow"] = g.do
	e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
	id := start(t, e, on("x", "a", "slow", "b"))
	<-g.begun
	for range 2 {
		if err := e.Abort(t.Context(), id); err != nil && !errors.As(err, new(*change.FinishedError)) {
			t.Fatalf("Abort: %v", err)
		}
	}
	c := wait(t, e, id, change.Undone)
	if want := "Undone/Hold/Hold"; statuses(c) != want || c.Err != "" {
		t.Errorf("tasks %q, error %q, want %q", statuses(c), c.Err, want)
	}
	if finished, ok := errors.AsType[*change.FinishedError](e.Abort(t.Context(), id)); !ok || finished.Status != change.Undone {
		t.Errorf("abort of an ended change: %v", finished)
	}
	if err := e.Abort(t.Context(), 99); !errors.Is(err, change.ErrNotFound) {
		t.Errorf("abort of no change: %v", err)
	}
}

// TestAbortAtTheEnd aborts while that is done which cannot be undone, and before.
func TestAbortAtTheEnd(t *testing.T) {
	t.Parallel()
	s, before, end := newScript(), newGate(), newGate()
	s.do["b"], s.do["c"] = before.do, end.do
	e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
	n := on("x", "a", "b", "c")
	n.Tasks[2] = n.Tasks[2].AtTheEnd()

	early := start(t, e, n)
	<-before.begun
	if err := e.Abort(t.Context(), early); err != nil {
		t.Errorf("an abort in time: %v", err)
	}
	wait(t, e, early, change.Undone)

	s.do["b"] = nil
	late := start(t, e, n)
	<-end.begun
	var finished *change.FinishedError
	if err := e.Abort(t.Context(), late); !errors.As(err, &finished) {
		t.Errorf("an abort at the end: %v", err)
	}
	close(end.open)
	wait(t, e, late, change.Done)
}

func TestAbortBeforeAnythingIsHold(t *testing.T) {
	t.Parallel()
	s := newScript()
	g := newGate()
	s.do["slow"] = g.do
	e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
	id := start(t, e, on("x", "slow", "b"))
	<-g.begun
	if err := e.Abort(t.Context(), id); err != nil {
		t.Fatalf("Abort: %v", err)
	}
	wait(t, e, id, change.Hold)
}

func TestShutdownLeavesAndResumes(t *testing.T) {
	t.Parallel()
	store := new(changetest.Memory)
	s := newScript()
	g := newGate()
	s.do["slow"] = g.do
	var cause error
	s.do["slow"] = func(ctx context.Context) (string, error) {
		_, cause = g.do(ctx)
		return "", cause
	}
	e, stop := run(t, change.Config{Store: store, Registry: s.registry()})
	id := start(t, e, on("x", "a", "slow", "b"))
	<-g.begun
	stop()
	if !errors.Is(cause, change.ErrShutdown) {
		t.Errorf("cause %v, want ErrShutdown", cause)
	}
	if _, err := e.Start(t.Context(), on("y", "a")); !errors.Is(err, change.ErrShutdown) {
		t.Errorf("Start after the end: %v", err)
	}
	if _, err := e.WaitFor(t.Context(), id); !errors.Is(err, change.ErrShutdown) {
		t.Errorf("WaitFor after the end: %v", err)
	}
	again := newScript()
	e, _ = run(t, change.Config{Store: store, Registry: again.registry()})
	wait(t, e, id, change.Done)
	if want := "slow b"; again.log() != want {
		t.Errorf("calls after the restart %q, want %q", again.log(), want)
	}
	if want := "a slow"; s.log() != want {
		t.Errorf("calls before the restart %q, want %q", s.log(), want)
	}
}

func TestUnknownKindAfterRestartUndoes(t *testing.T) {
	t.Parallel()
	store := new(changetest.Memory)
	s := newScript()
	g := newGate()
	s.do["slow"] = g.do
	reg := s.registry()
	change.Register(reg, "new", s)
	e, stop := run(t, change.Config{Store: store, Registry: reg})
	n := on("x", "a", "slow")
	n.Tasks = append(n.Tasks, change.NewTask("new", "Do new", "new"))
	id := start(t, e, n)
	<-g.begun
	stop()
	older := newScript()
	e, _ = run(t, change.Config{Store: store, Registry: older.registry()})
	c := wait(t, e, id, change.Error)
	if want := "slow -slow -a"; older.log() != want {
		t.Errorf("calls %q, want %q", older.log(), want)
	}
	if !strings.Contains(c.Err, `no step of kind "new"`) {
		t.Errorf("Err %q", c.Err)
	}
}

// TestGapWaitsForNoWrite blocks the disk while a gap runs.
func TestGapWaitsForNoWrite(t *testing.T) {
	t.Parallel()
	store := new(changetest.Memory)
	var inGap, blocked atomic.Bool
	store.Before = func() error {
		if inGap.Load() {
			blocked.Store(true)
		}
		return nil
	}
	s := newScript()
	var writes []int
	note := func(context.Context) (string, error) {
		writes = append(writes, store.Writes())
		return "", nil
	}
	s.do["gap1"] = func(ctx context.Context) (string, error) { inGap.Store(true); return note(ctx) }
	s.do["gap2"] = note
	s.do["gap3"] = func(ctx context.Context) (string, error) { inGap.Store(false); return note(ctx) }
	e, _ := run(t, change.Config{Store: store, Registry: s.registry()})
	wait(t, e, start(t, e, on("x", "a", "gap1", "gap2", "gap3", "b")), change.Done)
	if blocked.Load() || !slices.Equal(writes, []int{2, 2, 2}) {
		t.Errorf("writes before the steps of the gap %v, want 2 before each", writes)
	}
	if store.Writes() != 4 { // The start, the intent of the gap, its end, the end.
		t.Errorf("%d writes, want 4", store.Writes())
	}
}

// TestJoined has tasks begin before what those before them did is written.
func TestJoined(t *testing.T) {
	t.Parallel()
	store := new(changetest.Memory)
	s := newScript()
	var writes []int
	note := func(context.Context) (string, error) {
		writes = append(writes, store.Writes())
		return "", nil
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		s.do[name] = note
	}
	n := on("x", "a", "b", "c", "d")
	n.Tasks[1], n.Tasks[2] = n.Tasks[1].JoinedOn(), n.Tasks[2].JoinedOn()
	e, _ := run(t, change.Config{Store: store, Registry: s.registry()})
	wait(t, e, start(t, e, n), change.Done)
	if want := []int{1, 1, 1, 2}; !slices.Equal(writes, want) || store.Writes() != 3 {
		t.Errorf("writes before each task %v, of %d, want %v, of 3", writes, store.Writes(), want)
	}
}

// TestAlongWhileWritesFail has what is kept along be kept once the disk has room again, and no more than once.
func TestAlongWhileWritesFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := new(changetest.Memory)
		var failures atomic.Int32
		store.Before = func() error {
			if failures.Add(-1) >= 0 {
				return errors.New("no space left")
			}
			return nil
		}
		s := newScript()
		kept := 0
		s.do["a"] = func(ctx context.Context) (string, error) {
			if !change.Along(ctx, func() { kept++ }) {
				t.Error("no step is running")
			}
			failures.Store(2)
			return "", nil
		}
		e, stop := run(t, change.Config{Store: store, Registry: s.registry()})
		wait(t, e, start(t, e, on("x", "a", "b")), change.Done)
		if kept != 1 {
			t.Errorf("it was kept %d times, want 1", kept)
		}
		if change.Along(t.Context(), func() {}) {
			t.Error("a step is running where none is")
		}
		stop()
	})
}

// Who is told of gaps hears of all that run as of one, and of the end of one that fails.
func TestGapIsTold(t *testing.T) {
	t.Parallel()
	s := newScript()
	var told []bool
	g := newGate()
	s.do["gap1"] = g.do
	s.do["gap2"] = func(context.Context) (string, error) { return "", errors.New("no") }
	e, stop := run(t, change.Config{
		Store: new(changetest.Memory), Registry: s.registry(), Gap: func(begins bool) { told = append(told, begins) },
	})
	first := start(t, e, on("x", "a", "gap1", "b"))
	<-g.begun
	wait(t, e, start(t, e, on("y", "a", "gap2", "b")), change.Error)
	close(g.open)
	wait(t, e, first, change.Done)
	wait(t, e, start(t, e, on("z", "a", "gap3")), change.Done)
	stop()
	if want := []bool{false, true, false, true, false}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

func TestGapProbedAfterCrash(t *testing.T) {
	t.Parallel()
	store := new(changetest.Memory)
	s := newScript()
	g := newGate()
	s.do["gap3"] = g.do
	e, stop := run(t, change.Config{Store: store, Registry: s.registry()})
	id := start(t, e, on("x", "a", "gap1", "gap2", "gap3", "b"))
	<-g.begun
	stop()
	again := newScript()
	again.found["gap2"] = true // gap1 cannot tell, but was before it.
	e, _ = run(t, change.Config{Store: store, Registry: again.registry()})
	c := wait(t, e, id, change.Done)
	if want := "?gap1 ?gap2 ?gap3 gap3 b"; again.log() != want {
		t.Errorf("calls %q, want %q", again.log(), want)
	}
	if got := string(c.Tasks[1].Undo); got != `"found gap1"` {
		t.Errorf("undo of gap1 %s", got)
	}
}

func TestReplan(t *testing.T) {
	t.Parallel()
	s := newScript()
	s.do["decide"] = func(ctx context.Context) (string, error) {
		if err := change.SetDetails(ctx, json.RawMessage(`"details"`)); err != nil {
			return "", err
		}
		return "", change.Replan(ctx, json.RawMessage(`"new"`), tasks("c", "gap1")...)
	}
	var inGap error
	s.do["gap1"] = func(ctx context.Context) (string, error) {
		inGap = change.Replan(ctx, nil)
		return "", nil
	}
	e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
	n := on("x", "a", "decide", "b")
	n.Plan = json.RawMessage(`"old"`)
	c := wait(t, e, start(t, e, n), change.Done)
	if want := "a decide c gap1"; s.log() != want {
		t.Errorf("calls %q, want %q", s.log(), want)
	}
	if string(c.Plan) != `"new"` || string(c.Details) != `"details"` {
		t.Errorf("plan %s, details %s", c.Plan, c.Details)
	}
	var ids []string
	for i := range c.Tasks {
		ids = append(ids, c.Tasks[i].ID)
	}
	if diff := cmp.Diff([]string{"1.1", "1.2", "1.4", "1.5"}, ids); diff != "" {
		t.Errorf("task IDs (-want +got):\n%s", diff)
	}
	if inGap == nil {
		t.Error("a step in the gap could replan")
	}
	if err := change.Replan(t.Context(), nil); !errors.Is(err, change.ErrNoStep) {
		t.Errorf("Replan outside of a step: %v", err)
	}
}

// What is inserted comes before what was to follow, each time that the step runs.
func TestInsert(t *testing.T) {
	t.Parallel()
	s := newScript()
	s.do["decide"] = func(ctx context.Context) (string, error) {
		err := change.SetDetails(ctx, json.RawMessage(`"details"`))
		return "", errors.Join(err, change.Insert(ctx, json.RawMessage(`"new"`), tasks("c", "gap1")...))
	}
	e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
	c := wait(t, e, start(t, e, on("x", "decide", "b", "decide", "a")), change.Done)
	if want := "decide c gap1 b decide c gap1 a"; s.log() != want || string(c.Plan) != `"new"` || string(c.Details) != `"details"` {
		t.Errorf("calls %q, want %q; plan %s, details %s", s.log(), want, c.Plan, c.Details)
	}
	if err := change.Insert(t.Context(), nil); !errors.Is(err, change.ErrNoStep) {
		t.Errorf("Insert outside of a step: %v", err)
	}
}

// TestFailedWrites has a disk that is full for a while.
func TestFailedWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := new(changetest.Memory)
		full := errors.New("no space left")
		var failures atomic.Int32
		store.Before = func() error {
			if failures.Add(-1) >= 0 {
				return full
			}
			return nil
		}
		s := newScript()
		e, stop := run(t, change.Config{Store: store, Registry: s.registry()})
		failures.Store(1)
		if _, err := e.Start(t.Context(), on("x", "a")); !errors.Is(err, full) {
			t.Errorf("Start on a full disk: %v", err)
		}
		began := time.Now()
		s.do["a"] = func(context.Context) (string, error) { failures.Store(3); return "", nil }
		id := start(t, e, on("x", "a", "b"))
		wait(t, e, id, change.Done)
		if waited := time.Since(began); waited != 7*time.Second { // 1 + 2 + 4
			t.Errorf("waited %v, want 7s", waited)
		}
		if want := "a b"; s.log() != want {
			t.Errorf("calls %q, want %q", s.log(), want)
		}
		failures.Store(1 << 30)
		s.do["a"] = nil
		stop() // It does not wait for the disk.
	})
}

// TestAbortWhileWriteFails asks for an abort while a write is under way that
// will fail: neither the step nor the abort is forgotten.
func TestAbortWhileWriteFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := new(changetest.Memory)
		writing, fail := make(chan struct{}), make(chan struct{})
		var armed atomic.Bool
		store.Before = func() error {
			if !armed.Swap(false) {
				return nil
			}
			close(writing)
			<-fail
			return errors.New("no space left")
		}
		s := newScript()
		s.do["a"] = func(context.Context) (string, error) { armed.Store(true); return "", nil }
		e, _ := run(t, change.Config{Store: store, Registry: s.registry()})
		id := start(t, e, on("x", "a", "b"))
		<-writing
		aborted := make(chan error, 1)
		go func() { aborted <- e.Abort(t.Context(), id) }()
		synctest.Wait()
		close(fail)
		if err := <-aborted; err != nil {
			t.Errorf("Abort: %v", err)
		}
		wait(t, e, id, change.Undone)
		if want := "a -a"; s.log() != want {
			t.Errorf("calls %q, want %q", s.log(), want)
		}
	})
}

func TestPrune(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := new(changetest.Memory)
		s := newScript()
		e, stop := run(t, change.Config{Store: store, Registry: s.registry(), Keep: 3, KeepFor: time.Hour})
		var last change.ID
		for range 5 {
			last = start(t, e, on("x", "a"))
			wait(t, e, last, change.Done)
		}
		synctest.Wait()
		if got := ids(e); got != "3 4 5" {
			t.Errorf("kept %s, want 3 4 5", got)
		}
		time.Sleep(2 * time.Hour) //nolint:forbidigo // In the bubble this is the clock.
		stop()
		e, _ = run(t, change.Config{Store: store, Registry: s.registry(), Keep: 3, KeepFor: time.Hour})
		synctest.Wait()
		saved, err := store.Load(t.Context())
		if err != nil || len(saved.Changes) > 0 || ids(e) != "" {
			t.Errorf("old changes are kept: %v, %v, %q", saved, err, ids(e))
		}
		if id := start(t, e, on("x", "a")); id != last+1 {
			t.Errorf("the next change is %s, want %s", id, last+1)
		}
	})
}

func ids(e *change.Engine) string {
	var all []string
	for _, c := range e.List(change.Filter{}) {
		all = append(all, c.ID.String())
	}
	return strings.Join(all, " ")
}

func TestReporter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		var late change.Reporter
		s.do["a"] = func(ctx context.Context) (string, error) {
			r := change.ReporterFrom(ctx)
			late = r
			for i := range int64(10_000) {
				r.Progress("copy", i, 10_000)
			}
			for i := range 150 {
				r.Logf("line %d of change %s", i, change.IDFrom(ctx))
			}
			time.Sleep(time.Second) //nolint:forbidigo // In the bubble this is the clock.
			r.Progress("copy", 10_000, 10_000)
			return "", nil
		}
		e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
		id := start(t, e, on("x", "a"))
		wait(t, e, id, change.Done)
		late.Logf("too late")
		late.Progress("too late", 1, 1)
		synctest.Wait()
		c, err := e.Get(id)
		if err != nil {
			t.Fatalf("Get: %v", err)
		}
		task := c.Tasks[0]
		if want := (change.Progress{Label: "copy", Done: 10_000, Total: 10_000}); task.Progress != want {
			t.Errorf("progress %+v, want %+v", task.Progress, want)
		}
		if len(task.Log) != 100 || !strings.HasSuffix(task.Log[99], " INFO line 149 of change 1") {
			t.Errorf("%d lines, the last %q", len(task.Log), task.Log[len(task.Log)-1])
		}
		if c.Rev > 200 { // 150 lines, and the few steps of the change.
			t.Errorf("%d modifications: progress is not thinned out", c.Rev)
		}
	})
}

// What a step says last is seen although it goes on, and says nothing more for long.
func TestTheLastProgressIsSeen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		s.do["a"] = func(ctx context.Context) (string, error) {
			for i := range int64(3) {
				change.ReporterFrom(ctx).Progress("moved", i, 3)
			}
			time.Sleep(time.Hour) //nolint:forbidigo // In the bubble this is the clock.
			return "", nil
		}
		e, _ := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
		id := start(t, e, on("x", "a"))
		time.Sleep(time.Second) //nolint:forbidigo // See above.
		synctest.Wait()
		c, err := e.Get(id)
		if want := (change.Progress{Label: "moved", Done: 2, Total: 3}); err != nil || c.Tasks[0].Progress != want {
			t.Errorf("progress %+v, %v; want %+v", c.Tasks[0].Progress, err, want)
		}
		wait(t, e, id, change.Done)
	})
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	s := newScript()
	e, stop := run(t, change.Config{Store: new(changetest.Memory), Registry: s.registry()})
	seen := make(chan string)
	go func() {
		defer close(seen)
		for c := range e.Subscribe(t.Context(), 0) {
			if c.Status.Ready() {
				seen <- fmt.Sprintf("%s %s", c.ID, c.Status)
			}
		}
	}()
	start(t, e, on("x", "a"))
	if got := <-seen; got != "1 Done" {
		t.Errorf("saw %q", got)
	}
	s.mu.Lock()
	s.do["b"] = func(context.Context) (string, error) { return "", errors.New("boom") }
	s.mu.Unlock()
	start(t, e, on("y", "b"))
	if got := <-seen; got != "2 Error" {
		t.Errorf("saw %q", got)
	}
	stop()
	if _, open := <-seen; open {
		t.Error("the subscription outlives the engine")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Watch(ctx, 1, e.Revision()); err == nil {
		t.Error("Watch returns without news")
	}
}

func TestID(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "0", "-1", "+1", "01", "x", "1 ", "18446744073709551616"} {
		if id, err := change.ParseID(bad); !errors.Is(err, tenure.ErrName) {
			t.Errorf("ParseID(%q) = %v, %v", bad, id, err)
		}
	}
	raw, err := json.Marshal(map[change.ID]change.ID{7: 8})
	if err != nil || string(raw) != `{"7":"8"}` {
		t.Errorf("JSON %s, %v", raw, err)
	}
}

// deceitful is a store that says once that it has not written what it has.
type deceitful struct {
	change.Store

	lies atomic.Bool
}

var errDeceitful = errors.New("it does not say so")

func (s *deceitful) Apply(ctx context.Context, b change.Batch) error {
	if err := s.Store.Apply(ctx, b); err != nil || !s.lies.Swap(false) {
		return err
	}
	return errDeceitful
}

// A change that was refused because it could not be written is not found there by the next engine.
func TestWhatWasRefusedIsNotThere(t *testing.T) {
	t.Parallel()
	store := &deceitful{Store: new(changetest.Memory)}
	s := newScript()
	e, _ := run(t, change.Config{Store: store, Registry: s.registry()})
	store.lies.Store(true)
	if _, err := e.Start(t.Context(), on("x", "a")); !errors.Is(err, errDeceitful) {
		t.Fatalf("the change is started: %v", err)
	}
	id := start(t, e, on("x", "b"))
	wait(t, e, id, change.Done)
	saved, err := store.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(saved.Changes) != 1 || saved.Changes[0].ID != id {
		t.Errorf("there are %+v, want only %s", saved.Changes, id)
	}
}
