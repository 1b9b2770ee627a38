package policy

import (
	"time"

	"tenure"
)

// Facts are everything that a decision depends on.
type Facts struct {
	// Now is the time of the decision. It matters for deferrals alone.
	Now    time.Time `json:"now,omitzero"`
	Change Change    `json:"change"`
	// Units are those with living processes, and the services that are armed or
	// about to be started again (Unit.Active). They may be of other snaps: those
	// that use the snap of the change (Unit.Uses) are decided too, all others are
	// passed over.
	Units []Unit `json:"units,omitempty"`
	// Declarations are what the revisions that units were started from, and
	// those of the change, say.
	Declarations []Declaration `json:"declarations,omitempty"`
	// Strays are processes of the snap that are in no unit. They matter where nothing
	// of the snap is to be left.
	Strays []Stray `json:"strays,omitempty"`
	// Rulings are what the administrator's rules say of each unit. The units that
	// a service will be split into are named by Split.
	Rulings map[tenure.UnitID][]Ruling `json:"rulings,omitempty"`
	// Vetoes are what the administrator's rules have against the change as a whole.
	Vetoes []Ruling `json:"vetoes,omitempty"`
	// Warnings are what people should know beside the plan.
	Warnings []string `json:"warnings,omitempty"`
	// Estimates are how long stopping takes by the last measurements: by the service, and
	// for workloads by the name that several have ("virt.virtd/vm", see EstimateKey).
	Estimates map[tenure.UnitID]Estimate `json:"estimates,omitempty"`
	Limits    Limits                     `json:"limits,omitzero"`
	// Lapsed are units that were waited for, ended, and were started again before
	// anything else could be done: they are not waited for once more.
	Lapsed []tenure.UnitID `json:"lapsed,omitempty"`
	// Supported are the verdicts that the engine can carry out; empty means all.
	// Refuse is always supported.
	Supported []tenure.Verdict `json:"supported,omitempty"`
}

// Change is what is to happen to a snap.
type Change struct {
	Reason tenure.Reason `json:"reason"`
	// Snap is the snap that changes. It is empty for a shutdown of everything.
	Snap tenure.Instance `json:"snap,omitempty"`
	// From is the current revision. To is the one that becomes current, for
	// refresh and revert.
	From tenure.Revision `json:"from,omitzero"`
	To   tenure.Revision `json:"to,omitzero"`
	// Units are those that the administrator named. With reasons stop and restart
	// only these change, and what comes out of them; none means all services of the
	// snap. A unit that is named does not endure (DESIGN.md section 9, 16).
	Units []tenure.UnitID `json:"units,omitempty"`
	// Auto is that nobody asked for the change: it can wait for people.
	Auto bool `json:"auto,omitempty"`
	// Since is when the change first wanted to happen; see Limits.MaxDeferral and,
	// for automatic ones, Limits.MaxInhibition.
	Since time.Time `json:"since,omitzero"`
	// IgnoreRunning lets apps that people run live on at the old revision.
	IgnoreRunning bool `json:"ignore_running,omitempty"`
	// Force is "now, whatever it costs": what would be deferred or refused is
	// carried out.
	Force bool `json:"force,omitempty"`
	// Now is that what would be deferred is not: of the rest nothing is overruled.
	Now bool `json:"now,omitempty"`
	// Leave is the administrator's consent that what a package wants to live on
	// after remove or disable does.
	Leave bool `json:"leave,omitempty"`
	// Kill allows SIGKILL where a stop protocol forbids it.
	Kill bool `json:"kill,omitempty"`
	// Overdue is that nobody named Units: they have endured for longer than they may.
	Overdue bool `json:"overdue,omitempty"`
	// With are the snaps that the same command disables or removes.
	With []tenure.Instance `json:"with,omitempty"`
}

// Unit is a unit with its processes.
type Unit struct {
	ID tenure.UnitID `json:"id"`
	// Revision is the one that the unit was started from.
	Revision tenure.Revision `json:"revision"`
	// Uses are the revisions of other snaps that it has mounted, as its base.
	Uses []tenure.Ref `json:"uses,omitempty"`
	// By is the snap that has started an instance of another's template, or that out of
	// which the unit came, if that is another one and is there.
	By tenure.Instance `json:"by,omitempty"`
	// Active is that the unit runs, or, without processes, that it will without
	// anyone asking: a socket, a timer or a back-off is armed.
	Active bool `json:"active,omitempty"`
	// Main is the main process; zero when there is none or it is not known.
	Main      tenure.Process `json:"main,omitzero"`
	Processes []Process      `json:"processes,omitempty"`
	Since     time.Time      `json:"since,omitzero"`
	// StaleSince is since when it runs on another revision than the current one; zero if
	// it does not.
	StaleSince time.Time `json:"stale_since,omitzero"`
}

// Process is a process of a unit.
type Process struct {
	tenure.Process
	PPID int `json:"ppid"`
	// CommandLine is the arguments joined by one space.
	CommandLine string `json:"command_line"`
	// Started and Memory, in bytes, are for rules alone.
	Started time.Time `json:"started,omitzero"`
	Memory  int64     `json:"memory,omitempty"`
	// Foreign is that the process is in a group that the unit made itself. It is
	// decided like any other, but is never moved (DESIGN.md section 9, 9).
	Foreign bool `json:"foreign,omitempty"`
	// Group is that group, relative to the unit's own; empty when it is not known.
	Group string `json:"group,omitempty"`
}

// Stray is a process that runs a program of the snap and is in no unit: it has
// gone, or was put, into a control group that is nobody's (DESIGN.md section 9, 9).
type Stray struct {
	tenure.Process
	// Revision is the one that its program is in.
	Revision    tenure.Revision `json:"revision"`
	CommandLine string          `json:"command_line"`
}

// Declaration is what one revision of a snap says about its apps.
type Declaration struct {
	Snap     tenure.Instance `json:"snap"`
	Revision tenure.Revision `json:"revision"`
	Version  string          `json:"version,omitempty"`
	// Base is the name of the snap that its units have as their root; empty is none.
	Base string `json:"base,omitempty"`
	// Classic is that its units see the host as it is.
	Classic bool `json:"classic,omitempty"`
	// Evacuates is that it has a hook which moves its work away before that is stopped.
	Evacuates bool               `json:"evacuates,omitempty"`
	Apps      map[tenure.App]App `json:"apps,omitempty"`
}

// App is what a package says about one app or service.
type App struct {
	// Daemon is that the app is a service.
	Daemon bool `json:"daemon,omitempty"`
	// RefreshMode is the key refresh-mode, empty when unset.
	RefreshMode RefreshMode `json:"refresh_mode,omitempty"`
	// Refresh is the key lifecycle.refresh, empty when unset. It goes before
	// RefreshMode.
	Refresh tenure.Verdict `json:"refresh,omitempty"`
	// DeferWhile is a pattern on command lines (RE2): of a service that says Defer only
	// the processes that match are waited for; empty is all of it.
	DeferWhile string `json:"defer_while,omitempty"`
	Stop       Stop   `json:"stop,omitzero"`
	// Workloads are tried in this order.
	Workloads    []Workload    `json:"workloads,omitempty"`
	DrainTimeout time.Duration `json:"drain_timeout,omitempty"`
	// Observe is for how long a service has to prove itself after a refresh or a revert
	// to this revision; 0 is not at all.
	Observe time.Duration `json:"observe,omitempty"`
	// KeepsNoData is that a service has nothing in its $SNAP_DATA to carry over.
	KeepsNoData bool `json:"keeps_no_data,omitempty"`
	// Instances is that the app is a template for services.
	Instances bool `json:"instances,omitempty"`
}

// RefreshMode is the standard key refresh-mode.
type RefreshMode string

// The refresh modes. RefreshIgnoreRunning is for apps that people run; on a service
// it means the same as RefreshEndure.
const (
	RefreshRestart       RefreshMode = "restart"
	RefreshEndure        RefreshMode = "endure"
	RefreshIgnoreRunning RefreshMode = "ignore-running"
)

// Workload is a kind of processes of a service that have a lifetime of their own.
type Workload struct {
	Name string `json:"name"`
	// Match is an RE2 pattern on the command line; empty matches nothing, for
	// workloads that the service declares itself. A pattern that does not compile
	// matches nothing either: package snapfile has refused it.
	Match string `json:"match,omitempty"`
	// Verdicts are what the package wants for each reason that it names.
	Verdicts map[tenure.Reason]tenure.Verdict `json:"verdicts,omitempty"`
	// ReloadSignal tells the workload to read again what is current ("SIGUSR1").
	ReloadSignal string `json:"reload_signal,omitempty"`
	// Stop is the workload's own stop protocol; nil takes that of its service.
	Stop *Stop `json:"stop,omitempty"`
	// CompatibleFrom is the oldest revision ("12", "x3") or version whose workloads
	// the manager of the declaring revision can handle; empty is any.
	CompatibleFrom string `json:"compatible_from,omitempty"`
}

// Ruling is what a rule of the administrator says about one aspect of a unit.
type Ruling struct {
	Aspect Aspect `json:"aspect"`
	// Value is a verdict for AspectVerdict, a duration as time.ParseDuration reads it
	// for AspectStopTimeout, AspectDeferral and AspectEndure, a Kill for AspectKill, an
	// Overdue for AspectOverdue, and a sentence for AspectRefuse and AspectFailed.
	Value string `json:"value"`
	// Rule is the name of the rule.
	Rule string `json:"rule"`
}

// Aspect is what a ruling is about.
type Aspect string

// The aspects. The first ruling on an aspect counts.
const (
	AspectVerdict     Aspect = "verdict"
	AspectStopTimeout Aspect = "stop-timeout"
	AspectKill        Aspect = "kill"
	// AspectDeferral is how long the unit may make a change wait; 0 is not at all.
	AspectDeferral Aspect = "deferral"
	// AspectEndure is how long the unit may endure on an old revision, and AspectOverdue
	// what becomes of it when it has for longer.
	AspectEndure  Aspect = "endure"
	AspectOverdue Aspect = "endure-action"
	// AspectRefuse is a verdict that refuses, with the administrator's reason.
	AspectRefuse Aspect = "refuse"
	// AspectFailed is why a rule could not be evaluated. It decides nothing.
	AspectFailed Aspect = "failed"
)

// Limits cap what rules and packages ask for. Zero is no limit.
type Limits struct {
	// MaxStopTimeout is the longest grace period.
	MaxStopTimeout time.Duration `json:"max_stop_timeout,omitempty"`
	// MaxInhibition is how long units may defer an automatic change, from
	// Change.Since on (refresh.max-inhibition-days).
	MaxInhibition time.Duration `json:"max_inhibition,omitempty"`
	// MaxDeferral is how long units may defer any change, from Change.Since on.
	MaxDeferral time.Duration `json:"max_deferral,omitempty"`
	// MaxEndure is how long a unit may run on another revision than the current one, and
	// EndEndured that it is ended then, and not only warned of.
	MaxEndure  time.Duration `json:"max_endure,omitempty"`
	EndEndured bool          `json:"end_endured,omitempty"`
	// MaxEvacuation is how long a package may take to move its work away.
	MaxEvacuation time.Duration `json:"max_evacuation,omitempty"`
}
