package change

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"tenure"
)

// Config is what an Engine is made of.
type Config struct {
	// Store keeps the changes. Required.
	Store Store
	// Registry has the steps. Required.
	Registry *Registry
	// Logger hears about failures; by default nobody does.
	Logger *slog.Logger
	// Explain, if set, is what people are told of the error of a step.
	Explain func(error) error
	// Boundary, if set, is called at every place where a test may want the
	// process to die. It must not call the engine.
	Boundary func(Point)
	// Gap, if set, hears when the first of the running changes enters a gap, and
	// when the last has left it for good: what it did is durable. It hears at first whether none
	// goes on with one. Steps wait for it, so it is to be quick. It must not call the engine.
	Gap func(begins bool)
	// Shorten, if set, takes out of a change that has ended what nobody reads of it any more:
	// what its steps were told, and did. Hundreds are kept. It must not call the engine.
	Shorten func(*Change)
	// Keep is how many ended changes are kept, by default 500, and KeepFor for
	// how long, by default a week. Changes that have not ended are kept without
	// limit, and never aborted by the engine.
	Keep    int
	KeepFor time.Duration
}

const (
	defaultKeep    = 500
	defaultKeepFor = 7 * 24 * time.Hour
)

// Engine runs changes.
type Engine struct {
	cfg  Config
	view *view

	// inbox has what others want the owner, the goroutine of Run, to do.
	inbox chan func()
	// ready is closed when all unfinished changes are scheduled, done when Run
	// has ended.
	ready, done chan struct{}
	started     atomic.Bool

	// All below is the owner's.

	// steps is the parent of the contexts of all steps.
	steps    context.Context //nolint:containedctx // It lives exactly as long as Run, which makes it.
	stopping bool
	// calls is the number of steps that are running.
	calls  int
	lastID ID
	runs   map[ID]*run
	locks  map[tenure.Instance]*run
	// gaps is how many of runs are in a gap.
	gaps int
	// ended are the finished changes that are kept, oldest first.
	ended  []ID
	writer writer
}

// New makes an Engine, which does nothing before Run.
func New(cfg Config) *Engine {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.Keep = cmp.Or(cfg.Keep, defaultKeep)
	cfg.KeepFor = cmp.Or(cfg.KeepFor, defaultKeepFor)
	return &Engine{
		cfg:   cfg,
		view:  newView(),
		inbox: make(chan func()),
		ready: make(chan struct{}),
		done:  make(chan struct{}),
		runs:  make(map[ID]*run),
		locks: make(map[tenure.Instance]*run),
	}
}

// Ready is closed when Run has read the Store and scheduled all changes that
// had not ended.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Run reads the Store, goes on with what had not ended, and serves until ctx
// ends. Then it cancels all running steps with the cause ErrShutdown, waits for
// them to return, and returns nil. It can be called once. It fails only if the
// Store cannot be read, or has what no engine has written.
//
// A Store that cannot be written makes Start fail; changes that are running
// stop where they are until a write succeeds, which is tried again after 1 s,
// and then ever more seldom, up to every 30 s.
func (e *Engine) Run(ctx context.Context) error {
	if e.started.Swap(true) {
		return errors.New("run changes: called twice")
	}
	defer close(e.done)
	saved, err := e.cfg.Store.Load(ctx)
	for i := range saved.Changes {
		err = errors.Join(err, saved.Changes[i].check())
	}
	if err != nil {
		return fmt.Errorf("load changes: %w", err)
	}
	steps, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	e.steps = steps
	e.resume(saved)
	close(e.ready)
	for {
		select {
		case f := <-e.inbox:
			f()
		case <-ctx.Done():
			cancel(ErrShutdown)
			e.shutDown()
			return nil
		}
	}
}

// shutDown serves those that still have something to deliver.
func (e *Engine) shutDown() {
	e.stopping = true
	if e.writer.retry != nil && e.writer.retry.Stop() {
		e.writer.retry = nil
		e.flush()
	}
	for e.calls > 0 || e.writer.writing || e.writer.retry != nil {
		f := <-e.inbox
		f()
	}
	if len(e.writer.dirty) > 0 {
		e.cfg.Logger.Error("changes end without their last state on disk", slog.Int("changes", len(e.writer.dirty)))
	}
}

// Answers returns when the owner of the changes is there to be asked. It does not as
// long as that hangs.
func (e *Engine) Answers(ctx context.Context) error { return e.tell(ctx, func() {}) }

// tell makes the owner run f, unless ctx or Run ends before.
func (e *Engine) tell(ctx context.Context, f func()) error {
	select {
	case e.inbox <- f:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.done:
		return ErrShutdown
	}
}

// ask is tell, and waits for what f sends.
func (e *Engine) ask(ctx context.Context, f func(reply chan<- error)) error {
	reply := make(chan error, 1)
	if err := e.tell(ctx, func() { f(reply) }); err != nil {
		return err
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.done:
		select {
		case err := <-reply:
			return err
		default:
			return ErrShutdown
		}
	}
}

// NewChange describes a change that does not exist yet.
type NewChange struct {
	Kind    string
	Summary string
	// Snaps are locked while the change runs.
	Snaps   []tenure.Instance
	Tasks   []TaskSpec
	Plan    json.RawMessage
	Details json.RawMessage
}

// Start makes a change durable, and begins it. It fails with a *ConflictError
// if one of the snaps is locked. If ctx ends before Start returns, the change
// may or may not have started.
func (e *Engine) Start(ctx context.Context, n NewChange) (ID, error) {
	tasks, err := e.cfg.Registry.tasks(n.Tasks)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", n.Kind, err)
	}
	now := time.Now()
	c := &Change{
		Kind: n.Kind, Summary: n.Summary, Status: Do,
		Snaps: uniqueSnaps(n.Snaps), Plan: n.Plan, Details: n.Details, Spawned: now,
	}
	started := make(chan ID, 1)
	err = e.ask(ctx, func(reply chan<- error) {
		if e.stopping {
			reply <- ErrShutdown
			return
		}
		r := &run{c: c, refused: func(err error) { reply <- err }}
		if err := e.conflict(c.Snaps); err != nil {
			reply <- err
			return
		}
		e.lastID++
		c.ID = e.lastID
		c.Tasks = c.number(tasks, now)
		e.runs[c.ID] = r
		e.lock(r)
		c.intend(0)
		e.save(r, func() {
			r.refused = nil
			e.publish(r)
			started <- c.ID
			reply <- nil
			e.step(r)
		})
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", n.Kind, err)
	}
	return <-started, nil
}

// Abort asks a change to turn round: the step that runs sees its context
// cancelled with the cause ErrAborted, and what was done is undone. The wish is
// durable when Abort returns; WaitFor tells when the change has ended. Aborting
// a change that is undoing already does nothing; one that has ended, or has begun to take away what an undo would
// need, is a *FinishedError.
func (e *Engine) Abort(ctx context.Context, id ID) error {
	err := e.ask(ctx, func(reply chan<- error) {
		r, err := e.unfinished(id)
		if err != nil {
			reply <- err
			return
		}
		if r.aborting || r.c.Backward {
			reply <- nil
			return
		}
		if slices.ContainsFunc(r.c.Tasks, func(t Task) bool { return t.Final && t.Begun }) {
			reply <- &FinishedError{ID: id, Status: r.c.Status}
			return
		}
		r.queued = r.idle()
		r.aborting = true
		r.c.Status = Abort
		e.publish(r)
		e.save(r, func() {
			reply <- nil
			if r.abort != nil {
				r.abort(ErrAborted)
			}
			e.schedule()
		})
	})
	if err != nil {
		return fmt.Errorf("abort change %s: %w", id, err)
	}
	return nil
}

// Wake makes a change in status Wait run the step that waits again, as soon as
// its snaps are free. Waking a change whose step is running makes that step run
// again at once if it then says that it waits, so no event is lost between the
// look at the system and the wait. Changes that wait are not woken by a new
// Run: who watches for them looks again and wakes them.
func (e *Engine) Wake(ctx context.Context, id ID) error {
	err := e.ask(ctx, func(reply chan<- error) {
		r, err := e.unfinished(id)
		if err == nil {
			r.woken = true
			if r.idle() && !r.queued {
				e.wake(r)
			}
		}
		reply <- err
	})
	if err != nil {
		return fmt.Errorf("wake change %s: %w", id, err)
	}
	return nil
}

func (e *Engine) unfinished(id ID) (*run, error) {
	if r, ok := e.runs[id]; ok && r.refused == nil {
		if r.ending {
			return nil, &FinishedError{ID: id, Status: r.c.Status}
		}
		return r, nil
	}
	if c, ok := e.view.get(id); ok {
		return nil, &FinishedError{ID: id, Status: c.Status}
	}
	return nil, ErrNotFound
}

func uniqueSnaps(snaps []tenure.Instance) []tenure.Instance {
	sorted := slices.Clone(snaps)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

// number gives tasks that are new to the change their IDs.
func (c *Change) number(tasks []Task, now time.Time) []Task {
	for i := range tasks {
		c.Serial++
		tasks[i].ID = fmt.Sprintf("%s.%d", c.ID, c.Serial)
		tasks[i].Spawned = now
	}
	return tasks
}

// intend notes that task i is to begin, and with it the whole gap that it is
// part of, or what is joined to it. The caller saves the change before it does.
func (c *Change) intend(i int) {
	if i >= len(c.Tasks) {
		return
	}
	for c.Tasks[i].Begun = true; c.atOnce(i); i++ {
		c.Tasks[i+1].Begun = true
	}
}

// atOnce reports whether the task after i begins when that is done, and nothing is written between.
func (c *Change) atOnce(i int) bool {
	if i+1 >= len(c.Tasks) {
		return false
	}
	next := &c.Tasks[i+1]
	if c.Tasks[i].Gap {
		return next.Gap
	}
	return next.Joined && !next.Gap
}
