// Package supervise is the contract of a supervisor: what starts units, keeps
// them running, tells their workloads apart and ends them.
//
// Implementations are below it: native, and systemd, which has systemd start what
// native wants started. Package supervisetest has the law that every implementation passes, and an in-memory
// twin that passes it too.
//
// What always holds:
//
//   - A process of a unit is in the unit's own control group, or in a group that
//     the unit itself made below it, from its first instruction on.
//   - The end of a supervisor ends no unit. The next one adopts them all, with
//     their main processes, generations, kept descriptors and logs.
//   - Ending a service never ends a workload. Workloads become units of their
//     own before the first signal is sent.
//   - Of the generations of a service that hands over (Overlapper) each is a unit,
//     and exactly one of them is the service.
//   - No SIGKILL reaches a unit whose stop protocol says KillNever, or the terms on
//     which it ends, unless the request says so by hand. The terms of a request are in
//     it; of an end that nobody has asked for, as after a crash, an Arbiter says them.
//   - Every signal, every start and every end is reported as an Event. That of a
//     signal is with the Recorder before the signal is with anybody.
//
// The change that a request is part of is that of its context (change.IDFrom).
//
// All methods may be called concurrently. Requests for one unit are carried
// out one after another; different units do not wait for each other.
package supervise

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/proc"
)

// Supervisor starts and ends units.
type Supervisor interface {
	// Start starts units, each as soon as those that it names in After and that
	// are in the same call are ready, and returns when every one is ready, armed
	// (sockets, timers), or has failed. A oneshot is ready when it has ended well.
	// Starting a unit that runs with an equal Spec does nothing; with
	// another Spec it is an error of kind ErrRunning. When one fails, those not
	// yet started are not started, those started keep running, and the error
	// is a *StartError.
	Start(ctx context.Context, specs ...Spec) error

	// Stop ends units by their stop protocols, in reverse order of After, side
	// by side where the order allows, and returns when all their processes are
	// gone or have become units of their own (Ended.Left). Stopping what is not
	// running disarms it and is no error. Stop outlives a cancelled ctx: a unit
	// that was told to stop stays told; the error is then ctx's cause.
	Stop(ctx context.Context, req StopRequest) (Ended, error)

	// Reload tells a running unit to go on with a Spec without ending: by the
	// Spec's reload command, whose processes may name another main process
	// (MAINPID of sd_notify(3)), or by SIGHUP to the main process. It returns when
	// the command has ended well or the signal is sent. From the beginning on the
	// unit has the Spec, also when that fails: it is restarted from it. Whether the
	// main process now runs from there is for the caller to see.
	Reload(ctx context.Context, req ReloadRequest) error

	// Units are all units that the supervisor knows, also those that were
	// stopped or failed since the machine booted, ordered by name.
	Units(ctx context.Context) ([]Status, error)

	// Processes are the living processes of a unit, oldest first, including
	// those in groups that the unit made below its own.
	Processes(ctx context.Context, unit tenure.UnitID) ([]proc.Info, error)

	// Events are all events from now on, in order. The sequence ends with ctx.
	// A consumer that falls far behind gets an event of kind EventLost instead
	// of those it missed, and should read Units again.
	Events(ctx context.Context) iter.Seq[Event]

	// Forget drops what is known of units that have no process, and removes
	// their groups, run-time directories and kept descriptors, and what runs of hooks
	// wrote. A unit with a living process is an error of kind ErrRunning.
	Forget(ctx context.Context, units ...tenure.UnitID) error
}

// Tracker is the ability to take over processes that were started elsewhere.
type Tracker interface {
	// Track makes a unit of a process that runs already, and moves it and what it
	// has forked into it. The process must stay what it is while Track runs: it
	// asked for it and waits.
	Track(ctx context.Context, spec Spec, process tenure.Process) error
}

// Brancher is the ability to make workloads that a service names itself
// (tenure.UnitID.Named). Each lives as long as one of its processes does, is not
// restarted, and stays known when it has ended until it is forgotten or its name is
// given again. A name that a living unit has is an error of kind ErrRunning.
type Brancher interface {
	// Branch starts a workload that comes out of the unit parent, in a group of its own
	// from its first instruction on, and returns when it has been executed. Parent must
	// be alive, and not be ending for a reason that is final, or the error is of kind
	// ErrNotReady; who stops it afterwards is told of the workload (Ended.Left).
	Branch(ctx context.Context, parent tenure.UnitID, spec Spec) error
	// Adopt makes a workload of a process that is in another unit of the same snap, and
	// of what has come out of it and is in that unit too. Processes in groups that the unit made
	// are not moved: a group that has no others in it goes with the workload as it is.
	// What the process runs is not for the Spec to say.
	// The main process of a service is not adopted. A process that is in no unit of the
	// snap, or has ended, is an error of kind ErrUnknown, one of a unit that is ending for
	// a reason that is final of kind ErrNotReady.
	Adopt(ctx context.Context, spec Spec, process tenure.Process) error
}

// Overlapper is the ability to let the next generation of a service begin before
// the last one ends: Succeed, then TakeOver, then Stop of what TakeOver returned.
// Whoever waits in a declared socket is taken by the one or by the other.
type Overlapper interface {
	// Succeed starts the next generation of a service that is known, beside the one
	// there is and without a word to it: as the unit tenure.Successor, with the
	// sockets that both Specs declare at one address, and with the descriptors that
	// are kept for the service. It returns when the successor is ready. One that
	// ends before it has taken over is not restarted and leaves nothing behind; the
	// error of one that did not get ready is a *StartError. When it is there with
	// this Spec already, or is the service, Succeed waits for it or does nothing.
	Succeed(ctx context.Context, spec Spec) error
	// TakeOver makes the successor the service, and the generation that was it the
	// unit tenure.Draining: its stop protocol is that of its Spec with drain as
	// grace period, if that is not 0. It has not been told to end. No unit is
	// returned where the service had no process. Without a successor that is ready,
	// or when the service is ending, the error is of kind ErrNotReady.
	TakeOver(ctx context.Context, service tenure.UnitID, drain time.Duration) (draining tenure.UnitID, err error)
}

// Splitter is the ability to set workloads apart before their service is stopped.
type Splitter interface {
	// Split makes units of the workloads among the processes of a service, as its
	// stop would, and lets the service go on.
	Split(ctx context.Context, service tenure.UnitID) error
}

// Locator is the ability to tell whose a process is.
type Locator interface {
	// UnitOfProcess is the unit that a process belongs to by its control group, if any.
	UnitOfProcess(h *proc.Handle) (unit tenure.UnitID, found bool, err error)
}

// Onlooker is the ability to show the processes of all units at once.
type Onlooker interface {
	// Glance has the living processes of every unit that is known, oldest first, as they are
	// seen in passing: what is forked, or moves from unit to unit, at that moment may be missing.
	Glance(ctx context.Context) (map[tenure.UnitID][]proc.Info, error)
}

// Preparer is the ability to do ahead of a Start, while the unit still runs, what
// need not wait for its end.
type Preparer interface {
	// Prepare prepares a Start of units that are known with these Specs. A Start
	// with another Spec drops what was prepared; so does Forget. An error says
	// which unit could not be prepared; those before it were.
	Prepare(ctx context.Context, specs ...Spec) error
	// Unprepare drops what was prepared for units and not used.
	Unprepare(ctx context.Context, units ...tenure.UnitID) error
}

// LogReader is the ability to read what units wrote.
type LogReader interface {
	// Logs yields the last n lines (all that are kept when n is negative) of the
	// units in order of time, and then, when follow is set, every further line
	// until ctx ends. Workloads of a service are named separately.
	Logs(ctx context.Context, units []tenure.UnitID, n int, follow bool) iter.Seq2[LogLine, error]
}

// LogKeeper is the ability to drop what the units of a snap wrote.
type LogKeeper interface {
	// DropLogs deletes the logs of all units of a snap. What is still written is lost.
	DropLogs(ctx context.Context, snap tenure.Instance) error
}

// Errors that callers tell apart.
var (
	ErrUnknown = errors.New("no such unit")
	ErrRunning = errors.New("unit is running")
	// ErrStopTimeout is that a unit with KillNever still runs after its grace.
	ErrStopTimeout = errors.New("unit did not stop in time")
	// ErrNotReady is that a unit ended, or ran out of time, before it was ready.
	ErrNotReady = errors.New("unit did not get ready")
)

// StartError tells which unit failed to start, how, and what it last wrote.
type StartError struct {
	Unit tenure.UnitID
	// Exit is how the main process ended, if it did.
	Exit *proc.Exit
	// Log is the end of what it wrote, at most a few lines.
	Log []string
	Err error
}

// Error says which unit failed and why, without the log.
func (e *StartError) Error() string { return "start " + e.Unit.String() + ": " + e.Err.Error() }

// Unwrap is the cause.
func (e *StartError) Unwrap() error { return e.Err }

// StopRequest asks units to end.
type StopRequest struct {
	Units  []tenure.UnitID
	Reason tenure.Reason
	// From and To are the revisions of the change that this is part of, if any;
	// the stop commands and the reason file are told.
	From, To tenure.Revision
	// HoldSockets keeps declared sockets open and kept descriptors, for a start that
	// follows: clients wait in the queue and are not refused.
	HoldSockets bool
	// Kill allows SIGKILL where the protocol forbids it: an administrator's order.
	Kill bool
	// Terms replace parts of the protocols of units, for this request alone.
	Terms map[tenure.UnitID]Terms
	// Limit is the longest grace period that is given, whatever the protocol says; 0 is none.
	Limit time.Duration
}

// Terms replace parts of a stop protocol.
type Terms struct {
	// Timeout is the grace period; 0 leaves that of the protocol.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Kill tells whether SIGKILL may follow; empty leaves the protocol's answer.
	Kill Kill `json:"kill,omitempty"`
}

// Grace is the grace period of a protocol on these terms, within a limit: 0 is for ever,
// and a limit of 0 is none.
func (t Terms) Grace(protocol StopProtocol, limit time.Duration) time.Duration {
	timeout := cmp.Or(t.Timeout, protocol.Timeout)
	if limit > 0 && (timeout <= 0 || timeout > limit) {
		return limit
	}
	return timeout
}

// MayKill reports whether SIGKILL may follow a protocol on these terms.
func (t Terms) MayKill(protocol StopProtocol) bool {
	return cmp.Or(t.Kill, protocol.Kill) != KillNever
}

// Arbiter says on which terms a unit ends that nobody has asked to end: one whose main
// process has ended before the others, that was not ready in time, missed its watchdog, or
// has said that it ends. It also says how commands of the unit are ended that take too
// long. An error counts as KillNever.
//
// A supervisor asks when the unit has been told to end, and sends no SIGKILL before it
// has an answer. The answer may ask the supervisor about the unit. It must heed ctx.
type Arbiter func(ctx context.Context, unit tenure.UnitID) (Terms, error)

// ReloadRequest asks a unit to go on without ending.
type ReloadRequest struct {
	// Spec is what the unit is from now on; its Unit says which one.
	Spec Spec
	// Reason, From and To are what the reload command, and a main process that
	// asks, are told; none where nothing but the configuration has changed.
	Reason   tenure.Reason
	From, To tenure.Revision
	// Quiet tells nobody: only the Spec is another from now on.
	Quiet bool
}

// Ended is what a stop came to.
type Ended struct {
	// Left are the units that came out of the stopped ones and live on, of this
	// stop or of earlier ones.
	Left []tenure.UnitID
	// Exits are how main processes ended, where that is known.
	Exits map[tenure.UnitID]proc.Exit
	// Killed are the units that had to be sent SIGKILL.
	Killed []tenure.UnitID
}

// State is where a unit is in its life.
type State string

// The states:
//
//	Inactive → Starting → Running ⇄ Reloading → Stopping → Inactive
//	              ↓          ↓                               ↑
//	            Backoff ← (crash)                        (stopped)
//	              ↓
//	            Failed
//
// Listening and Waiting are Inactive with a socket or a timer armed.
const (
	Inactive  State = "inactive"
	Listening State = "listening"
	Waiting   State = "waiting"
	Starting  State = "starting"
	Running   State = "running"
	Reloading State = "reloading"
	Stopping  State = "stopping"
	Backoff   State = "backoff"
	Failed    State = "failed"
)

// Alive reports whether a unit in state s has processes.
func (s State) Alive() bool {
	switch s {
	case Starting, Running, Reloading, Stopping:
		return true
	case Inactive, Listening, Waiting, Backoff, Failed:
		return false
	}
	return false
}

// Status is what a supervisor knows of a unit without looking at its processes.
type Status struct {
	Unit     tenure.UnitID   `json:"unit"`
	Revision tenure.Revision `json:"revision"`
	State    State           `json:"state"`
	// Main is the main process; zero when there is none.
	Main tenure.Process `json:"main"`
	// Generation counts the launches of this unit since boot.
	Generation int `json:"generation"`
	// Group is the absolute path of the unit's control group, if it has one.
	Group string `json:"group,omitempty"`
	// Since is when the unit got into this state; Started when its main process started.
	Since   time.Time `json:"since"`
	Started time.Time `json:"started,omitzero"`
	// Text is what the service says of itself (STATUS= of sd_notify(3)).
	Text string `json:"text,omitempty"`
	// Restarts counts the supervisor's own restarts since the last Start.
	Restarts int `json:"restarts,omitempty"`
	// LastExit is how the main process last ended, if it did and it is known.
	LastExit *proc.Exit `json:"last_exit,omitempty"`
	// Spec is what the unit was last started with.
	Spec *Spec `json:"spec,omitempty"`
}

// EventKind tells what happened.
type EventKind string

// The kinds of events.
const (
	// EventState is that a unit has got into another state.
	EventState EventKind = "state"
	// EventEmpty is that the last process of a unit is gone and its group removed.
	EventEmpty EventKind = "empty"
	// EventSplit is that a unit came out of another (Event.Parent).
	EventSplit EventKind = "split"
	// EventSignal is that a signal was sent (Event.Signal, Event.Processes).
	EventSignal EventKind = "signal"
	// EventMain is that another process is the main one now. With a Parent it is that
	// this unit, a successor until now, has taken the service over.
	EventMain EventKind = "main"
	// EventEnded is that a unit has ended, or the start of it, and how (Event.Exit,
	// Event.Cause). It comes once for each life of a unit, whether that began with an
	// EventState of Starting, with an EventSplit or with both, or was tracked.
	EventEnded EventKind = "ended"
	// EventLost is that the consumer was too slow and missed some.
	EventLost EventKind = "lost"
)

// Event is one thing that happened to a unit.
type Event struct {
	Kind      EventKind        `json:"kind"`
	Time      time.Time        `json:"time"`
	Unit      tenure.UnitID    `json:"unit"`
	Revision  tenure.Revision  `json:"revision"`
	State     State            `json:"state,omitempty"`
	Parent    tenure.UnitID    `json:"parent,omitzero"`
	Exit      *proc.Exit       `json:"exit,omitempty"`
	Signal    string           `json:"signal,omitempty"`
	Reason    tenure.Reason    `json:"reason,omitempty"`
	Processes []tenure.Process `json:"processes,omitempty"`
	// Change is the change that asked for it, if one did.
	Change change.ID `json:"change,omitzero"`
	// Cause is why a signal was sent, or a unit has ended.
	Cause Cause `json:"cause,omitempty"`
	// Late is that a signal was sent because a time was over: that of a stop, or that of
	// the Helper.
	Late bool `json:"late,omitempty"`
	// Forced is that SIGKILL was sent by an order (StopRequest.Kill) where the protocol and
	// its terms forbid it.
	Forced bool `json:"forced,omitempty"`
	// Whole is that a signal went to the group as a whole: to what is forked meanwhile,
	// too.
	Whole bool `json:"whole,omitempty"`
	// Helper is the command of the unit ("stop", "reload", "post") that a signal went
	// to, where it did not go to the unit itself.
	Helper string `json:"helper,omitempty"`
	// Command is the command line of what came out of a unit or is tracked.
	Command string `json:"command,omitempty"`
	// Took is, for the end of a unit that was asked to, how much of its grace period that
	// needed: of the stop command's and of what followed the signal, the longer. It is 0
	// where the time was over, and the end was cut short.
	Took time.Duration `json:"took,omitempty"`
	// Given is, for an end, the grace period of the unit's own protocol, whatever the terms
	// and the limit of the request.
	Given time.Duration `json:"given,omitempty"`
	// Extended is that it has asked for more time than that (EXTEND_TIMEOUT_USEC of
	// sd_notify(3)), and got it.
	Extended bool `json:"extended,omitempty"`
}

// Cause is what a signal, or the end of a unit, comes from.
type Cause string

// The causes.
const (
	// CauseRequest is that somebody asked.
	CauseRequest Cause = "request"
	// CauseExit is that the main process ended by itself.
	CauseExit Cause = "exit"
	// CauseTimeout is that it was not ready in time.
	CauseTimeout Cause = "timeout"
	// CauseWatchdog is that it did not report in time.
	CauseWatchdog Cause = "watchdog"
)

// Recorder writes down what happens, for those who ask later. It is called by
// whoever acts, at that moment, by several at once, and must not wait for the disk.
type Recorder func(Event)

// LogLine is one line that a process wrote.
type LogLine struct {
	Time time.Time     `json:"time"`
	Unit tenure.UnitID `json:"unit"`
	PID  int           `json:"pid"`
	Text string        `json:"text"`
	// Place is where the line stands in the log of its unit.
	Place LogPlace `json:"place,omitzero"`
}

// LogPlace is a place in the log of a unit. Places increase from line to line as long
// as the log is not deleted; they tell lines apart that have the same time.
type LogPlace struct {
	Segment int   `json:"segment"`
	End     int64 `json:"end"`
}
