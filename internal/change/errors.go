package change

import (
	"errors"
	"fmt"

	"tenure"
)

var (
	// ErrAborted is the cause with which a step's context is cancelled when
	// its change is aborted.
	ErrAborted = errors.New("change aborted")
	// ErrShutdown is the cause with which a step's context is cancelled when
	// the engine stops, and the error of every method called after that.
	ErrShutdown = errors.New("shutting down")
	// ErrNotFound is the kind of errors about changes that do not exist.
	ErrNotFound = errors.New("no such change")
)

// ConflictError says that a change cannot start since another one that
// touches the same snap has not ended.
type ConflictError struct {
	Snap tenure.Instance
	// ID and Kind are those of the change in progress.
	ID   ID
	Kind string
}

// Error names the change in progress.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("snap %q has change %s (%s) in progress", e.Snap, e.ID, e.Kind)
}

// FinishedError says that a change cannot be aborted or woken since it has
// ended.
type FinishedError struct {
	ID     ID
	Status Status
}

// Error says how the change ended.
func (e *FinishedError) Error() string {
	if !e.Status.Ready() {
		return fmt.Sprintf("change %s is at its end, and cannot be undone any more", e.ID)
	}
	return fmt.Sprintf("change %s has ended (%s)", e.ID, e.Status)
}

// Partial marks the error of a Do that did not take back what it had done: the
// U that it returns with the error is recorded, and undone like that of a step
// that succeeded. Partial of nil is nil.
func Partial(err error) error {
	if err == nil {
		return nil
	}
	return &partialError{err}
}

type partialError struct{ error }

func (e *partialError) Unwrap() error { return e.error }
