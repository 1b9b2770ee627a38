package snapfile

import (
	"cmp"
	"syscall"
	"time"

	"tenure"
)

// App is an entry of apps: a command that people run, or a service.
//
// A duration of zero means that the file does not set it; the methods named
// Effective… give what then holds.
type App struct {
	Name         tenure.App `json:"name"`
	Command      Command    `json:"command"`
	CommandChain []Command  `json:"command-chain,omitempty"`
	Environment  Env        `json:"environment,omitempty"`
	Plugs        []string   `json:"plugs,omitempty"`
	Slots        []string   `json:"slots,omitempty"`
	Aliases      []string   `json:"aliases,omitempty"`
	// Completer and Desktop are paths below $SNAP.
	Completer string `json:"completer,omitempty"`
	Desktop   string `json:"desktop,omitempty"`
	// Autostart is the name of a desktop file, without a directory.
	Autostart string `json:"autostart,omitempty"`
	CommonID  string `json:"common-id,omitempty"`

	// Daemon is empty for an app that is not a service.
	Daemon      Daemon      `json:"daemon,omitempty"`
	DaemonScope DaemonScope `json:"daemon-scope,omitempty"`
	RefreshMode RefreshMode `json:"refresh-mode,omitempty"`
	InstallMode InstallMode `json:"install-mode,omitempty"`

	StopMode          StopMode         `json:"stop-mode,omitempty"`
	StopCommand       Command          `json:"stop-command,omitempty"`
	PostStopCommand   Command          `json:"post-stop-command,omitempty"`
	ReloadCommand     Command          `json:"reload-command,omitempty"`
	StartTimeout      time.Duration    `json:"start-timeout,omitempty"`
	StopTimeout       time.Duration    `json:"stop-timeout,omitempty"`
	WatchdogTimeout   time.Duration    `json:"watchdog-timeout,omitempty"`
	RestartDelay      time.Duration    `json:"restart-delay,omitempty"`
	RestartCondition  RestartCondition `json:"restart-condition,omitempty"`
	SuccessExitStatus ExitStatuses     `json:"success-exit-status,omitzero"`

	After       []tenure.App `json:"after,omitempty"`
	Before      []tenure.App `json:"before,omitempty"`
	Sockets     []Socket     `json:"sockets,omitempty"`
	BusName     string       `json:"bus-name,omitempty"`
	ActivatesOn []string     `json:"activates-on,omitempty"`
	// Timer is a timer string whose grammar was checked; package schedule
	// gives it a meaning.
	Timer string `json:"timer,omitempty"`

	Lifecycle Lifecycle `json:"lifecycle,omitzero"`
}

// Daemon is how a service tells that it is ready.
type Daemon string

// The kinds of services.
const (
	Simple  Daemon = "simple"
	Forking Daemon = "forking"
	Oneshot Daemon = "oneshot"
	Notify  Daemon = "notify"
	DBus    Daemon = "dbus"
)

// DaemonScope is whose service it is.
type DaemonScope string

// The scopes; system is the default.
const (
	ScopeSystem DaemonScope = "system"
	ScopeUser   DaemonScope = "user"
)

// RefreshMode is what the standard key refresh-mode says.
type RefreshMode string

// The refresh modes. The first two are for services, RefreshIgnoreRunning for
// apps that are not.
const (
	RefreshRestart       RefreshMode = "restart"
	RefreshEndure        RefreshMode = "endure"
	RefreshIgnoreRunning RefreshMode = "ignore-running"
)

// InstallMode is whether a service starts when its snap is installed.
type InstallMode string

// The install modes; enable is the default.
const (
	InstallEnable  InstallMode = "enable"
	InstallDisable InstallMode = "disable"
)

// RestartCondition is after which ends a service is started again.
type RestartCondition string

// The restart conditions.
const (
	RestartOnSuccess  RestartCondition = "on-success"
	RestartOnFailure  RestartCondition = "on-failure"
	RestartOnAbnormal RestartCondition = "on-abnormal"
	RestartOnAbort    RestartCondition = "on-abort"
	RestartOnWatchdog RestartCondition = "on-watchdog"
	RestartAlways     RestartCondition = "always"
	RestartNever      RestartCondition = "never"
)

// StopMode is which signal ends a service and who gets it.
type StopMode string

// The stop modes. Without "-all" the main process alone gets the signal.
const (
	StopTerm    StopMode = "sigterm"
	StopTermAll StopMode = "sigterm-all"
	StopHup     StopMode = "sighup"
	StopHupAll  StopMode = "sighup-all"
	StopUsr1    StopMode = "sigusr1"
	StopUsr1All StopMode = "sigusr1-all"
	StopUsr2    StopMode = "sigusr2"
	StopUsr2All StopMode = "sigusr2-all"
	StopInt     StopMode = "sigint"
	StopIntAll  StopMode = "sigint-all"
)

// Signal is the signal of m; SIGTERM when m is unset.
func (m StopMode) Signal() syscall.Signal {
	switch m {
	case StopHup, StopHupAll:
		return syscall.SIGHUP
	case StopUsr1, StopUsr1All:
		return syscall.SIGUSR1
	case StopUsr2, StopUsr2All:
		return syscall.SIGUSR2
	case StopInt, StopIntAll:
		return syscall.SIGINT
	case StopTerm, StopTermAll:
		return syscall.SIGTERM
	}
	return syscall.SIGTERM
}

// All reports whether every process of the service gets the signal. An unset
// mode means all (design, 9.8).
func (m StopMode) All() bool {
	switch m {
	case StopTerm, StopHup, StopUsr1, StopUsr2, StopInt:
		return false
	case StopTermAll, StopHupAll, StopUsr1All, StopUsr2All, StopIntAll:
		return true
	}
	return true
}

// Socket is a socket that the supervisor listens on for a service.
type Socket struct {
	Name string `json:"name"`
	// Network is "tcp" or "unix"; it tells how to read Address.
	Network string `json:"network"`
	// Address is "HOST:PORT" with HOST possibly empty for tcp; for unix a path
	// that starts with a variable ($SNAP_DATA, $SNAP_COMMON, $XDG_RUNTIME_DIR
	// and, for services of users, $SNAP_USER_DATA, $SNAP_USER_COMMON), or an
	// abstract name that starts with "@snap.NAME.".
	Address string `json:"address"`
	// Mode is the permission of a unix socket, at most 0777; 0 when unset, see
	// EffectiveMode.
	Mode uint32 `json:"mode,omitempty"`
}

// EffectiveMode is the mode of a unix socket: 0666 unless set, as systemd's
// SocketMode (systemd.socket(5)), which snapd's services get.
func (s *Socket) EffectiveMode() uint32 { return cmp.Or(s.Mode, 0o666) }

// The defaults of services.
const (
	// DefaultStartTimeout and DefaultStopTimeout are 30 seconds by the public
	// reference ("services and daemons").
	DefaultStartTimeout = 30 * time.Second
	DefaultStopTimeout  = 30 * time.Second
	// DefaultRestartDelay is systemd's RestartSec (systemd.service(5)), which
	// holds for snaps that set no restart-delay.
	DefaultRestartDelay = 100 * time.Millisecond
	// DefaultRestartCondition is that of the public reference.
	DefaultRestartCondition = RestartOnFailure
)

// IsService reports whether a is a service.
func (a *App) IsService() bool { return a.Daemon != "" }

// EffectiveStartTimeout is how long a may take to become ready.
func (a *App) EffectiveStartTimeout() time.Duration {
	return cmp.Or(a.StartTimeout, DefaultStartTimeout)
}

// EffectiveStopTimeout is the grace period of a.
func (a *App) EffectiveStopTimeout() time.Duration {
	return cmp.Or(a.StopTimeout, DefaultStopTimeout)
}

// EffectiveRestartDelay is the pause before a is started again by itself.
func (a *App) EffectiveRestartDelay() time.Duration {
	return cmp.Or(a.RestartDelay, DefaultRestartDelay)
}

// EffectiveRestartCondition is after which ends a is started again by itself.
func (a *App) EffectiveRestartCondition() RestartCondition {
	return cmp.Or(a.RestartCondition, DefaultRestartCondition)
}

// EffectiveStopMode is the stop mode of a: SIGTERM to all unless set, as
// systemd's KillMode=control-group (design, 9.8).
func (a *App) EffectiveStopMode() StopMode { return cmp.Or(a.StopMode, StopTermAll) }

// StartsOnInstall reports whether a is started when its snap is installed.
func (a *App) StartsOnInstall() bool { return a.IsService() && a.InstallMode != InstallDisable }

func compareStrings[S ~string](a, b S) int { return cmp.Compare(a, b) }
