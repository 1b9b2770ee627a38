package change

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"
)

// Step is one kind of work, with its undo. P says what to do, U what was done;
// both are kept as JSON.
//
// Do is called again, with the same P, after a crash inside it. If it returns
// an error it has taken back what it did, unless the error is Partial. To wait
// it returns a *Waiting as its error, and is called again when the change is
// woken.
//
// Undo gets what Do returned. It is called again after a crash inside it. If it
// fails the error is recorded, and the steps before are undone all the same.
type Step[P, U any] interface {
	Do(ctx context.Context, params P) (U, error)
	Undo(ctx context.Context, params P, done U) error
}

// Prober is implemented by steps that cannot be repeated blindly, and by all
// that are used in a gap. After a crash inside Do, Probe reads from the system
// what Do did. If done is true, u is what Do would have returned. If it is
// false nothing is left that Undo would have to take back, and Do may be
// called.
//
// True must mean that this Do did it, for it proves that all steps before it in
// the same gap were done too, also those whose Probe could not tell; they are
// then not repeated, and undone with the u that came with false. After a crash
// inside a gap all its steps are probed, in order, before one is done or undone.
//
// If it fails, the step counts as failed, and is undone only if the
// error is Partial.
type Prober[P, U any] interface {
	Probe(ctx context.Context, params P) (u U, done bool, err error)
}

// Registry has the steps of a program by their kinds. It must not be modified
// once an Engine has it.
type Registry struct {
	steps map[string]erasedStep
}

// erasedStep is a Step with its types in closures.
type erasedStep struct {
	params reflect.Type
	do     func(ctx context.Context, params json.RawMessage) (json.RawMessage, error)
	undo   func(ctx context.Context, params, done json.RawMessage) error
	// probe is nil if the step cannot be probed.
	probe func(ctx context.Context, params json.RawMessage) (json.RawMessage, bool, error)
}

// NewRegistry is a registry without steps.
func NewRegistry() *Registry { return &Registry{steps: make(map[string]erasedStep)} }

// Register makes s the step of kind. It panics if kind already has one: that
// is a mistake in the program.
func Register[P, U any](reg *Registry, kind string, s Step[P, U]) {
	if _, taken := reg.steps[kind]; taken || kind == "" {
		panic(fmt.Sprintf("change: step kind %q registered twice or empty", kind))
	}
	e := erasedStep{params: reflect.TypeFor[P](), do: erasedDo(s), undo: erasedUndo(s)}
	if p, ok := s.(Prober[P, U]); ok {
		e.probe = erasedProbe(p)
	}
	reg.steps[kind] = e
}

func erasedDo[P, U any](s Step[P, U]) func(context.Context, json.RawMessage) (json.RawMessage, error) {
	return func(ctx context.Context, raw json.RawMessage) (done json.RawMessage, err error) {
		defer recovered(&err)
		var params P
		if err := json.Unmarshal(raw, &params); err != nil {
			return nil, fmt.Errorf("read parameters: %w", err)
		}
		u, err := s.Do(ctx, params)
		var partial *partialError
		if err != nil && !errors.As(err, &partial) {
			return nil, err
		}
		done, encodeErr := json.Marshal(u)
		if encodeErr != nil {
			// What cannot be recorded cannot be undone later.
			undoErr := s.Undo(context.WithoutCancel(ctx), params, u)
			return nil, errors.Join(fmt.Errorf("record what was done: %w", encodeErr), undoErr)
		}
		return done, err
	}
}

func erasedUndo[P, U any](s Step[P, U]) func(context.Context, json.RawMessage, json.RawMessage) error {
	return func(ctx context.Context, raw, done json.RawMessage) (err error) {
		defer recovered(&err)
		var params P
		if err := json.Unmarshal(raw, &params); err != nil {
			return fmt.Errorf("read parameters: %w", err)
		}
		var u U
		if err := json.Unmarshal(done, &u); err != nil {
			return fmt.Errorf("read what was done: %w", err)
		}
		return s.Undo(ctx, params, u)
	}
}

func erasedProbe[P, U any](p Prober[P, U]) func(context.Context, json.RawMessage) (json.RawMessage, bool, error) {
	return func(ctx context.Context, raw json.RawMessage) (done json.RawMessage, ok bool, err error) {
		defer recovered(&err)
		var params P
		if err := json.Unmarshal(raw, &params); err != nil {
			return nil, false, fmt.Errorf("read parameters: %w", err)
		}
		u, ok, err := p.Probe(ctx, params)
		var partial *partialError
		if err != nil && !errors.As(err, &partial) {
			return nil, false, err
		}
		done, encodeErr := json.Marshal(u)
		if encodeErr != nil {
			return nil, false, fmt.Errorf("record what was done: %w", encodeErr)
		}
		return done, ok, err
	}
}

// recovered turns the panic of a step into its failure. Otherwise the step
// would be repeated, and would end the daemon, at every start.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = &panicError{value: p, stack: debug.Stack()}
	}
}

// Guarded is what f returns, or its panic: for what a step, or whoever asks for a change, has done in a goroutine of its
// own, where nobody else would keep a panic from ending the daemon.
func Guarded(f func() error) (err error) {
	defer recovered(&err)
	return f()
}

type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("step panicked: %v", e.value) }

// TaskSpec describes a task of a change that does not exist yet.
type TaskSpec struct {
	Kind    string
	Summary string
	// Gap makes the task part of the switch, together with its neighbours.
	Gap bool
	// Joined joins the task to the one before it: see TaskSpec.JoinedOn.
	Joined bool
	// Final is that nobody turns the change round any more: see TaskSpec.AtTheEnd.
	Final bool

	params     any
	paramsType reflect.Type
}

// NewTask describes a task that runs the step of kind with params.
func NewTask[P any](kind, summary string, params P) TaskSpec {
	return TaskSpec{Kind: kind, Summary: summary, params: params, paramsType: reflect.TypeFor[P]()}
}

// InGap is t as part of the switch.
func (t TaskSpec) InGap() TaskSpec {
	t.Gap = true
	return t
}

// JoinedOn is t as one that is done in one go with the task before it: the disk is waited for once, when both are done.
// After a crash before that both are done again, so that each must bear to be repeated after the other one; where the first one fails then,
// or the change is aborted, the other is done all the same, to be undone, since it may have been. One that is inserted by the task that it is joined to is unknown
// after a crash: what it does may only go along (Along). Nothing comes of it where one of them is in a gap.
func (t TaskSpec) JoinedOn() TaskSpec {
	t.Joined = true
	return t
}

// AtTheEnd is t as one that takes away what an undo would need: once it may have begun, an abort is refused. It must not
// fail, and nothing may come after it that does.
func (t TaskSpec) AtTheEnd() TaskSpec {
	t.Final = true
	return t
}

// Params are what NewTask got, for tests of those who compile plans into tasks.
func (t TaskSpec) Params() any { return t.params }

// tasks checks specs and makes them tasks, numbered later.
func (reg *Registry) tasks(specs []TaskSpec) ([]Task, error) {
	tasks := make([]Task, 0, len(specs))
	for _, spec := range specs {
		step, ok := reg.steps[spec.Kind]
		switch {
		case !ok:
			return nil, fmt.Errorf("task %q: no step of kind %q", spec.Summary, spec.Kind)
		case step.params != spec.paramsType:
			return nil, fmt.Errorf("task %q: step %q takes %v, not %v", spec.Summary, spec.Kind, step.params, spec.paramsType)
		case spec.Gap && step.probe == nil:
			return nil, fmt.Errorf("task %q: step %q is in a gap and cannot be probed", spec.Summary, spec.Kind)
		}
		params, err := json.Marshal(spec.params)
		if err != nil {
			return nil, fmt.Errorf("task %q: write parameters: %w", spec.Summary, err)
		}
		tasks = append(tasks, Task{Kind: spec.Kind, Summary: spec.Summary, Status: Do, Gap: spec.Gap, Joined: spec.Joined, Final: spec.Final, Params: params})
	}
	return tasks, nil
}

// lookup finds the step of a task that may have been written by another
// version of the program.
func (reg *Registry) lookup(kind string) erasedStep {
	if step, ok := reg.steps[kind]; ok {
		return step
	}
	err := fmt.Errorf("no step of kind %q in this version of the program", kind)
	return erasedStep{
		do:   func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, err },
		undo: func(context.Context, json.RawMessage, json.RawMessage) error { return err },
	}
}

// Missing are the kinds of the tasks of changes that have not ended, and for which there is no step.
func (reg *Registry) Missing(changes []Change) []string {
	missing := map[string]bool{}
	for i := range changes {
		if changes[i].Status.Ready() {
			continue
		}
		for j := range changes[i].Tasks {
			if kind := changes[i].Tasks[j].Kind; reg.steps[kind].do == nil {
				missing[kind] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(missing))
}
