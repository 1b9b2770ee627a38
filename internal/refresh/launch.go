package refresh

import (
	"path/filepath"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// rootHome is the home directory that services have.
const rootHome = "/root"

func cutEnv(entry string) (name, value string, ok bool) { return strings.Cut(entry, "=") }

// launcher resolves what packages declare into what a supervisor carries out.
type launcher struct {
	paths Paths
	// snapctl is the program that packages call.
	snapctl string
	// usernames is the directory with the passwd and group files that units see.
	usernames string
}

// service is the Spec of one service of r.
func (l launcher) service(r *installed, app *snapfile.App) supervise.Spec {
	return l.instance(r, app, "", nil)
}

// instance is the Spec of one instance of a service template of r; without a name it
// is that of a service.
func (l launcher) instance(r *installed, app *snapfile.App, at string, args []string) supervise.Spec {
	var own []string
	if at != "" {
		own = []string{"SNAP_LIFECYCLE_INSTANCE=" + at}
	}
	command := l.commands(r, app, own...)
	spec := supervise.Spec{
		Unit:         tenure.InstanceUnit(r.Ref.Snap, app.Name, at),
		Revision:     r.Ref.Revision,
		Base:         r.Base,
		Type:         supervise.Type(app.Daemon),
		Command:      *command(app.Command),
		Profile:      l.profile(r, app),
		Reload:       command(app.ReloadCommand),
		PostStop:     command(app.PostStopCommand),
		Stop:         stopProtocol(app, command),
		StartTimeout: app.EffectiveStartTimeout(),
		Watchdog:     app.WatchdogTimeout,
		Restart: supervise.RestartPolicy{
			Condition:   supervise.RestartCondition(app.EffectiveRestartCondition()),
			Delay:       app.EffectiveRestartDelay(),
			SuccessExit: app.SuccessExitStatus.Codes,
		},
		After:   after(r, app),
		Timer:   app.Timer,
		BusName: busName(r, app),
	}
	spec.Command.Argv = append(spec.Command.Argv, args...)
	for _, signal := range app.SuccessExitStatus.Signals {
		spec.Restart.SuccessSignals = append(spec.Restart.SuccessSignals, signalName(signal.Number()))
	}
	for i := range app.Sockets {
		spec.Sockets = append(spec.Sockets, l.socket(r, &app.Sockets[i]))
	}
	for i := range app.Lifecycle.Workloads {
		declared := &app.Lifecycle.Workloads[i]
		spec.Workloads = append(spec.Workloads, supervise.Workload{
			Name:  declared.Name,
			Match: declared.Match,
			Stop:  workloadStop(app, declared, command),
		})
	}
	return spec
}

// commands makes commands of app runnable: the command chain in front, paths
// and variables resolved as the unit sees them, with own in their environment. It maps
// no command to nil.
func (l launcher) commands(r *installed, app *snapfile.App, own ...string) func(snapfile.Command) *supervise.Command {
	v := l.paths.view(r, l.home())
	env := append(l.paths.environ(r, app.Environment, user{home: l.home()}), own...)
	lookup := newEnviron(env).get
	var chain []string
	for _, link := range app.CommandChain {
		chain = append(chain, link.Expand(v.snap, lookup)...)
	}
	return func(c snapfile.Command) *supervise.Command {
		if len(c) == 0 {
			return nil
		}
		return &supervise.Command{
			Argv: slices.Concat(chain, c.Expand(v.snap, lookup)),
			Env:  env,
			Dir:  v.data,
		}
	}
}

// home is root's home directory as confined units see it; a private instance
// has one of its own below its root.
func (l launcher) home() string { return rootHome }

func stopProtocol(app *snapfile.App, command func(snapfile.Command) *supervise.Command) supervise.StopProtocol {
	mode := app.EffectiveStopMode()
	protocol := supervise.StopProtocol{
		Command: command(app.StopCommand),
		Signal:  signalName(mode.Signal()),
		Target:  supervise.TargetMain,
		Timeout: app.EffectiveStopTimeout(),
		Kill:    supervise.KillAfterTimeout,
	}
	if mode.All() {
		protocol.Target = supervise.TargetGroup
	}
	if !app.Lifecycle.MayKill() {
		protocol.Kill = supervise.KillNever
	}
	return protocol
}

func workloadStop(app *snapfile.App, w *snapfile.Workload, command func(snapfile.Command) *supervise.Command) supervise.StopProtocol {
	protocol := supervise.StopProtocol{
		Command: command(w.StopCommand),
		Signal:  signalName(app.EffectiveStopMode().Signal()),
		Target:  supervise.TargetGroup,
		Timeout: app.EffectiveWorkloadStopTimeout(w),
		Kill:    supervise.KillAfterTimeout,
	}
	if number := w.StopSignal.Number(); number != 0 {
		protocol.Signal = signalName(number)
	}
	if !app.MayKillWorkload(w) {
		protocol.Kill = supervise.KillNever
	}
	return protocol
}

// busName is the name that makes a service of type dbus ready: its own, or else
// that of the last slot that it is to be activated on.
func busName(r *installed, app *snapfile.App) string {
	name := app.BusName
	for _, slot := range r.Info.Slots {
		if app.BusName == "" && slices.Contains(app.ActivatesOn, slot.Name) {
			name, _ = slot.Attrs["name"].(string)
		}
	}
	return name
}

// after are the services that app starts after: those that it names, and those
// that name it in their before.
func after(r *installed, app *snapfile.App) []tenure.UnitID {
	var units []tenure.UnitID
	for i := range r.Info.Apps {
		other := &r.Info.Apps[i]
		if slices.Contains(app.After, other.Name) || slices.Contains(other.Before, app.Name) {
			units = append(units, tenure.ServiceUnit(r.Ref.Snap, other.Name))
		}
	}
	return units
}

func (l launcher) socket(r *installed, s *snapfile.Socket) supervise.Socket {
	socket := supervise.Socket{Name: s.Name, Network: s.Network, Address: s.Address, Mode: s.EffectiveMode()}
	if s.Network != "unix" {
		return socket
	}
	if name, abstract := strings.CutPrefix(s.Address, "@"); abstract {
		socket.Network, socket.Address = "unix-abstract", name
		return socket
	}
	for variable, dir := range map[string]string{
		"$SNAP_DATA":   l.paths.Data(r.Ref),
		"$SNAP_COMMON": l.paths.Common(r.Ref.Snap),
	} {
		if rest, ok := strings.CutPrefix(s.Address, variable+"/"); ok {
			socket.Address = filepath.Join(dir, rest)
		}
	}
	return socket
}
