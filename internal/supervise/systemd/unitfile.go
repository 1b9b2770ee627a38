package systemd

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"tenure"
	"tenure/internal/supervise"
)

// The settings of the two nets below the supervisor: systemd acts where it has not.
const (
	// restartNet is how long systemd waits before it restarts what has crashed, unless the service
	// asks for longer: the supervisor restarts it before, after its own back-off.
	restartNet = time.Minute
	// startNet and stopNet are how much longer systemd waits than the supervisor.
	startNet = 30 * time.Second
	stopNet  = 5 * time.Second
)

// More lines than a unit can write in so short a time is no limit: the journal would leave out
// what goes beyond its own without a word to who reads. systemd takes 0, which would say it,
// for "not set".
const (
	logInterval = time.Microsecond
	logBurst    = 1_000_000
)

// maxStored is how many descriptors systemd keeps for a service that it has started by itself.
const maxStored = 128

// setting is a line of a unit file.
type setting struct{ key, value string }

// section is a part of a unit file.
type section struct {
	name     string
	settings []setting
}

// render is the text of a unit file. No value makes a line of its own, whatever is in it.
func render(sections ...section) string {
	var b strings.Builder
	b.WriteString("# Written by tenured, for one revision. Changes are lost.\n")
	for _, s := range sections {
		fmt.Fprintf(&b, "\n[%s]\n", s.name)
		for _, line := range s.settings {
			fmt.Fprintf(&b, "%s=%s\n", line.key, strings.TrimRight(strings.Map(onOneLine, line.value), `\ `))
		}
	}
	return b.String()
}

// onOneLine takes away what ends a line for systemd, and other control characters with it.
func onOneLine(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}

// serviceFile is the unit file of a service.
func (h *host) serviceFile(name string, spec *supervise.Spec) string {
	settings := []setting{
		{"Slice", h.names.slice(spec.Unit.Snap)},
		{"Type", string(typeOf(spec))},
		{"ExecStart", quoteCommand(slices.Concat(h.program, []string{verbLaunch, h.socket, h.state, h.files.specPath(name)}))},
		{"ExecStop", quoteCommand(h.command(verbStop, name))},
		{"KillMode", "process"},
		{"KillSignal", signalOf(spec.Stop)},
		{"TimeoutStartSec", span(spec.StartTimeout, startNet)},
		{"TimeoutStopSec", span(stopTime(spec.Stop), stopNet)},
		{"Restart", string(restartOf(spec))},
		{"RestartSec", span(max(restartNet, spec.Restart.Delay), 0)},
		{"RestartPreventExitStatus", strconv.Itoa(abandoned)},
		{"Delegate", "yes"},
		{"NotifyAccess", "all"},
		{"FileDescriptorStoreMax", strconv.Itoa(maxStored)},
		{"IgnoreSIGPIPE", "no"},
		{"OOMPolicy", "continue"},
		{"SyslogIdentifier", spec.Unit.String()},
		{"LogExtraFields", unitField + "=" + spec.Unit.String()},
		{"LogExtraFields", rootField + "=" + h.names.prefix},
		{"LogRateLimitIntervalSec", span(logInterval, 0)},
		{"LogRateLimitBurst", strconv.Itoa(logBurst)},
	}
	if doors := h.doorsOf(spec); doors != "" {
		settings = append(settings, setting{"Sockets", doors})
	}
	if spec.Reload != nil {
		settings = append(settings, setting{"ExecReload", quoteCommand(h.command(verbReload, name))})
	}
	if spec.Type == supervise.DBus {
		settings = append(settings, setting{"BusName", spec.BusName})
	}
	if spec.Stop.Kill == supervise.KillNever {
		settings = append(settings, setting{"SendSIGKILL", "no"})
	}
	if clean := cleanExits(spec.Restart); clean != "" {
		settings = append(settings, setting{"SuccessExitStatus", clean})
	}
	unit := []setting{{"Description", describe(spec)}, {"StartLimitIntervalSec", "0"}, {"Before", endOfMachine}}
	if h.boot != "" {
		// Without it the service fails by itself, and says what it needs (becomeAlone).
		unit = append(unit, setting{"After", h.boot})
	}
	return render(
		section{"Unit", unit},
		section{"Service", settings},
		section{"Install", []setting{{"WantedBy", bootTarget}}},
	)
}

// endOfMachine ends all units by their protocols when the machine ends. systemd ends what
// is before it only when it has done so.
const endOfMachine = "tenured-shutdown.service"

// describe is what systemctl(1) says that a unit is.
func describe(spec *supervise.Spec) string {
	return fmt.Sprintf("%s (revision %s)", spec.Unit, spec.Revision)
}

// sdType is when systemd takes a service for ready.
type sdType string

func typeOf(spec *supervise.Spec) sdType {
	switch spec.Type {
	case supervise.Forking:
		return "forking"
	case supervise.Oneshot:
		return "oneshot"
	case supervise.Notify:
		return "notify"
	case supervise.DBus:
		return "dbus"
	case supervise.Simple:
		return "exec"
	}
	return "exec"
}

// restartOf is when systemd restarts a service. It refuses to load a oneshot that is to be restarted
// after it has ended well.
func restartOf(spec *supervise.Spec) supervise.RestartCondition {
	switch condition := spec.Restart.Condition; {
	case condition == supervise.RestartNever || condition == "":
		return "no"
	case spec.Type == supervise.Oneshot && condition == supervise.RestartAlways:
		return supervise.RestartOnFailure
	case spec.Type == supervise.Oneshot && condition == supervise.RestartOnSuccess:
		return "no"
	default:
		return condition
	}
}

func cleanExits(policy supervise.RestartPolicy) string {
	var all []string
	for _, code := range policy.SuccessExit {
		all = append(all, strconv.Itoa(code))
	}
	return strings.Join(append(all, policy.SuccessSignals...), " ")
}

func signalOf(stop supervise.StopProtocol) string {
	if stop.Signal == "" {
		return "SIGTERM"
	}
	return stop.Signal
}

// stopTime is the longest that a protocol takes: its command and its signal have a grace period
// each. 0 is for ever.
func stopTime(stop supervise.StopProtocol) time.Duration {
	if stop.Kill == supervise.KillNever {
		return 0
	}
	if stop.Command != nil {
		return 2 * stop.Timeout
	}
	return stop.Timeout
}

// span is a time as unit files have it; 0 is for ever.
func span(d, more time.Duration) string {
	if d <= 0 {
		return "infinity"
	}
	return strconv.FormatInt((d+more).Microseconds(), 10) + "us"
}

// quoteCommand is a command line that nothing in it is expanded of (systemd.service(5)).
func quoteCommand(argv []string) string {
	quoted := make([]string, len(argv))
	for i, arg := range argv {
		arg = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$", "\n", `\n`, "\r", `\r`).Replace(arg)
		quoted[i] = `"` + arg + `"`
	}
	return strings.Join(quoted, " ")
}

// logFields are by what the lines of a unit are found in the journal.
func (h *host) logFields(unit tenure.UnitID) sd.Property {
	return property("LogExtraFields", [][]byte{
		[]byte(unitField + "=" + unit.String()), []byte(rootField + "=" + h.names.prefix),
	})
}

func property(name string, value any) sd.Property {
	return sd.Property{Name: name, Value: dbus.MakeVariant(value)}
}

// transient are the properties of a service that is started once.
func (h *host) transient(name string, p *place) []sd.Property {
	properties := append(h.common(p),
		sd.PropExecStart(h.command(verbLaunch, name), false),
		property("Type", "exec"),
		property("KillMode", "process"),
		property("NotifyAccess", "all"),
		property("IgnoreSIGPIPE", false),
		property("OOMPolicy", "continue"),
		property("SyslogIdentifier", p.Unit.String()),
		h.logFields(p.Unit),
		property("LogRateLimitIntervalUSec", uint64(logInterval/time.Microsecond)),
		property("LogRateLimitBurst", uint32(logBurst)),
	)
	return properties
}

// scopeOf are the properties of a scope of processes that run already.
func (h *host) scopeOf(p *place, pids []uint32) []sd.Property {
	return append(h.common(p), property("PIDs", pids))
}

func (h *host) common(p *place) []sd.Property {
	properties := []sd.Property{
		property("Description", describe(p.Spec)),
		property("Slice", h.names.slice(p.Unit.Snap)),
		property("Delegate", true),
		property("CollectMode", "inactive-or-failed"),
		property("DefaultDependencies", true),
		property("Before", []string{endOfMachine}),
		property("SendSIGKILL", p.Spec.Stop.Kill != supervise.KillNever),
	}
	if timeout := stopTime(p.Spec.Stop); timeout > 0 {
		properties = append(properties, property("TimeoutStopUSec", uint64((timeout+stopNet).Microseconds()))) //nolint:gosec // It is positive.
	}
	return properties
}
