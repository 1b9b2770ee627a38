package supervise

import (
	"time"

	"tenure"
	"tenure/internal/sandbox"
)

// Type tells when a service counts as ready, in the words of snap.yaml's
// "daemon" key.
type Type string

// The types.
const (
	// Simple is ready when its command has been executed.
	Simple Type = "simple"
	// Forking is ready when the first process has exited with 0; the main
	// process is then the one that it left.
	Forking Type = "forking"
	// Oneshot is ready when it has exited well.
	Oneshot Type = "oneshot"
	// Notify is ready when it says so by sd_notify(3).
	Notify Type = "notify"
	// DBus is ready when Spec.BusName is on the system bus.
	DBus Type = "dbus"
)

// Spec is everything that a supervisor needs to run a unit. It is resolved:
// no snap knowledge is needed to carry it out. It is stored with the unit, and
// a unit keeps the Spec that it was started with for its whole life.
type Spec struct {
	Unit     tenure.UnitID   `json:"unit"`
	Revision tenure.Revision `json:"revision"`
	// Base is the base revision that the unit runs on, if any. It is for whoever
	// keeps revisions; workloads that come out of the unit inherit it.
	Base tenure.Ref `json:"base,omitzero"`
	Type Type       `json:"type"`
	// Command is the main process. Paths in it are as the unit sees them.
	Command Command         `json:"command"`
	Profile sandbox.Profile `json:"profile"`
	// Reload is the reload command, if any.
	Reload *Command     `json:"reload,omitempty"`
	Stop   StopProtocol `json:"stop"`
	// PostStop runs after the unit has ended, however it ended.
	PostStop *Command `json:"post_stop,omitempty"`
	// StartTimeout bounds the time until the unit is ready; 0 is none.
	StartTimeout time.Duration `json:"start_timeout,omitempty"`
	// Watchdog is the longest time between two WATCHDOG=1 of sd_notify(3); 0 is
	// none. Missing it ends the process with SIGABRT, as systemd does.
	Watchdog time.Duration `json:"watchdog,omitempty"`
	Restart  RestartPolicy `json:"restart"`
	// After are units that must be ready before this one is started, and that end
	// after it, where they are part of the same request.
	After []tenure.UnitID `json:"after,omitempty"`
	// Sockets are opened by the supervisor and passed in order
	// (sd_listen_fds(3)). A service with sockets starts at the first connection.
	Sockets []Socket `json:"sockets,omitempty"`
	// Timer is when the unit is started by itself, in the timer format of snaps.
	Timer   string `json:"timer,omitempty"`
	BusName string `json:"bus_name,omitempty"`
	// Workloads tell apart what comes out of the service; first match wins. Those
	// without a pattern are for the service itself to name (Brancher).
	Workloads []Workload `json:"workloads,omitempty"`
}

// Command is one program to run.
type Command struct {
	// Argv is the command with its arguments; Argv[0] is an absolute path as
	// the unit sees it.
	Argv []string `json:"argv"`
	// Env is the whole environment, NAME=value. The supervisor adds what only it
	// knows: NOTIFY_SOCKET, LISTEN_*, WATCHDOG_*, MAINPID, and SNAP_LIFECYCLE_*.
	Env []string `json:"env,omitempty"`
	// Dir is the working directory as the unit sees it; empty is "/".
	Dir string `json:"dir,omitempty"`
}

// Target tells whom a stop signal goes to.
type Target string

// The targets.
const (
	// TargetGroup is every process of the unit.
	TargetGroup Target = "group"
	// TargetMain is the main process only. What the unit leaves behind then
	// becomes the workload tenure.Leftover.
	TargetMain Target = "main"
)

// Kill tells whether SIGKILL may follow when the grace period is over.
type Kill string

// The two answers.
const (
	KillAfterTimeout Kill = "after-timeout"
	KillNever        Kill = "never"
)

// StopProtocol is how a unit is ended: the command, if there is one, then the
// signal if there are processes left, then, after Timeout since each of
// both, SIGKILL where Kill allows it. SIGKILL goes to whom the signal went, and to
// every process of the unit with TargetGroup.
type StopProtocol struct {
	// Command gets MAINPID, SNAP_LIFECYCLE_PIDS (all pids of the unit, separated by
	// spaces), SNAP_LIFECYCLE_REASON, _FROM and _TO in its environment.
	Command *Command `json:"command,omitempty"`
	// Signal is a name like "SIGTERM"; empty is SIGTERM.
	Signal string `json:"signal,omitempty"`
	Target Target `json:"target"`
	// Timeout is the grace period; 0 is none, which waits for ever.
	Timeout time.Duration `json:"timeout,omitempty"`
	Kill    Kill          `json:"kill"`
}

// RestartCondition is when a unit that ended by itself is started again, in the
// words of snap.yaml's "restart-condition" key.
type RestartCondition string

// The conditions; what counts as clean is as in systemd.service(5).
const (
	RestartOnFailure  RestartCondition = "on-failure"
	RestartOnSuccess  RestartCondition = "on-success"
	RestartOnAbnormal RestartCondition = "on-abnormal"
	RestartOnAbort    RestartCondition = "on-abort"
	RestartOnWatchdog RestartCondition = "on-watchdog"
	RestartAlways     RestartCondition = "always"
	RestartNever      RestartCondition = "never"
)

// RestartPolicy is what happens when a unit ends by itself.
type RestartPolicy struct {
	Condition RestartCondition `json:"condition"`
	// Delay is the time before the first restart; 0 is 100 ms. It doubles with every
	// restart that did not last, up to a minute.
	Delay time.Duration `json:"delay,omitempty"`
	// SuccessExit are further exit statuses that count as clean.
	SuccessExit []int `json:"success_exit,omitempty"`
	// SuccessSignals are further signals, by names like "SIGUSR1", an end by which
	// counts as clean.
	SuccessSignals []string `json:"success_signals,omitempty"`
}

// Socket is one listening socket of a service.
type Socket struct {
	Name string `json:"name"`
	// Network is "tcp", "unix" or "unix-abstract"; Address a port or address and
	// port, an absolute host path, or an abstract name without its "@".
	Network string `json:"network"`
	Address string `json:"address"`
	// Mode is the permission of a socket file; 0 is 0666.
	Mode uint32 `json:"mode,omitempty"`
}

// Workload says which processes of a service have a lifetime of their own, and
// how they are ended.
type Workload struct {
	Name string `json:"name"`
	// Match is an RE2 expression on the command line, arguments joined by one space.
	// A matching process and all its descendants become one unit. Empty matches nothing.
	Match string       `json:"match"`
	Stop  StopProtocol `json:"stop"`
	// Profile and environment for Stop.Command are those of the service.
}

// Branch is the Spec of a unit that comes out of s: on the same revision, and with
// the same view and environment.
func (s *Spec) Branch(unit tenure.UnitID, argv []string, stop StopProtocol) Spec {
	return Spec{
		Unit: unit, Revision: s.Revision, Base: s.Base, Type: Simple,
		Command: Command{Argv: argv, Env: s.Command.Env, Dir: s.Command.Dir},
		Profile: s.Profile, Stop: stop, Restart: RestartPolicy{Condition: RestartNever},
	}
}
