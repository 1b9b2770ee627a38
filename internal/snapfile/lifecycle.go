package snapfile

import (
	"cmp"
	"fmt"
	"regexp"
	"syscall"
	"time"

	"tenure"
)

// Lifecycle is the lifecycle block of a service (design, section 3). The zero
// value is a service without one.
type Lifecycle struct {
	// Refresh is Restart, Reload, HandOver, Endure, Defer, or empty when unset;
	// it goes before refresh-mode.
	Refresh tenure.Verdict `json:"refresh,omitempty"`
	// DeferWhile is an RE2 pattern on command lines: with Defer, a process of the
	// service is waited for only while it matches. Empty is always.
	DeferWhile string `json:"defer-while,omitempty"`
	Kill       Kill   `json:"kill,omitempty"`
	// DrainTimeout bounds how long the old process of a hand-over may take to
	// finish; 0 when unset.
	DrainTimeout time.Duration `json:"drain-timeout,omitempty"`
	// ReloadTimeout bounds how long a reload may take to be ready again; 0 when
	// unset.
	ReloadTimeout time.Duration `json:"reload-timeout,omitempty"`
	// Data is the access of enduring processes to their own $SNAP_DATA, and whether
	// there is anything of theirs in it.
	Data DataAccess `json:"data,omitempty"`
	// Observe is for how long after a refresh the end of the service counts as
	// a failed refresh; nil when unset. It may be zero.
	Observe *time.Duration `json:"observe,omitempty"`
	// Instances tells that the app is a template, started as APP@NAME.
	Instances bool `json:"instances,omitempty"`
	// Workloads are in the order of the file, which is the order in which their
	// patterns are tried.
	Workloads []Workload `json:"workloads,omitempty"`
}

// Kill is whether SIGKILL may follow a stop that timed out.
type Kill string

// The values of kill; after-timeout is the default.
const (
	KillAfterTimeout Kill = "after-timeout"
	KillNever        Kill = "never"
)

// DataAccess is what a service does with its own $SNAP_DATA, and may do with it
// while it endures.
type DataAccess string

// The values of data; read-write is the default (design, 9.5). None is that the
// service keeps nothing there: what it writes while it drains is not missed (9.6).
const (
	DataReadWrite DataAccess = "readwrite"
	DataReadOnly  DataAccess = "readonly"
	DataNone      DataAccess = "none"
)

// DefaultObserve is the observation window of a service that sets none: long
// enough for a server to fail over what it only reads when it works. Nobody waits
// for it: only the old revision stays as long.
const DefaultObserve = 15 * time.Second

// Workload is a kind of processes that have a lifetime of their own.
type Workload struct {
	Name string `json:"name"`
	// Match is an RE2 pattern on the command line, its arguments joined by one
	// space. It is empty for workloads that the service declares itself.
	Match string `json:"match,omitempty"`
	// OnReason is what the package wants for each reason that it names: Endure, Stop,
	// or, for refresh and revert, Reload.
	OnReason map[tenure.Reason]tenure.Verdict `json:"on-reason,omitempty"`
	// ReloadSignal tells a workload to read again what is current now; empty is SIGHUP.
	ReloadSignal Signal `json:"reload-signal,omitempty"`
	// StopCommand, StopSignal, StopTimeout and Kill are the workload's stop
	// protocol; what is unset is taken from its service.
	StopCommand Command       `json:"stop-command,omitempty"`
	StopSignal  Signal        `json:"stop-signal,omitempty"`
	StopTimeout time.Duration `json:"stop-timeout,omitempty"`
	Kill        Kill          `json:"kill,omitempty"`
	// CompatibleFrom is the oldest revision ("12", "x3") or version whose
	// workloads this revision's manager can still handle (design, 9.18).
	CompatibleFrom string `json:"compatible-from,omitempty"`
}

// Signal is the name of a signal in lower case ("sigterm"); empty when unset.
type Signal string

// Number is the signal; 0 when s is unset.
func (s Signal) Number() syscall.Signal { return signalNumbers()[string(s)] }

// Verdict is what w wants for reason, empty when it says nothing.
func (w *Workload) Verdict(reason tenure.Reason) tenure.Verdict { return w.OnReason[reason] }

// Compile gives the compiled pattern of w, or nil if w has none. Parse has
// checked it, so it fails only for values that Parse did not make.
func (w *Workload) Compile() (*regexp.Regexp, error) {
	if w.Match == "" {
		return nil, nil //nolint:nilnil // No pattern is not an error, and a pattern that matches nothing would hide it.
	}
	re, err := regexp.Compile(w.Match)
	if err != nil {
		return nil, fmt.Errorf("compile the pattern of workload %s: %w", w.Name, err)
	}
	return re, nil
}

// ObserveFor is the observation window.
func (l *Lifecycle) ObserveFor() time.Duration {
	if l.Observe == nil {
		return DefaultObserve
	}
	return *l.Observe
}

// MayKill reports whether SIGKILL may follow a stop of the service itself.
func (l *Lifecycle) MayKill() bool { return l.Kill != KillNever }

// WorkloadNamed is the workload declared under name, or nil.
func (l *Lifecycle) WorkloadNamed(name string) *Workload {
	for i := range l.Workloads {
		if l.Workloads[i].Name == name {
			return &l.Workloads[i]
		}
	}
	return nil
}

// MayKillWorkload reports whether SIGKILL may follow a stop of w, which takes
// what it does not say from its service.
func (a *App) MayKillWorkload(w *Workload) bool {
	return cmp.Or(w.Kill, a.Lifecycle.Kill) != KillNever
}

// EffectiveWorkloadStopTimeout is the grace period of w: its own, else that of
// its service.
func (a *App) EffectiveWorkloadStopTimeout(w *Workload) time.Duration {
	return cmp.Or(w.StopTimeout, a.EffectiveStopTimeout())
}

func signalNumbers() map[string]syscall.Signal {
	return map[string]syscall.Signal{
		"sigterm": syscall.SIGTERM, "sighup": syscall.SIGHUP, "sigint": syscall.SIGINT, "sigquit": syscall.SIGQUIT,
		"sigusr1": syscall.SIGUSR1, "sigusr2": syscall.SIGUSR2, "sigabrt": syscall.SIGABRT, "sigalrm": syscall.SIGALRM,
		"sigpipe": syscall.SIGPIPE, "sigwinch": syscall.SIGWINCH, "sigcont": syscall.SIGCONT, "sigpwr": syscall.SIGPWR,
		"sigkill": syscall.SIGKILL, "sigsegv": syscall.SIGSEGV, "sigbus": syscall.SIGBUS, "sigill": syscall.SIGILL,
		"sigfpe": syscall.SIGFPE, "sigsys": syscall.SIGSYS, "sigtrap": syscall.SIGTRAP, "sigxcpu": syscall.SIGXCPU,
		"sigxfsz": syscall.SIGXFSZ, "sigprof": syscall.SIGPROF, "sigvtalrm": syscall.SIGVTALRM, "sigio": syscall.SIGIO,
	}
}
