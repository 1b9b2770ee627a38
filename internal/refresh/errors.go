package refresh

import (
	"errors"
	"fmt"
	"strings"
)

// Kind tells errors apart for those who must react to them: the API turns it
// into a status and a kind of snapd's, the command line into an exit code.
type Kind string

// The kinds.
const (
	// KindBad is a request that can never succeed as it is.
	KindBad Kind = "bad-request"
	// KindNotFound is a name that nothing has.
	KindNotFound Kind = "not-found"
	// KindNotInstalled is a snap that is not installed.
	KindNotInstalled Kind = "snap-not-installed"
	// KindInstalled is a snap that is installed already.
	KindInstalled Kind = "snap-already-installed"
	// KindNotRevertible is a snap without a revision to go back to.
	KindNotRevertible Kind = "snap-not-revertible"
	// KindNeedsFlag is a request that needs --dangerous, --classic or --devmode.
	KindNeedsFlag Kind = "snap-needs-flag"
	// KindBase is a base that is not installed, or still needed.
	KindBase Kind = "snap-base"
	// KindPackage is a snap file that is not a valid snap.
	KindPackage Kind = "snap-invalid"
	// KindConflict is a snap that another change is working on.
	KindConflict Kind = "snap-change-conflict"
	// KindRefused is a change that the plan refuses.
	KindRefused Kind = "snap-change-refused"
	// KindNoSource is a snap for which there is no place to get updates from.
	KindNoSource Kind = "snap-no-source"
	// KindNoUpdate is a snap for which there is nothing newer.
	KindNoUpdate Kind = "snap-no-update-available"
	// KindApp is an app or unit that the snap does not have.
	KindApp Kind = "app-not-found"
	// KindShort is that the machine has no room for what is to be done.
	KindShort Kind = "machine-short"
	// KindSpace is that there is no room on the disk.
	KindSpace Kind = "insufficient-disk-space"
	// KindOption is a configuration option that is not set, or that there is not.
	KindOption Kind = "option-not-found"
)

// Error is a request that was refused: what was asked, of what, why, and what
// to do about it.
type Error struct {
	Kind Kind
	// Op and Object are what was to be done to what: "refresh", "virt".
	Op, Object string
	// Hint is a sentence that says what to do next; it may be empty.
	Hint string
	Err  error
}

// Error is one sentence: "cannot refresh virt: …", and the hint.
func (e *Error) Error() string {
	text := fmt.Sprintf("cannot %s %s: %v", e.Op, e.Object, e.Err)
	if e.Object == "" {
		text = fmt.Sprintf("cannot %s: %v", e.Op, e.Err)
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of err, empty when it has none.
func KindOf(err error) Kind {
	if refused, ok := errors.AsType[*Error](err); ok {
		return refused.Kind
	}
	return ""
}

// bare is err without the operation that it begins with, for an Error that names
// the operation itself.
func bare(err error) error {
	_, rest, found := strings.Cut(err.Error(), ": ")
	if !found {
		return err
	}
	return &relabelled{err: err, text: rest}
}
