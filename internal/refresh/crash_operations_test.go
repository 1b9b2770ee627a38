package refresh

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"tenure"
)

// act is something that is asked of a machine.
type act func(context.Context, *mortal) error

// crashing is an operation: something to ask for, and the two states that may come of it.
type crashing struct {
	name          string
	prepare       []act
	ask           act
	before, after *model
	// fails is that it comes to nothing; then after is before.
	fails bool
	// between are states in which it has ended a change that it makes pointless, and not begun.
	between []*model
	// renews is that the service is another process when it is done.
	renews bool
	// boots is that it is the start of the machine after its end; ask is then nothing.
	boots bool
	// certain is that it happens whatever becomes of the daemon.
	certain bool
}

const (
	oneService  = "  svc: {command: bin/svc, daemon: notify, restart-condition: never}\n  say: {command: bin/say}\n"
	twoServices = oneService + "  two: {command: bin/two, daemon: notify, restart-condition: never}\n"
	badService  = oneService + "  broken: {command: bin/broken, daemon: notify, restart-condition: never}\n"
	handing     = "  svc: {command: bin/svc, daemon: notify, restart-condition: never, lifecycle: {refresh: handover}}\n"
	reloading   = "  svc: {command: bin/svc, daemon: notify, restart-condition: never, lifecycle: {refresh: reload}}\n"
	lasting     = "  svc: {command: bin/svc, daemon: notify, restart-condition: never, lifecycle: {refresh: endure}}\n"
	deferring   = "  svc: {command: bin/svc, daemon: notify, restart-condition: never, lifecycle: {refresh: defer}}\n"
	anotherSnap = "  it: {command: bin/it, daemon: notify, restart-condition: never}\n"
	badReload   = reloading + "  broken: {command: bin/broken, daemon: notify, restart-condition: never}\n"
	badHanding  = handing + "  broken: {command: bin/broken, daemon: notify, restart-condition: never}\n"
	badLasting  = lasting + "  broken: {command: bin/broken, daemon: notify, restart-condition: never}\n"
	badOther    = anotherSnap + "  broken: {command: bin/broken, daemon: notify, restart-condition: never}\n"
)

// allHooks are the hooks that are run in an operation below.
func allHooks() []string {
	return []string{"install", "default-configure", "configure", "pre-refresh", "post-refresh", "check-health", "remove"}
}

func asks(list ...act) []act { return list }

func request(req Request) act {
	return func(ctx context.Context, m *mortal) error {
		_, err := m.Do(ctx, req)
		return err
	}
}

// install installs the snap of these apps and hooks, or refreshes to it.
func install(apps string, hooks ...string) act {
	return func(ctx context.Context, m *mortal) error {
		return m.installFiles(ctx, m.file("probe", apps, hooks...))
	}
}

// installBoth is install for two snaps in one change.
func installBoth(apps, others string) act {
	return func(ctx context.Context, m *mortal) error {
		return m.installFiles(ctx, m.file("probe", apps), m.file("other", others))
	}
}

func (m *mortal) installFiles(ctx context.Context, files ...File) error {
	_, err := m.Do(ctx, Request{Action: ActionInstall, Files: files, Options: Options{Dangerous: true}})
	return err
}

// failing has the runs of a hook fail from now on.
func failing(hook string) act {
	return func(_ context.Context, m *mortal) error {
		return os.WriteFile(filepath.Join(m.dir, "fail-"+hook), nil, 0o600)
	}
}

func onProbe(action Action) act {
	return request(Request{Action: action, Snaps: []tenure.Instance{probe}})
}

func onOne(action Action) act {
	return request(Request{Action: action, Names: []string{"probe.svc"}})
}

func setting(snap, key, value string) act {
	return func(ctx context.Context, m *mortal) error {
		_, err := m.Configure(ctx, snap, map[string]json.RawMessage{key: json.RawMessage(value)})
		return err
	}
}

func alias(action string) act {
	return func(ctx context.Context, m *mortal) error {
		req := AliasRequest{Action: action, Snap: "probe", Alias: "tell"}
		if action == actionAlias {
			req.App = "say"
		}
		_, err := m.ChangeAliases(ctx, req)
		return err
	}
}

func hold(end bool) act {
	return func(ctx context.Context, m *mortal) error {
		_, err := m.Hold(ctx, HoldRequest{Snaps: []tenure.Instance{probe}, End: end})
		return err
	}
}

func save(ctx context.Context, m *mortal) error {
	_, _, err := m.Save(ctx, SnapshotRequest{Snaps: []tenure.Instance{probe}})
	return err
}

// ofFirst does something to the first set of snapshots.
func ofFirst(what func(context.Context, *mortal, SnapshotRequest) error) act {
	return func(ctx context.Context, m *mortal) error {
		sets, err := m.Snapshots(0, nil)
		if err != nil || len(sets) == 0 {
			return err
		}
		return what(ctx, m, SnapshotRequest{Set: sets[0].Set, Snaps: []tenure.Instance{probe}})
	}
}

func restoreSet(ctx context.Context, m *mortal, req SnapshotRequest) error {
	_, err := m.Restore(ctx, req)
	return err
}

func forgetSet(ctx context.Context, m *mortal, req SnapshotRequest) error {
	_, err := m.Forget(ctx, req)
	return err
}

// written has other data of the snap than what it has written itself.
func written(rev, text string) act {
	return func(_ context.Context, m *mortal) error {
		return os.WriteFile(filepath.Join(m.root(), "var/snap/probe", rev, "mark"), []byte(text), 0o600)
	}
}

// unmarked is that what follows is not marked as the snap would.
const unmarked = "x0"

// plain is the snap with one service and one command, on a revision, with those kept.
func plain(current int, kept ...int) *model {
	m := serving(current, kept...)
	m.commands = []string{"probe.say"}
	return m
}

// serving is plain without the command.
func serving(current int, kept ...int) *model {
	m := &model{kept: kept, current: current, units: []string{"svc " + x(current)}, written: map[int]string{}}
	for _, n := range kept {
		m.written[n] = x(n)
	}
	return m
}

// with is m, changed.
func (m *model) with(changes ...func(*model)) *model {
	other := *m
	other.written = maps.Clone(m.written)
	for _, change := range changes {
		change(&other)
	}
	return &other
}

func units(list ...string) func(*model) { return func(m *model) { m.units = list } }

// carried is what a refresh to a revision has as its data: a copy.
func carried(to, of int) func(*model) { return func(m *model) { m.written[to] = x(of) } }

func clean(m *model)                    { m.written = nil }
func conf(text string) func(*model)     { return func(m *model) { m.conf = text } }
func saved(m *model)                    { m.saved = 1 }
func onHold(m *model)                   { m.held = true }
func stoppedService(m *model)           { m.units, m.stopped = nil, []string{"svc"} }
func notRunning(m *model)               { m.units = nil }
func named(list ...string) func(*model) { return func(m *model) { m.commands = list } }

// and is m with the snap called other beside it.
func (m *model) and(current int, kept ...int) *model {
	other := serving(current, kept...)
	other.name, other.units = "other", []string{"it " + x(current)}
	return m.with(func(m *model) { m.beside = other })
}

// waiting is a snap whose next revision is staged.
func waiting() *model {
	return serving(1, 1).with(func(m *model) { m.staged, m.written[2] = 2, "x1" })
}

func operations() []crashing {
	return slices.Concat(installations(), refreshes(), stagings(), several(), controls(), settings(), savings(), boots())
}

func installations() []crashing {
	fresh := plain(1, 1).with(clean)
	return []crashing{
		{name: "install", ask: install(oneService), after: fresh},
		{name: "install with hooks", ask: install(oneService, allHooks()...), after: fresh},
		{name: "install that fails", ask: install(badService), fails: true},
		{name: "install whose hook fails", prepare: asks(failing("install")), ask: install(oneService, allHooks()...), fails: true},
		{name: "install whose configure fails", prepare: asks(failing("configure")), ask: install(oneService, allHooks()...), fails: true},
		{name: "remove", prepare: asks(install(oneService), install(oneService)), ask: onProbe(ActionRemove), before: plain(2, 1, 2)},
		{name: "remove with hooks", prepare: asks(install(oneService, allHooks()...)), ask: onProbe(ActionRemove), before: plain(1, 1)},
		{
			name: "remove what is saved", prepare: asks(setting(System, optionRetention, `"30d"`), install(oneService)), ask: onProbe(ActionRemove),
			before: plain(1, 1), after: (&model{}).with(saved),
		},
		{
			name: "remove a revision", prepare: asks(install(oneService), install(oneService)), before: plain(2, 1, 2), after: plain(2, 2),
			ask: request(Request{Action: ActionRemove, Snaps: []tenure.Instance{probe}, Revision: tenure.LocalRevision(1)}),
		},
	}
}

func refreshes() []crashing {
	two := plain(2, 1, 2).with(carried(2, 1))
	return []crashing{
		{name: "refresh, restart", prepare: asks(install(oneService)), ask: install(oneService), before: plain(1, 1), after: two},
		{name: "refresh with hooks", prepare: asks(install(oneService, allHooks()...)), ask: install(oneService, allHooks()...), before: plain(1, 1), after: two},
		{
			name: "refresh, the third", prepare: asks(install(oneService), install(oneService)), ask: install(oneService),
			before: plain(2, 1, 2), after: plain(3, 2, 3).with(carried(3, 2)),
		},
		{
			name: "refresh, a service more", prepare: asks(install(oneService)), ask: install(twoServices),
			before: plain(1, 1), after: two.with(units("svc x2", "two x2")),
		},
		{
			name: "refresh, a service less", prepare: asks(install(twoServices)), ask: install(oneService),
			before: plain(1, 1).with(units("svc x1", "two x1")), after: two,
		},
		{name: "refresh, undone", prepare: asks(install(oneService)), ask: install(badService), before: plain(1, 1), fails: true},
		{
			name: "refresh whose hook in the gap fails", prepare: asks(install(oneService, allHooks()...), failing("post-refresh")),
			ask: install(oneService, allHooks()...), before: plain(1, 1), fails: true,
		},
		{
			name: "refresh whose first hook fails", prepare: asks(install(oneService, allHooks()...), failing("pre-refresh")),
			ask: install(oneService, allHooks()...), before: plain(1, 1), fails: true,
		},
		{
			name: "refresh whose configure fails", prepare: asks(install(oneService, allHooks()...), setting("probe", "a", "1"), failing("configure")),
			ask: install(oneService, allHooks()...), before: plain(1, 1).with(conf(`{"a":1}`)), fails: true,
		},
		{
			name: "refresh, hand over", prepare: asks(install(handing)), ask: install(handing),
			before: serving(1, 1), after: serving(2, 1, 2).with(carried(2, 1)),
		},
		{name: "refresh, hand over, undone", prepare: asks(install(handing)), ask: install(badHanding), before: serving(1, 1), fails: true},
		{
			name: "refresh, reload", prepare: asks(install(reloading)), ask: install(reloading),
			before: serving(1, 1), after: serving(2, 1, 2).with(carried(2, 1)),
		},
		{name: "refresh, reload, undone", prepare: asks(install(reloading)), ask: install(badReload), before: serving(1, 1), fails: true},
		{
			name: "refresh, endure", prepare: asks(install(lasting)), ask: install(lasting),
			before: serving(1, 1), after: serving(2, 1, 2).with(units("svc x1"), carried(2, 1)),
		},
		{name: "refresh, endure, undone", prepare: asks(install(lasting)), ask: install(badLasting), before: serving(1, 1), fails: true},
		{name: "revert", prepare: asks(install(oneService), install(oneService)), ask: onProbe(ActionRevert), before: plain(2, 1, 2), after: plain(1, 1, 2)},
		{
			name: "collect", prepare: asks(install(lasting), install(lasting), install(lasting)), ask: onOne(ActionRestart), renews: true,
			before: serving(3, 1, 2, 3).with(units("svc x1")), after: serving(3, 2, 3),
		},
	}
}

func stagings() []crashing {
	staged, applied := asks(install(deferring), install(deferring)), serving(2, 1, 2).with(carried(2, 1))
	now := request(Request{Action: ActionRefresh, Snaps: []tenure.Instance{probe}, Options: Options{Now: true}})
	return []crashing{
		{name: "refresh, defer", prepare: asks(install(deferring)), ask: install(deferring), before: serving(1, 1), after: waiting()},
		{name: "apply what is staged", prepare: staged, ask: now, before: waiting(), after: applied},
		{name: "apply by restart", prepare: staged, ask: onOne(ActionRestart), before: waiting(), after: applied},
		{name: "remove what waits", prepare: staged, ask: onProbe(ActionRemove), before: waiting(), between: []*model{serving(1, 1)}},
		{
			name: "abort what is staged", prepare: staged, before: waiting(), after: serving(1, 1),
			ask: func(ctx context.Context, m *mortal) error { return m.abortLast(ctx) },
		},
	}
}

func several() []crashing {
	one, both := plain(1, 1).and(1, 1), installBoth(oneService, anotherSnap)
	two := plain(2, 1, 2).with(carried(2, 1)).and(2, 1, 2)
	two.beside = two.beside.with(carried(2, 1))
	fresh := plain(1, 1).with(clean).and(1, 1)
	fresh.beside = fresh.beside.with(clean)
	return []crashing{
		{name: "install two", ask: both, after: fresh},
		{name: "install two of which one fails", ask: installBoth(oneService, badOther), fails: true},
		{name: "refresh two", prepare: asks(both), ask: both, before: one, after: two},
		{name: "refresh two of which one fails", prepare: asks(both), ask: installBoth(oneService, badOther), before: one, fails: true},
		{name: "remove two", prepare: asks(both), ask: request(Request{Action: ActionRemove, Snaps: []tenure.Instance{probe, "other"}}), before: one},
	}
}

func controls() []crashing {
	installed := asks(install(oneService))
	stopped := plain(1, 1).with(stoppedService)
	disabled := plain(1, 1).with(notRunning, named(), func(m *model) { m.disabled = true })
	return []crashing{
		{name: "stop", prepare: installed, ask: onOne(ActionStop), before: plain(1, 1), after: stopped},
		{name: "start", prepare: asks(install(oneService), onOne(ActionStop)), ask: onOne(ActionStart), before: stopped, after: plain(1, 1)},
		{name: "restart", prepare: installed, ask: onOne(ActionRestart), before: plain(1, 1), after: plain(1, 1), renews: true},
		{name: "disable", prepare: installed, ask: onProbe(ActionDisable), before: plain(1, 1), after: disabled},
		{name: "enable", prepare: asks(install(oneService), onProbe(ActionDisable)), ask: onProbe(ActionEnable), before: disabled, after: plain(1, 1)},
	}
}

func settings() []crashing {
	hooked, set := asks(install(oneService, allHooks()...)), setting("probe", "a", "1")
	one := plain(1, 1).with(conf(`{"a":1}`))
	aliased := plain(1, 1).with(named("probe.say", "tell"))
	return []crashing{
		{name: "set", prepare: hooked, ask: set, before: plain(1, 1), after: one},
		{name: "unset", prepare: asks(hooked[0], set), ask: setting("probe", "a", "null"), before: one, after: plain(1, 1)},
		{name: "set that the hook refuses", prepare: asks(hooked[0], set, failing("configure")), ask: setting("probe", "a", "2"), before: one, fails: true},
		{name: "refresh with configuration", prepare: asks(hooked[0], set), ask: hooked[0], before: one, after: plain(2, 1, 2).with(carried(2, 1), conf(`{"a":1}`))},
		{
			name: "revert with configuration", prepare: asks(hooked[0], set, hooked[0], setting("probe", "a", "2")), ask: onProbe(ActionRevert),
			before: plain(2, 1, 2).with(conf(`{"a":2}`)), after: plain(1, 1, 2).with(conf(`{"a":1}`)),
		},
		{name: "alias", prepare: asks(install(oneService)), ask: alias(actionAlias), before: plain(1, 1), after: aliased},
		{name: "unalias", prepare: asks(install(oneService), alias(actionAlias)), ask: alias(actionUnalias), before: aliased, after: plain(1, 1)},
		{name: "remove with an alias", prepare: asks(install(oneService), alias(actionAlias)), ask: onProbe(ActionRemove), before: aliased},
		{name: "hold", prepare: asks(install(oneService)), ask: hold(false), before: plain(1, 1), after: plain(1, 1).with(onHold)},
		{name: "unhold", prepare: asks(install(oneService), hold(false)), ask: hold(true), before: plain(1, 1).with(onHold), after: plain(1, 1)},
		{name: "hold all", prepare: asks(install(oneService)), ask: setting(System, optionRetain, `"5"`), before: plain(1, 1), after: plain(1, 1)},
	}
}

func savings() []crashing {
	installed := asks(install(oneService))
	gone := plain(1, 1).with(stoppedService, saved)
	return []crashing{
		{name: "save", prepare: installed, ask: save, before: plain(1, 1), after: plain(1, 1).with(saved)},
		{name: "forget", prepare: asks(install(oneService), save), ask: ofFirst(forgetSet), before: plain(1, 1).with(saved), after: plain(1, 1)},
		{
			name: "restore", prepare: asks(install(oneService), save, onOne(ActionStop), written("x1", unmarked)), ask: ofFirst(restoreSet),
			before: gone.with(func(m *model) { m.written[1] = unmarked }), after: gone,
		},
	}
}

func boots() []crashing {
	return []crashing{
		{name: "boot", boots: true, certain: true, prepare: asks(install(oneService), install(oneService)), before: plain(2, 1, 2), after: plain(2, 1, 2)},
		{
			name: "boot with what is staged", boots: true, certain: true, prepare: asks(install(deferring), install(deferring)),
			before: waiting(), after: serving(2, 1, 2).with(carried(2, 1)),
		},
	}
}
