package hook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// Name is the name of a hook: that of its file below meta/hooks.
type Name string

// The hooks, by the names that snaps know (https://snapcraft.io/docs/supported-snap-hooks),
// and ours, evacuate.
const (
	Install          Name = "install"
	PreRefresh       Name = "pre-refresh"
	PostRefresh      Name = "post-refresh"
	DefaultConfigure Name = "default-configure"
	Configure        Name = "configure"
	CheckHealth      Name = "check-health"
	Remove           Name = "remove"
	Evacuate         Name = "evacuate"
	GateAutoRefresh  Name = "gate-auto-refresh"
)

// Timeout is how long a hook may take where nobody says otherwise; the times are
// snapd's.
func (n Name) Timeout() time.Duration {
	switch n {
	case Configure, DefaultConfigure:
		return 5 * time.Minute
	case CheckHealth:
		return 30 * time.Second
	case Install, PreRefresh, PostRefresh, Remove, Evacuate, GateAutoRefresh:
	}
	return 10 * time.Minute
}

// Command is the command of a hook, relative to the snap.
func (n Name) Command() snapfile.Command {
	return snapfile.Command{snapfile.HooksDir + "/" + string(n)}
}

// stopGrace is how long what a hook has left behind may take to end, and a hook
// that is aborted or out of time.
const stopGrace = 5 * time.Second

// Spec makes of the Spec of a command that of a run of the hook, for a change. A
// StartTimeout that it has takes the place of Timeout.
func (n Name) Spec(command supervise.Spec, id change.ID) supervise.Spec {
	spec := command
	spec.Unit = tenure.UnitID{Snap: command.Unit.Snap, Kind: tenure.HookRun, App: tenure.App(n), Serial: int(id)} //nolint:gosec // Changes are few.
	spec.Type = supervise.Oneshot
	spec.StartTimeout = cmp.Or(command.StartTimeout, n.Timeout())
	spec.Restart = supervise.RestartPolicy{Condition: supervise.RestartNever}
	spec.Stop = supervise.StopProtocol{Target: supervise.TargetGroup, Timeout: stopGrace, Kill: supervise.KillAfterTimeout}
	return spec
}

// FailedError is that a hook has not ended well.
type FailedError struct {
	Hook Name
	// Exit is how it ended, if it is known.
	Exit *proc.Exit
	// Output is the end of what it wrote.
	Output []string
	Err    error
}

// Error names the hook, how it ended and what it said last, as snapd does.
func (e *FailedError) Error() string {
	text := fmt.Sprintf("run hook %q: ", e.Hook)
	if len(e.Output) > 0 {
		return text + strings.Join(e.Output, "\n")
	}
	if e.Exit != nil && e.Exit.Known {
		return text + e.Exit.String()
	}
	return text + e.Err.Error()
}

// Unwrap is the cause.
func (e *FailedError) Unwrap() error { return e.Err }

// State is what is known of a run before it is asked for.
type State int

// The states.
const (
	// Fresh is that it has not run, or that nobody knows how it ended: it is run.
	Fresh State = iota
	// Running is that it runs.
	Running
	// Ended is that it has ended, and how is known.
	Ended
)

// Look sees whether the run that spec describes has begun.
func Look(ctx context.Context, s supervise.Supervisor, spec supervise.Spec) (State, *proc.Exit, error) {
	statuses, err := s.Units(ctx)
	if err != nil {
		return Fresh, nil, fmt.Errorf("see whether hook %q runs: %w", spec.Unit.App, err)
	}
	at := slices.IndexFunc(statuses, func(status supervise.Status) bool { return status.Unit == spec.Unit })
	switch {
	case at < 0:
		return Fresh, nil, nil
	case statuses[at].State.Alive():
		return Running, nil, nil
	case statuses[at].LastExit != nil && statuses[at].LastExit.Known:
		return Ended, statuses[at].LastExit, nil
	}
	return Fresh, nil, nil
}

// Run runs a hook, or goes on with a run that has begun, and returns when it has
// ended. Its error is a *FailedError if the hook failed. When ctx is cancelled by
// change.ErrAborted, the run is ended; when the daemon ends it goes on.
func Run(ctx context.Context, s supervise.Supervisor, spec supervise.Spec) error {
	name := Name(spec.Unit.App)
	state, exit, err := await(ctx, s, spec)
	if err != nil {
		return interrupted(ctx, s, spec.Unit, err)
	}
	if state == Ended {
		if exit.Success() {
			return nil
		}
		return &FailedError{Hook: name, Exit: exit, Output: Output(ctx, s, spec.Unit), Err: supervise.ErrNotReady}
	}
	if state == Fresh {
		if err := s.Forget(ctx, spec.Unit); err != nil {
			return fmt.Errorf("run hook %q: %w", name, err)
		}
	}
	err = s.Start(ctx, spec)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return interrupted(ctx, s, spec.Unit, err)
	}
	failed := &FailedError{Hook: name, Err: err}
	if start, ok := errors.AsType[*supervise.StartError](err); ok {
		failed.Exit, failed.Output, failed.Err = start.Exit, start.Log, start.Err
	}
	if failed.Exit != nil && failed.Exit.Signal != "" && spec.StartTimeout > 0 {
		failed.Output = append(failed.Output, fmt.Sprintf("<%s; it may take at most %s>", failed.Exit, spec.StartTimeout))
	}
	return failed
}

// await waits for the end of a run that has begun. It is not the same as to ask for
// its start once more: a run that ends in between would be begun again.
func await(ctx context.Context, s supervise.Supervisor, spec supervise.Spec) (State, *proc.Exit, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	events := s.Events(ctx)
	go func() {
		for event := range events {
			if event.Unit != spec.Unit && event.Kind != supervise.EventLost {
				continue
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	for {
		state, exit, err := Look(ctx, s, spec)
		if err != nil || state != Running {
			return state, exit, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Running, nil, context.Cause(ctx)
		}
	}
}

// interrupted is the error of a run that was not waited for, which is ended if its
// change was aborted.
func interrupted(ctx context.Context, s supervise.Supervisor, unit tenure.UnitID, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if errors.Is(context.Cause(ctx), change.ErrAborted) {
		_, err := s.Stop(context.WithoutCancel(ctx), supervise.StopRequest{Units: []tenure.UnitID{unit}, Reason: tenure.ReasonStop})
		return errors.Join(change.ErrAborted, err)
	}
	return fmt.Errorf("run hook %q: %w", unit.App, context.Cause(ctx))
}

// Output is the end of what a run has written so far, as far as there is time to read it.
func Output(ctx context.Context, s supervise.Supervisor, unit tenure.UnitID) []string {
	const most = 50
	lines, _ := supervise.LastLines(ctx, s, unit, most)
	return lines
}
