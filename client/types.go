package client

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SystemInfo is what the daemon says of itself.
type SystemInfo struct {
	Series        string            `json:"series"`
	Version       string            `json:"version"`
	Architecture  string            `json:"architecture"`
	OSRelease     map[string]string `json:"os-release"`
	KernelVersion string            `json:"kernel-version"`
	OnClassic     bool              `json:"on-classic"`
	Managed       bool              `json:"managed"`
	Confinement   string            `json:"confinement"`
	Locations     map[string]string `json:"locations"`
	Refresh       map[string]string `json:"refresh"`
}

// Snap is one revision of a snap. Revisions are strings, as everywhere in the API.
type Snap struct {
	ID               string    `json:"id"`
	Name             string    `json:"name"`
	Title            string    `json:"title,omitempty"`
	Summary          string    `json:"summary"`
	Description      string    `json:"description"`
	Type             string    `json:"type"`
	Base             string    `json:"base,omitempty"`
	Version          string    `json:"version"`
	Revision         string    `json:"revision"`
	Channel          string    `json:"channel"`
	TrackingChannel  string    `json:"tracking-channel,omitempty"`
	Confinement      string    `json:"confinement"`
	Grade            string    `json:"grade,omitempty"`
	License          string    `json:"license,omitempty"`
	Status           string    `json:"status"`
	DevMode          bool      `json:"devmode"`
	JailMode         bool      `json:"jailmode"`
	TryMode          bool      `json:"trymode"`
	Private          bool      `json:"private"`
	IgnoreValidation bool      `json:"ignore-validation"`
	InstalledSize    int64     `json:"installed-size"`
	InstallDate      time.Time `json:"install-date,omitzero"`
	Apps             []Service `json:"apps,omitempty"`
	Contact          string    `json:"contact"`
	Digest           string    `json:"sha256,omitempty"`
	// StagedBy is the change that waits to make this revision current.
	StagedBy string `json:"staged-by,omitempty"`
	Current  bool   `json:"current"`
	// Health is what the revision has last said of itself (snapctl set-health).
	Health *Health `json:"health,omitempty"`
	// Source is where this revision came from; empty for a file that somebody gave.
	Source string `json:"source,omitempty"`
	// Hold is until when the administrator holds refreshes of it: a time, or "forever".
	Hold string `json:"hold,omitempty"`
	// RefreshInhibit is that a refresh waits for apps of it that run.
	RefreshInhibit *RefreshInhibit `json:"refresh-inhibit,omitempty"`
}

// RefreshInhibit is that a refresh waits for apps that run, and until when; zero is without
// a limit.
type RefreshInhibit struct {
	ProceedTime time.Time `json:"proceed-time,omitzero"`
}

// Health is what a snap says of itself: okay, waiting, blocked or error, and why.
type Health struct {
	Revision  string    `json:"revision"`
	Timestamp time.Time `json:"timestamp"`
	Status    string    `json:"status"`
	Message   string    `json:"message,omitempty"`
	Code      string    `json:"code,omitempty"`
}

// Service is an app of a snap; Daemon is empty where it is not a service.
type Service struct {
	Snap        string    `json:"snap,omitempty"`
	Name        string    `json:"name"`
	Daemon      string    `json:"daemon,omitempty"`
	DaemonScope string    `json:"daemon-scope,omitempty"`
	Enabled     bool      `json:"enabled,omitempty"`
	Active      bool      `json:"active,omitempty"`
	CommonID    string    `json:"common-id,omitempty"`
	State       string    `json:"state,omitempty"`
	Revision    string    `json:"revision,omitempty"`
	PID         int       `json:"pid,omitempty"`
	Since       time.Time `json:"since,omitzero"`
	Text        string    `json:"text,omitempty"`
	// Notes are further facts in words: "socket-activated", "timer-activated", "template",
	// "by-virt" for an instance that another snap has started.
	Notes []string `json:"notes,omitempty"`
	// Activators are the sockets and timers that start it when it is needed.
	Activators []Activator `json:"activators,omitempty"`
}

// Activator starts a service when it is needed. Its fields have no names of their own
// in snapd's API.
type Activator struct {
	Name string
	// Type is socket or timer.
	Type    string
	Active  bool
	Enabled bool
}

// Change is a change with its tasks.
type Change struct {
	ID      string                     `json:"id"`
	Kind    string                     `json:"kind"`
	Summary string                     `json:"summary"`
	Status  string                     `json:"status"`
	Ready   bool                       `json:"ready"`
	Err     string                     `json:"err,omitempty"`
	Spawned time.Time                  `json:"spawn-time"`
	ReadyAt time.Time                  `json:"ready-time,omitzero"`
	Tasks   []Task                     `json:"tasks,omitempty"`
	Data    map[string]json.RawMessage `json:"data,omitempty"`
	// Waiting says what a change in status Wait waits for.
	Waiting string `json:"waiting-for,omitempty"`
	// Holds is that the change, while it waits, keeps others from its snaps: it has
	// stopped, or told to stop, what runs.
	Holds bool `json:"holds,omitempty"`
	// Revision grows whenever anything of the change does; see Client.Follow.
	Revision uint64 `json:"revision"`
}

// Snaps are the names of the snaps that the change is about.
func (c *Change) Snaps() []string {
	var names []string
	if err := json.Unmarshal(c.Data["snap-names"], &names); err != nil {
		return nil
	}
	return names
}

// taskObserve is the kind of the task that observes services after a refresh.
const taskObserve = "observe-snap-services"

// Observed reports whether the change has done all that was asked for, and only waits
// to see whether that was well: if a service fails, it is undone.
func (c *Change) Observed() bool {
	return c.Status == "Wait" && slices.ContainsFunc(c.Tasks, func(t Task) bool { return t.Kind == taskObserve && t.Status == "Wait" })
}

// Task is one step of a change.
type Task struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	Summary  string    `json:"summary"`
	Status   string    `json:"status"`
	Log      []string  `json:"log,omitempty"`
	Progress Progress  `json:"progress"`
	Spawned  time.Time `json:"spawn-time"`
	ReadyAt  time.Time `json:"ready-time,omitzero"`
	// Data names the snaps of the change, for clients that ask each task for them.
	Data map[string]json.RawMessage `json:"data,omitempty"`
}

// Progress is how far a task has come.
type Progress struct {
	Label string `json:"label"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// Unit is a unit with its processes.
type Unit struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Snap     string `json:"snap"`
	Revision string `json:"revision"`
	Base     string `json:"base,omitempty"`
	State    string `json:"state"`
	// Stale is that the unit runs on another revision than the current one, of its
	// snap or of its base; StaleBase that it does of its base.
	Stale bool `json:"stale"`
	// Staged is the revision that waits to take the place of the current one.
	Staged    string `json:"staged,omitempty"`
	StaleBase bool   `json:"stale-base,omitempty"`
	// StaleSince is since when it has been stale; EnduresUntil when it will have been
	// for as long as the administrator allows, and EndureAction what becomes of it then: warn
	// or end. EndureRule and EndureActionRule are the administrator's rules that say so; empty
	// where that is lifecycle.max-endure and lifecycle.endure-action.
	StaleSince       time.Time `json:"stale-since,omitzero"`
	EnduresUntil     time.Time `json:"endures-until,omitzero"`
	EndureRule       string    `json:"endure-rule,omitempty"`
	EndureAction     string    `json:"endure-action,omitempty"`
	EndureActionRule string    `json:"endure-action-rule,omitempty"`
	Since            time.Time `json:"since,omitzero"`
	Restarts         int       `json:"restarts,omitempty"`
	Text             string    `json:"text,omitempty"`
	Processes        []Process `json:"processes,omitempty"`
}

// Process is a process of a unit. PID and Start together identify it.
type Process struct {
	PID     int       `json:"pid"`
	PPID    int       `json:"ppid"`
	Start   uint64    `json:"start"`
	Main    bool      `json:"main,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// Command is the command line; empty where that is not for whoever asks.
	Command string `json:"command"`
}

// Pin is one reason to keep a revision.
type Pin struct {
	Kind string `json:"kind"`
	By   string `json:"by,omitempty"`
	Text string `json:"text"`
}

// Plan is what a change would do, as data and as text for people.
type Plan struct {
	Plan json.RawMessage `json:"plan"`
	Text string          `json:"text"`
}

// Log is one line that a unit wrote.
type Log struct {
	Timestamp time.Time `json:"timestamp"`
	Message   string    `json:"message"`
	// SID is the unit; PID is a string, as in snapd's API.
	SID string `json:"sid"`
	PID string `json:"pid"`
	// Segment and End are the line's place in the log of its unit, which increases
	// from line to line.
	Segment int   `json:"segment,omitempty"`
	End     int64 `json:"end,omitempty"`
}

// Action is something to be done to snaps or services.
type Action struct {
	Action        string   `json:"action"`
	Snaps         []string `json:"snaps,omitempty"`
	Names         []string `json:"names,omitempty"`
	Users         []string `json:"users,omitempty"`
	Args          []string `json:"args,omitempty"`
	Name          string   `json:"name,omitempty"`
	Files         []string `json:"-"`
	Revision      string   `json:"revision,omitempty"`
	Channel       string   `json:"channel,omitempty"`
	Source        string   `json:"source,omitempty"`
	Amend         bool     `json:"amend,omitempty"`
	Time          string   `json:"time,omitempty"`
	HoldLevel     string   `json:"hold-level,omitempty"`
	Dangerous     bool     `json:"dangerous,omitempty"`
	DevMode       bool     `json:"devmode,omitempty"`
	JailMode      bool     `json:"jailmode,omitempty"`
	Classic       bool     `json:"classic,omitempty"`
	IgnoreRunning bool     `json:"ignore-running,omitempty"`
	Purge         bool     `json:"purge,omitempty"`
	Terminate     bool     `json:"terminate,omitempty"`
	Kill          bool     `json:"kill,omitempty"`
	Force         bool     `json:"force,omitempty"`
	Now           bool     `json:"now,omitempty"`
	Leave         bool     `json:"leave,omitempty"`
	Enable        bool     `json:"enable,omitempty"`
	Disable       bool     `json:"disable,omitempty"`
	Reload        bool     `json:"reload,omitempty"`
	DryRun        bool     `json:"-"`
}

// OnServices reports whether the action is about services and not about snaps.
func (a Action) OnServices() bool {
	return a.Action == "start" || a.Action == "stop" || a.Action == "restart"
}

func (a Action) form() map[string]string {
	fields := map[string]string{"action": a.Action}
	for name, set := range map[string]bool{
		"dangerous": a.Dangerous, "devmode": a.DevMode, "jailmode": a.JailMode, "classic": a.Classic,
		"ignore-running": a.IgnoreRunning, "kill": a.Kill,
		"force": a.Force, "now": a.Now,
	} {
		if set {
			fields[name] = strconv.FormatBool(set)
		}
	}
	if a.Name != "" {
		fields["name"] = a.Name
	}
	if a.Channel != "" {
		fields["channel"] = a.Channel
	}
	if len(a.Files) == 1 {
		fields["snap-path"] = strings.TrimSpace(a.Files[0])
	}
	return fields
}

// Allowance is that a snap may start instances of a template of another ("qemu.vm").
type Allowance struct {
	Manager string `json:"manager"`
	App     string `json:"app"`
}
