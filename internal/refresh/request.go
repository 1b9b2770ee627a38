package refresh

import (
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/revision"
	"tenure/internal/schedule"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// Options are what people say beside the names of snaps.
type Options struct {
	// Dangerous allows files that no source vouches for.
	Dangerous bool `json:"dangerous,omitempty"`
	// DevMode, JailMode and Classic choose the confinement.
	DevMode  bool `json:"devmode,omitempty"`
	JailMode bool `json:"jailmode,omitempty"`
	Classic  bool `json:"classic,omitempty"`
	// IgnoreRunning lets a refresh go on while apps of the snap run.
	IgnoreRunning bool `json:"ignore_running,omitempty"`
	// Kill allows SIGKILL where a stop protocol forbids it.
	Kill bool `json:"kill,omitempty"`
	// Force carries out what would be refused or waited for, Now what would be waited for.
	Force bool `json:"force,omitempty"`
	Now   bool `json:"now,omitempty"`
	// Leave agrees to leave running what a package wants to outlive it.
	Leave bool `json:"leave,omitempty"`
}

// File is a snap file that is to be installed.
type File struct {
	// Path is where it is now. It is read, never written, and may be removed when
	// Install has returned.
	Path string
	// Label is what people call it: the path that they gave.
	Label string
	// Name is the instance that it becomes; empty is the snap's own name.
	Name tenure.Instance
	// Origin is the release of a source that it is; nil for a file that somebody gave.
	Origin *Origin
}

// Action is what to do with snaps or services.
type Action string

// The actions.
const (
	ActionInstall Action = "install"
	ActionRefresh Action = "refresh"
	ActionRevert  Action = "revert"
	ActionRemove  Action = "remove"
	ActionEnable  Action = "enable"
	ActionDisable Action = "disable"
	ActionStart   Action = "start"
	ActionStop    Action = "stop"
	ActionRestart Action = "restart"
	ActionSwitch  Action = "switch"
)

// Request is one thing that somebody asks for. The same request can be carried
// out (Manager.Do) or only planned (Manager.Plan).
type Request struct {
	Action Action
	// Files are for install and refresh.
	Files []File
	// Snaps are for all others on snaps.
	Snaps []tenure.Instance
	// Channel and Source are for install, refresh and switch: where to take snaps from.
	// Amend lets a snap that came from a file be refreshed from there.
	Channel, Source string
	Amend           bool
	// Auto is that nobody has asked: it can wait for people.
	Auto bool
	// Hold is a request about what holds refreshes, and about nothing else; or nil.
	Hold *HoldRequest
	// Revision is for revert and remove: which one; and for install and refresh from a
	// source: that one, whatever channel it is in.
	Revision tenure.Revision
	// Names are for start, stop and restart: snaps, services or single units.
	Names []string
	// Exact is that each name is that of one unit: of a template not all its instances.
	Exact bool
	// Args follow the command of the instance of a template that is started; nil where
	// they stay what they are.
	Args []string
	// By is the snap that asks for something of another.
	By tenure.Instance
	// FromSnap is that a process of a snap asks, for its own or for another.
	FromSnap bool
	// Permanent makes start enable, and stop disable, the services (--enable, --disable).
	Permanent bool
	// Reload makes restart reload where the service can.
	Reload bool
	// Purge makes remove save nothing of what it removes.
	Purge   bool
	Options Options
	// Because is why nobody has to ask for it: a sentence, for start, stop and restart.
	Because string
	// Overdue is that Names have endured for longer than they may; then nobody has asked.
	Overdue bool
}

// OfAll reports whether r is to refresh all snaps.
func (r *Request) OfAll() bool {
	return r.Action == ActionRefresh && r.Hold == nil && len(r.Files)+len(r.Snaps) == 0
}

// Snap is what there is to say about one revision of an installed snap.
type Snap struct {
	Ref       tenure.Ref
	Info      *snapfile.Snap
	Current   bool
	Active    bool
	Options   Options
	Size      int64
	Installed time.Time
	Digest    string
	Pins      []revision.Pin
	// Tracking is where its updates come from, Origin where this revision did; nil for a
	// file that somebody gave.
	Tracking Tracking
	Origin   *Origin
	// Held is what the administrator holds of its refreshes; nil if nothing.
	Held *schedule.Hold
	// Staged is the change that waits to make this revision current; zero if none does.
	Staged change.ID
	// Health is what it has last said of itself; nil if it has said nothing.
	Health *Health
}

// ServiceInfo is a service of the current revision.
type ServiceInfo struct {
	Unit    tenure.UnitID
	App     *snapfile.App
	Enabled bool
	Active  bool
	// By is the snap that has started an instance, if that is another one.
	By     tenure.Instance
	Status supervise.Status
}

// UnitInfo is a unit with its processes.
type UnitInfo struct {
	supervise.Status
	Processes []proc.Info
	// Stale is that the unit runs on another revision than the current one, of its
	// snap or of its base; StaleBase that it does of its base.
	Stale, StaleBase bool
	Current          tenure.Revision
	// Staged is the revision that waits to become current; zero if none does.
	Staged tenure.Revision
	// StaleSince is since when it has been stale, and EnduresUntil when it will have been
	// for as long as the administrator allows; zero where that does not apply.
	StaleSince, EnduresUntil time.Time
	// Endurance says who allows that, and what becomes of it then.
	Endurance policy.Endurance
}

// Planned is a plan for each snap that a request touches.
type Planned struct {
	Plans []policy.Plan
}
