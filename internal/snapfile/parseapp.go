package snapfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tenure"
)

// restartNo is RestartNever in systemd's words, which the format takes as well.
const restartNo RestartCondition = "no"

const (
	maxAliases   = 64
	maxArguments = 128
	maxChain     = 32
	maxCommand   = 4096 // As long as a path may be (PATH_MAX).
	maxStatuses  = 64
)

// apps reads the map of apps and checks what they say of each other.
func (o *object) apps(snap string, slots []Plug) []App {
	v, found := o.take("apps")
	if !found {
		return nil
	}
	all := v.object(maxApps)
	var apps []App
	at := make(map[tenure.App]*object)
	for _, f := range all.fields {
		if !isApp(f.name) {
			f.fail("the name "+quote(f.name), acceptedApp)
			continue
		}
		inner := f.object(0)
		if !inner.isMap() && !f.isNull() {
			continue
		}
		app := inner.app(tenure.App(f.name), snap)
		inner.finish("adapter", "extensions", "passthrough")
		apps = append(apps, app)
		at[app.Name] = inner
	}
	slices.SortFunc(apps, func(a, b App) int { return compareStrings(a.Name, b.Name) })
	checkOrder(all, apps, at)
	checkUnique(apps, at)
	checkActivation(apps, at, slots)
	return apps
}

func (o *object) app(name tenure.App, snap string) App {
	app := App{
		Name:         name,
		Command:      o.command("command"),
		CommandChain: o.commandChain(),
		Environment:  o.environment(),
		Plugs:        o.plugNames("plugs"),
		Slots:        o.plugNames("slots"),
		Aliases:      sorted(o.texts("aliases", maxAliases, acceptedAlias, IsAlias)),
		Completer:    o.below("completer"),
		Desktop:      o.below("desktop"),
		Autostart:    o.text("autostart", "the name of a .desktop file", form(255, autostartForm)),
		CommonID:     o.text("common-id", "up to 255 of letters, digits and . _ + : -", form(255, commonIDForm)),
		BusName:      o.text("bus-name", "a D-Bus name, such as org.example.Name", form(255, busNameForm)),
		Daemon:       choice(o, "daemon", Simple, Forking, Oneshot, Notify, DBus),
	}
	if v, found := o.take("command"); !found || v.isEmpty() {
		o.missing("command", acceptedCommand)
	}
	o.stopProtocol(&app)
	o.service(&app, snap)
	o.refreshMode(&app)
	app.Lifecycle = o.lifecycle()
	if v, found := o.take("sockets"); found && app.Lifecycle.Instances {
		v.fail(v.describe()+" with instances: true", "no sockets, for all instances would listen at one address")
	}
	return app
}

// stopProtocol reads what ends the app, and what follows.
func (o *object) stopProtocol(app *App) {
	app.StopCommand = o.command("stop-command")
	app.PostStopCommand = o.command("post-stop-command")
	app.ReloadCommand = o.command("reload-command")
	app.SuccessExitStatus = o.exitStatuses()
	app.StopMode = choice(o, "stop-mode", StopTerm, StopTermAll, StopHup, StopHupAll, StopUsr1, StopUsr1All, StopUsr2, StopUsr2All, StopInt, StopIntAll)
	app.StopTimeout, _ = o.duration("stop-timeout")
	o.onlyServices(app, "stop-mode", "stop-timeout", "success-exit-status")
}

// service reads the keys of services and refuses them elsewhere.
func (o *object) service(app *App, snap string) {
	app.DaemonScope = choice(o, "daemon-scope", ScopeSystem, ScopeUser)
	app.InstallMode = choice(o, "install-mode", InstallEnable, InstallDisable)
	app.StartTimeout, _ = o.duration("start-timeout")
	app.WatchdogTimeout, _ = o.duration("watchdog-timeout")
	app.RestartDelay, _ = o.duration("restart-delay")
	app.RestartCondition = choice(o, "restart-condition", RestartOnFailure, RestartOnSuccess, RestartOnAbnormal, RestartOnAbort, RestartOnWatchdog, RestartAlways, RestartNever, restartNo)
	if app.RestartCondition == restartNo {
		app.RestartCondition = RestartNever
	}
	app.After = o.appNames("after")
	app.Before = o.appNames("before")
	app.ActivatesOn = o.plugNames("activates-on")
	app.Timer = o.text("timer", acceptedTimer, isTimer)
	o.onlyServices(app, "daemon-scope", "install-mode", "start-timeout", "watchdog-timeout", "restart-delay",
		"restart-condition", "after", "before", "activates-on", "timer", "sockets", "lifecycle")
	if app.IsService() && app.DaemonScope == "" {
		app.DaemonScope = ScopeSystem
	}
	app.Sockets = o.sockets(app, snap)
	if app.Daemon == DBus && o.byName["bus-name"] == nil && o.byName["activates-on"] == nil {
		o.missing("bus-name", "a D-Bus name, or activates-on, with daemon: dbus")
	}
}

func (o *object) onlyServices(app *App, keys ...string) {
	if _, declared := o.take("daemon"); app.IsService() || declared {
		return // A wrong daemon is reported by itself.
	}
	for _, key := range keys {
		if v, found := o.take(key); found {
			v.fail(v.describe()+" without daemon", "this key for services only")
		}
	}
}

func (o *object) refreshMode(app *App) {
	v, found := o.take("refresh-mode")
	switch {
	case !found:
	case app.IsService():
		app.RefreshMode = choiceOf(v, RefreshRestart, RefreshEndure)
	default:
		app.RefreshMode = choiceOf(v, RefreshIgnoreRunning)
	}
}

// command splits a command line at spaces: the format has no quoting.
func (o *object) command(key string) Command {
	v, found := o.take(key)
	if !found || v.isEmpty() {
		return nil
	}
	line := v.text(acceptedCommand, form(maxCommand, commandForm))
	words := strings.Fields(line)
	if line == "" {
		return nil
	}
	if len(words) == 0 || len(words) > maxArguments {
		v.fail(fmt.Sprintf("%d words", len(words)), fmt.Sprintf("a program and at most %d arguments", maxArguments-1))
		return nil
	}
	program, ok := belowSnap(words[0])
	if !ok {
		v.wants(acceptedCommand)
		return nil
	}
	words[0] = program
	return words
}

// commandChain is a list of programs without arguments.
func (o *object) commandChain() []Command {
	v, found := o.take("command-chain")
	if !found {
		return nil
	}
	var chain []Command
	for _, entry := range v.list(maxChain, "a list of programs") {
		program := ""
		entry.text(acceptedChain, func(s string) (ok bool) {
			program, ok = belowSnap(s)
			return ok && form(1024, chainForm)(s)
		})
		if program != "" {
			chain = append(chain, Command{program})
		}
	}
	return chain
}

// below is a cleaned path below the snap.
func (o *object) below(key string) string {
	s := o.text(key, acceptedBelow, func(s string) bool {
		_, ok := belowSnap(s)
		return ok && len(s) <= 1024
	})
	s, _ = belowSnap(s)
	return s
}

// exitStatuses reads numbers and names of signals.
func (o *object) exitStatuses() ExitStatuses {
	const accepted = "exit codes from 0 to 255, and names of signals such as SIGUSR1"
	var statuses ExitStatuses
	for _, s := range o.texts("success-exit-status", maxStatuses, accepted, isExitStatus) {
		if code, err := strconv.Atoi(s); err == nil {
			statuses.Codes = append(statuses.Codes, code)
		} else {
			statuses.Signals = append(statuses.Signals, Signal(strings.ToLower(s)))
		}
	}
	slices.Sort(statuses.Codes)
	statuses.Codes = slices.Compact(statuses.Codes)
	statuses.Signals = sorted(statuses.Signals)
	return statuses
}

func isExitStatus(s string) bool {
	if n, ok := number(s); ok {
		return n <= 255
	}
	return signalNumbers()[strings.ToLower(s)] != 0
}

func (o *object) appNames(key string) []tenure.App {
	var names []tenure.App
	for _, name := range o.texts(key, maxApps, "names of services of this snap", isApp) {
		names = append(names, tenure.App(name))
	}
	return sorted(names)
}

// checkOrder reports names in after and before that are no services of the same
// scope, and cycles.
func checkOrder(all *object, apps []App, at map[tenure.App]*object) {
	services := make(map[tenure.App]DaemonScope)
	for i := range apps {
		if apps[i].IsService() {
			services[apps[i].Name] = apps[i].DaemonScope
		}
	}
	sound := true
	for i := range apps {
		app := &apps[i]
		foreign := func(name tenure.App) bool {
			scope, known := services[name]
			return !known || scope != app.DaemonScope
		}
		sound = at[app.Name].refuseNames("after", app.After, foreign) && sound
		sound = at[app.Name].refuseNames("before", app.Before, foreign) && sound
	}
	if _, stuck := startOrder(apps); sound && len(stuck) > 0 {
		names := make([]string, len(stuck))
		for i, name := range stuck {
			names[i] = string(name)
		}
		all.fail("a cycle of after and before among "+clip(strings.Join(names, ", ")), "an order in which each can start")
	}
}

// refuseNames reports the names of the list called key that are foreign.
func (o *object) refuseNames(key string, names []tenure.App, foreign func(tenure.App) bool) bool {
	sound := true
	for _, name := range names {
		if foreign(name) {
			v, _ := o.take(key)
			v.fail(quote(string(name)), "names of services of this snap and of the same daemon-scope")
			sound = false
		}
	}
	return sound
}

// checkUnique reports aliases and common-ids that two apps claim.
func checkUnique(apps []App, at map[tenure.App]*object) {
	owners := make(map[string]tenure.App)
	claim := func(app *App, key, name string) {
		if other, taken := owners[key+name]; taken {
			v, _ := at[app.Name].take(key)
			v.fail(fmt.Sprintf("%s, which %s has", quote(name), other), "a name of its own")
		}
		owners[key+name] = app.Name
	}
	for i := range apps {
		for _, alias := range apps[i].Aliases {
			claim(&apps[i], "aliases", alias)
		}
		if apps[i].CommonID != "" {
			claim(&apps[i], "common-id", apps[i].CommonID)
		}
	}
}

// checkActivation reports slots in activates-on that are not names on the bus of
// the service's scope.
func checkActivation(apps []App, at map[tenure.App]*object, slots []Plug) {
	declared := make(map[string]Plug, len(slots))
	for _, slot := range slots {
		declared[slot.Name] = slot
	}
	for i := range apps {
		bus := "system"
		if apps[i].DaemonScope == ScopeUser {
			bus = "session"
		}
		for _, name := range apps[i].ActivatesOn {
			slot, found := declared[name]
			if !found {
				slot.Interface = name
			}
			v, _ := at[apps[i].Name].take("activates-on")
			switch on, set := slot.Attrs["bus"]; {
			case slot.Interface != "dbus":
				v.fail(quote(name)+", a slot of the interface "+clip(slot.Interface), "slots of the interface dbus")
			case set && on != bus:
				v.fail(fmt.Sprintf("%s, a slot on the bus %s", quote(name), quote(fmt.Sprint(on))), "slots on the bus "+bus)
			}
		}
	}
}
