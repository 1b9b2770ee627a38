package change

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Reporter is how a running step tells what it does. Both methods may be
// called from any goroutine and never wait for the disk; after the step has
// returned they do nothing.
type Reporter interface {
	// Progress says how far the step has come. Total is 0 if nobody knows.
	// Calls in quick succession are thinned out.
	Progress(label string, done, total int64)
	// Logf adds a line to the log of the task.
	Logf(format string, args ...any)
}

type callKey struct{}

// call is what a step can reach through its context.
type call struct {
	id  ID
	reg *Registry
	// gap is set if the step is part of a switch.
	gap bool
	// news tells the engine that there is something to collect.
	news func()

	mu       sync.Mutex
	closed   bool
	progress Progress
	lines    []string
	told     time.Time
	// late is that progress was thinned out, and is told when it may be again.
	late    bool
	amended amendment
}

// amendment is what a step decided for the rest of its change. It takes effect
// together with the step's result.
type amendment struct {
	// replanned is that there is another plan, and rest comes after the task; inserted that what was to
	// come after it still does.
	replanned, inserted bool
	plan                json.RawMessage
	rest                []Task
	details             json.RawMessage
	// along is what the Store is to keep together with what the step did.
	along []any
}

// progressEvery is how often the progress of one task becomes visible.
const progressEvery = 50 * time.Millisecond

func callFrom(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// ReporterFrom is the reporter of the step that runs with ctx. Outside of a
// step, as in a step's own tests, it discards everything.
func ReporterFrom(ctx context.Context) Reporter {
	if c := callFrom(ctx); c != nil {
		return c
	}
	return discard{}
}

type idKey struct{}

// WithID is ctx on behalf of a change, for what is asked for outside of its steps.
func WithID(ctx context.Context, id ID) context.Context { return context.WithValue(ctx, idKey{}, id) }

// IDFrom is the change whose step runs with ctx, or that of WithID; zero for none.
func IDFrom(ctx context.Context) ID {
	if c := callFrom(ctx); c != nil {
		return c.id
	}
	id, _ := ctx.Value(idKey{}).(ID)
	return id
}

// ErrNoStep is the error of Replan and SetDetails outside of a running step.
var ErrNoStep = errors.New("no step is running")

// Replan replaces the tasks after the running one by rest, and the plan of the
// change. It takes effect, durably, together with the result of the step, also
// if that is to wait. Steps that replan must do so whenever Do (or Probe)
// runs. Steps in a gap cannot.
func Replan(ctx context.Context, plan json.RawMessage, rest ...TaskSpec) error {
	return replan(ctx, amendment{replanned: true, plan: plan}, rest)
}

// Insert is Replan, but puts tasks between the running one and those that come after it.
func Insert(ctx context.Context, plan json.RawMessage, tasks ...TaskSpec) error {
	return replan(ctx, amendment{replanned: true, inserted: true, plan: plan}, tasks)
}

func replan(ctx context.Context, a amendment, rest []TaskSpec) error {
	c := callFrom(ctx)
	if c == nil {
		return fmt.Errorf("replan: %w", ErrNoStep)
	}
	if c.gap {
		return errors.New("replan: not inside the gap")
	}
	tasks, err := c.reg.tasks(rest)
	if err != nil {
		return fmt.Errorf("replan: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a.rest, a.details, a.along = tasks, c.amended.details, c.amended.along
	c.amended = a
	return nil
}

// SetDetails replaces the details of the change together with the result of
// the running step.
func SetDetails(ctx context.Context, details json.RawMessage) error {
	c := callFrom(ctx)
	if c == nil {
		return fmt.Errorf("set details: %w", ErrNoStep)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.amended.details = details
	return nil
}

// Along has the Store keep something together with what the running step did, or undid: in one write, or not at all. What
// that may be, the Store says; until it is written nobody can read it, though the task may be seen to be Done. A step that waits, or fails, and not in part,
// leaves nothing; a Probe that finds something done says it again. It reports whether a step is running; nothing becomes of it otherwise.
func Along(ctx context.Context, what any) bool {
	c := callFrom(ctx)
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.amended.along = append(c.amended.along, what)
	}
	return !c.closed
}

func (c *call) Progress(label string, done, total int64) {
	c.mu.Lock()
	c.progress = Progress{Label: label, Done: done, Total: total}
	now := time.Now()
	since := now.Sub(c.told)
	tell := !c.closed && !c.late && since >= progressEvery
	if tell {
		c.told = now
	}
	if !c.closed && !c.late && !tell {
		c.late = true
		time.AfterFunc(progressEvery-since, c.tellLate)
	}
	c.mu.Unlock()
	if tell {
		c.news()
	}
}

// tellLate tells of what was thinned out: the last that a step says may be the last for
// an hour.
func (c *call) tellLate() {
	c.mu.Lock()
	c.late, c.told = false, time.Now()
	tell := !c.closed
	c.mu.Unlock()
	if tell {
		c.news()
	}
}

func (c *call) Logf(format string, args ...any) {
	line := logLine("INFO", fmt.Sprintf(format, args...))
	c.mu.Lock()
	tell := !c.closed
	if tell {
		c.lines = appendLog(c.lines, line)
	}
	c.mu.Unlock()
	if tell {
		c.news()
	}
}

// collect moves what was reported into t.
func (c *call) collect(t *Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Progress = c.progress
	t.Log = appendLog(t.Log, c.lines...)
	c.lines = nil
}

// close ends reporting, and returns what the step decided.
func (c *call) close() amendment {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.amended
}

// maxLog is the number of log lines that a task keeps.
const maxLog = 100

func appendLog(log []string, lines ...string) []string {
	log = append(log, lines...)
	if over := len(log) - maxLog; over > 0 {
		log = log[over:]
	}
	return log
}

func logLine(level, text string) string {
	return time.Now().UTC().Format(time.RFC3339) + " " + level + " " + text
}

type discard struct{}

func (discard) Progress(string, int64, int64) {}
func (discard) Logf(string, ...any)           {}
