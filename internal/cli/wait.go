package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"tenure/client"
)

// carryOut asks for an action, and waits for its change unless that was not
// wanted; then it prints the id and returns nil.
func (a *app) carryOut(ctx context.Context, action client.Action) (*client.Change, error) {
	if err := existing(action.Files); err != nil {
		return nil, err
	}
	asking := a.progress("Ask tenured to " + action.Action + " " + strings.Join(named(action), ", "))
	// An interrupt before the change has a name is for it all the same.
	interrupted := make(chan struct{})
	restore := a.interrupts.instead(func() { close(interrupted) })
	id, err := a.client().Do(ctx, action)
	restore()
	asking.end()
	if err != nil {
		return nil, err
	}
	return a.finish(ctx, id, interrupted)
}

func named(action client.Action) []string {
	return append(append(append([]string{}, action.Files...), action.Snaps...), action.Names...)
}

// finish waits for a change that this command has begun; an interrupt aborts it, as
// with snap, and a second one leaves it to itself. Interrupted is closed if one came
// before. With --no-wait it prints the id and returns nil.
func (a *app) finish(ctx context.Context, id string, interrupted <-chan struct{}) (*client.Change, error) {
	if a.noWait {
		a.printf("%s\n", id)
		return nil, nil //nolint:nilnil // Nothing was waited for, and that is no error.
	}
	abort := func() {
		a.warnf("aborting change %s; press ^C again to leave it to itself", id)
		if _, err := a.client().Abort(ctx, id); err != nil {
			a.warnf("cannot abort change %s: %v", id, err)
		}
	}
	select {
	case <-interrupted:
		abort()
	default:
		defer a.interrupts.instead(abort)()
	}
	return a.wait(ctx, id, true)
}

const (
	// patience is how long a daemon may be away while its change is waited for.
	patience = 10 * time.Second
	// knock is how long to wait before asking again whether it is back.
	knock = 100 * time.Millisecond
)

// statusWait is that of a change that waits for people or workloads.
const statusWait = "Wait"

// statusDoing is that of a task that is being done.
const statusDoing = "Doing"

// wait follows a change to its end, or until it waits for people or workloads if that
// is as far as it is to be followed, across restarts of the daemon. It fails when the
// change did.
func (a *app) wait(ctx context.Context, id string, untilWaiting bool) (*client.Change, error) {
	daemon := a.client()
	line := a.progress("Wait for change " + id)
	defer line.end()
	var seen uint64
	var away time.Time
	for {
		change, err := daemon.Follow(ctx, id, seen)
		switch {
		case err == nil && change.Ready:
			line.end()
			return &change, failure(&change)
		case err == nil && untilWaiting && change.Status == statusWait:
			line.end()
			return &change, nil
		case err == nil:
			seen, away = change.Revision, time.Time{}
			line.say(doing(&change))
		case ctx.Err() != nil:
			return nil, fmt.Errorf("no longer waiting for change %s, which goes on (see tenure watch %s, tenure abort %s)", id, id, id)
		case !gone(err):
			return nil, err
		case away.IsZero():
			away = time.Now()
			line.say("Wait for tenured to come back")
		case time.Since(away) > patience:
			return nil, fmt.Errorf("tenured went away during change %s, which it takes up again when it is started: %w", id, err)
		default:
			// A daemon that has started anew counts anew.
			seen = 0
			pause(ctx, knock)
		}
	}
}

// sayWaiting says what a change waits for, and how to hurry it. A change that waits
// inside its switch has not done what was asked, which is an error; one that waits
// before it has staged what is to come.
func (a *app) sayWaiting(change *client.Change) error {
	id := change.ID
	if change.Holds {
		return fmt.Errorf("change %s is not done: it waits for %s\n"+
			"It goes on by itself then. tenure watch %s waits for it; tenure abort %s turns it round; tenure stop --kill ends what it waits for", id, change.Waiting, id, id)
	}
	snaps := strings.Join(change.Snaps(), " ")
	a.printf("Change %s waits for %s.\n", id, change.Waiting)
	a.printf("It goes on by itself then, when that is restarted, and when the machine starts; at once with\n"+
		"\"tenure refresh --now %s\". \"tenure abort %s\" gives it up.\n", snaps, id)
	return nil
}

// sayObserved says whom a change waits for that has done what was asked.
func (a *app) sayObserved(change *client.Change) {
	a.printf("Change %s waits for %s, and is undone if it does not (see tenure watch %s)\n", change.ID, change.Waiting, change.ID)
}

// gone reports whether err is that the daemon has ended or is about to.
func gone(err error) bool {
	failed, answered := errors.AsType[*client.Error](err)
	return !answered || failed.Status == http.StatusServiceUnavailable
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// failure is what a change that was not done failed with, in snap's form.
func failure(change *client.Change) error {
	if change.Status == "Done" {
		return nil
	}
	if change.Err == "" {
		return fmt.Errorf("change %s was aborted and has been undone (status %s)", change.ID, change.Status)
	}
	var b strings.Builder
	b.WriteString("cannot perform the following tasks:")
	for line := range strings.SplitSeq(change.Err, "\n") {
		b.WriteString("\n- " + line)
	}
	for i := range change.Tasks {
		if change.Tasks[i].Status != "Error" {
			continue
		}
		for _, line := range change.Tasks[i].Log {
			b.WriteString("\n    " + line)
		}
	}
	return fmt.Errorf("%s", b.String()) //nolint:err113 // The change's own words.
}
