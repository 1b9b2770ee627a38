package test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tenure/client"
	"tenure/test/rig"
)

// operation is something that somebody asks for, and the two states that there may be
// of the snap called probe afterwards.
type operation struct {
	name, verdict string
	// prepare brings about what there is before, when there is no snap.
	prepare func(context.Context, *matrix)
	// ask asks for it, and may fail for all reasons.
	ask           func(context.Context, *matrix) error
	before, after model
	// between are states in which it has ended a change that it makes pointless, and not begun.
	between []model
	// fails is that it comes to nothing; then after is before.
	fails bool
	// certain is that it happens whatever becomes of the daemon.
	certain bool
	// lives are units, or words of command lines, whose processes live on, whatever comes of it.
	lives []string
	// boots is that it is the start of the machine, after its end; ask is then nothing.
	boots bool
	// renews is that a process goes on from the next revision with the environment that it had.
	renews bool
}

// The apps of the probe.
const (
	plainApp = `
svc:
	daemon: notify
	command: PROBE trap notify:READY:1 run
	restart-condition: never
say:
	command: bin/probe say
`
	reloadingApp = `
svc:
	daemon: notify
	command: PROBE trap renew notify:MAINPID:SELF#READY:1 run
	restart-condition: never
	lifecycle: {refresh: reload}
`
	handingApp = `
svc:
	daemon: notify
	command: PROBE trap notify:READY:1 run
	restart-condition: never
	lifecycle: {refresh: handover}
`
	enduringApp = `
svc:
	daemon: notify
	command: PROBE trap notify:READY:1 run
	restart-condition: never
	lifecycle: {refresh: endure}
vms:
	daemon: notify
	command: PROBE trap child:vm/trap/report:up/run notify:READY:1 run
	stop-mode: sigterm
	restart-condition: never
	lifecycle: {workloads: {vm: {match: ' vms\.vm ', refresh: endure}}}
`
	deferringApp = `
svc:
	daemon: notify
	command: PROBE trap notify:READY:1 run
	restart-condition: always
	lifecycle: {refresh: defer, kill: never}
`
	twoApps = `
one:
	daemon: notify
	command: PROBE trap notify:READY:1 run
	restart-condition: never
two:
	daemon: notify
	command: PROBE trap notify:READY:1 run
	restart-condition: never
	after: [one]
`
	oneApp = `
one:
	daemon: notify
	command: PROBE trap notify:READY:1 run
	restart-condition: never
`
	otherApp = `
it:
	daemon: notify
	command: PROBE trap notify:READY:1 run
	restart-condition: never
`
	brokenOther = `
it:
	daemon: notify
	command: PROBE exit:1
	restart-condition: never
`
	brokenApp = `
svc:
	daemon: notify
	command: PROBE exit:1
	restart-condition: never
`
)

// allSnaps are the snap files of the operations, by their names.
func allSnaps(t *testing.T) map[string]string {
	t.Helper()
	bin, err := rig.Build(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	program := buildProbe(t)
	files := map[string]string{}
	hooks := func(names ...string) map[string]string {
		steps := map[string]string{}
		for _, name := range names {
			steps[name] = "report:runs"
		}
		return steps
	}
	failing := func(name string) map[string]string {
		steps := hooks("install", "configure", "post-refresh")
		steps[name] = "exit:1"
		return steps
	}
	all := hooks("install", "default-configure", "pre-refresh", "post-refresh", "remove", "check-health")
	all["configure"] = "refuse:refuse"
	for name, made := range map[string]struct {
		apps  string
		hooks map[string]string
	}{
		"other": {apps: otherApp}, "bad other": {apps: brokenOther}, "classic": {apps: plainApp}, "plain": {apps: plainApp}, "reload": {apps: reloadingApp}, "handover": {apps: handingApp}, "endure": {apps: enduringApp},
		"defer": {apps: deferringApp}, "two": {apps: twoApps}, "one": {apps: oneApp}, "broken": {apps: brokenApp},
		"hooked": {plainApp, all}, "bad install": {plainApp, failing("install")}, "bad post-refresh": {plainApp, failing("post-refresh")},
	} {
		dir := t.TempDir()
		yaml := probeYAML("1", splitApps(made.apps)...)
		switch name {
		case "other", "bad other":
			yaml = strings.Replace(yaml, "name: probe", "name: other", 1)
		case "classic":
			yaml = strings.Replace(yaml, "confinement: strict", "confinement: classic", 1)
		}
		writeFile(t, filepath.Join(dir, "meta/snap.yaml"), yaml)
		writeFile(t, filepath.Join(dir, "bin/README"), "")
		putProgram(t, program, filepath.Join(dir, "bin/probe"))
		for hook, steps := range made.hooks {
			writeFile(t, filepath.Join(dir, "steps", hook), steps)
			writeFile(t, filepath.Join(dir, "meta/hooks/README"), "")
			putProgram(t, program, filepath.Join(dir, "meta/hooks", hook))
		}
		files[name] = filepath.Join(t.TempDir(), "probe.snap")
		pack := exec.CommandContext(t.Context(), filepath.Join(bin, "tenure"), "pack", "--compression", "lz4", dir, files[name]) //nolint:gosec // Ours.
		if out, err := pack.CombinedOutput(); err != nil {
			t.Fatalf("pack %s: %v\n%s", name, err, out)
		}
	}
	return files
}

// manyFiles asks for something with several files in one change.
func manyFiles(verb string, names ...string) func(context.Context, *matrix) error {
	return func(ctx context.Context, m *matrix) error {
		a := client.Action{Action: verb, Dangerous: true}
		for _, name := range names {
			a.Files = append(a.Files, m.files[name])
		}
		return action(a)(ctx, m)
	}
}

func action(a client.Action) func(context.Context, *matrix) error {
	return func(ctx context.Context, m *matrix) error {
		_, err := m.Client().Do(ctx, a)
		return err
	}
}

func file(verb, name string) func(context.Context, *matrix) error {
	return func(ctx context.Context, m *matrix) error {
		return action(client.Action{Action: verb, Files: []string{m.files[name]}, Dangerous: true})(ctx, m)
	}
}

func on(verb string) client.Action { return client.Action{Action: verb, Snaps: []string{"probe"}} }

func onService(verb string) client.Action {
	return client.Action{Action: verb, Names: []string{"probe.svc"}}
}

// steps are carried out one after another, each to its end.
func steps(list ...func(context.Context, *matrix) error) func(context.Context, *matrix) {
	return func(ctx context.Context, m *matrix) {
		m.t.Helper()
		for _, step := range list {
			if err := step(ctx, m); err != nil {
				m.t.Fatal(err)
			}
			m.settle(ctx)
			m.mark()
		}
	}
}

func nothingThere(context.Context, *matrix) {}

// plain is the snap with one service, on a revision, with those kept.
func plain(current int, kept ...int) model {
	m := model{kept: kept, current: current, units: []string{"svc " + x(current)}, commands: []string{"probe.say"}, written: map[int]string{}}
	for _, n := range kept {
		m.written[n] = x(n)
	}
	return m
}

// serving is plain without the command.
func serving(current int, kept ...int) model {
	m := plain(current, kept...)
	m.commands = nil
	return m
}

// with is m, changed.
func (m model) with(change func(*model)) model {
	m.units, m.written = slices.Clone(m.units), maps.Clone(m.written)
	change(&m)
	return m
}

// carried is what a refresh to a revision has as its data: a copy.
func carried(to, of int) func(*model) { return func(m *model) { m.written[to] = x(of) } }

// operations are all, the longest first.
func operations() []operation {
	return slices.Concat(several(), refreshes(), installations(), stagings(), boots(), controls(), savings(), settings())
}

// title is the name with the verdict.
func (op *operation) title() string { return strings.TrimSpace(op.name + " " + op.verdict) }

func installations() []operation {
	fresh := plain(1, 1).with(func(m *model) { m.written = nil })
	return []operation{
		{name: "install", prepare: nothingThere, ask: file("install", "plain"), after: fresh},
		{name: "install with hooks", prepare: nothingThere, ask: file("install", "hooked"), after: fresh},
		{name: "install that fails", verdict: "undone", prepare: nothingThere, ask: file("install", "broken"), fails: true},
		{name: "install whose hook fails", verdict: "undone", prepare: nothingThere, ask: file("install", "bad install"), fails: true},
		{
			name: "remove", verdict: "stop", prepare: steps(file("install", "plain"), file("refresh", "plain")),
			ask: action(on("remove")), before: plain(2, 1, 2),
		},
		{name: "remove with hooks", verdict: "stop", prepare: steps(file("install", "hooked")), ask: action(on("remove")), before: plain(1, 1)},
		{
			name: "remove what is saved", verdict: "stop", prepare: steps(setting("snapshots.automatic.retention", "30d"), file("install", "plain")),
			ask: action(on("remove")), before: plain(1, 1), after: model{saved: 1},
		},
		{
			name: "remove a revision", prepare: steps(file("install", "plain"), file("refresh", "plain")),
			ask:    action(client.Action{Action: "remove", Snaps: []string{"probe"}, Revision: "x1"}),
			before: plain(2, 1, 2), after: plain(2, 2),
		},
	}
}

func refreshes() []operation {
	return []operation{
		{
			name: "refresh", verdict: "restart", prepare: steps(file("install", "plain")), ask: file("refresh", "plain"),
			before: plain(1, 1), after: plain(2, 1, 2).with(carried(2, 1)),
		},
		{
			name: "third refresh", verdict: "restart", prepare: steps(file("install", "plain"), file("refresh", "plain")), ask: file("refresh", "plain"),
			before: plain(2, 1, 2), after: plain(3, 2, 3).with(carried(3, 2)),
		},
		{
			name: "refresh with hooks", verdict: "restart", prepare: steps(file("install", "hooked")), ask: file("refresh", "hooked"),
			before: plain(1, 1), after: plain(2, 1, 2).with(carried(2, 1)),
		},
		{
			name: "refresh", verdict: "reload", prepare: steps(file("install", "reload")), ask: file("refresh", "reload"), renews: true,
			before: serving(1, 1), after: serving(2, 1, 2).with(carried(2, 1)),
		},
		{
			name: "refresh", verdict: "hand over", prepare: steps(file("install", "handover")), ask: file("refresh", "handover"),
			before: serving(1, 1), after: serving(2, 1, 2).with(carried(2, 1)),
		},
		{
			name: "refresh", verdict: "endure", prepare: steps(file("install", "endure")), ask: file("refresh", "endure"), lives: []string{"probe.svc", " vms.vm "},
			before: serving(1, 1).with(units("svc x1", "vms x1")),
			after:  serving(2, 1, 2).with(units("svc x1", "vms x2", "vms/vm.# x1")).with(carried(2, 1)),
		},
		{
			name: "refresh", verdict: "defer", prepare: steps(file("install", "defer")), ask: file("refresh", "defer"), lives: []string{"probe.svc"},
			before: serving(1, 1), after: waits(),
		},
		{
			name: "refresh", verdict: "stop", prepare: steps(file("install", "two")), ask: file("refresh", "one"),
			before: serving(1, 1).with(units("one x1", "two x1")),
			after:  serving(2, 1, 2).with(units("one x2")).with(carried(2, 1)),
		},
		{name: "refresh that fails", verdict: "undone", prepare: steps(file("install", "plain")), ask: file("refresh", "broken"), fails: true, before: plain(1, 1)},
		{
			name: "refresh whose hook fails", verdict: "undone", prepare: steps(file("install", "plain")), ask: file("refresh", "bad post-refresh"),
			fails: true, before: plain(1, 1),
		},
		{name: "refresh that is refused", verdict: "refuse", prepare: steps(file("install", "plain")), ask: file("refresh", "classic"), fails: true, before: plain(1, 1)},
		{
			name: "revert", verdict: "restart", prepare: steps(file("install", "plain"), file("refresh", "plain")), ask: action(on("revert")),
			before: plain(2, 1, 2), after: plain(1, 1, 2),
		},
	}
}

// and is m with the snap called other beside it, on a revision, with those kept.
func (m model) and(current int, kept ...int) model {
	m.beside = []model{{name: "other", kept: kept, current: current, units: []string{"it " + x(current)}}}
	return m
}

// several are changes of two snaps at once, which are of both or of none.
func several() []operation {
	both := manyFiles("install", "plain", "other")
	fresh := plain(1, 1).with(func(m *model) { m.written = nil })
	remove := client.Action{Action: "remove", Snaps: []string{"probe", "other"}}
	refreshed := plain(2, 1, 2).with(carried(2, 1)).and(2, 1, 2)
	return []operation{
		{name: "install two", prepare: nothingThere, ask: both, after: fresh.and(1, 1)},
		{name: "install two of which one fails", verdict: "undone", prepare: nothingThere, ask: manyFiles("install", "plain", "bad other"), fails: true},
		{name: "refresh two", verdict: "restart", prepare: steps(both), ask: manyFiles("refresh", "plain", "other"), before: plain(1, 1).and(1, 1), after: refreshed},
		{
			name: "refresh two of which one fails", verdict: "undone", prepare: steps(both), ask: manyFiles("refresh", "plain", "bad other"),
			fails: true, before: plain(1, 1).and(1, 1),
		},
		{name: "remove two", verdict: "stop", prepare: steps(both), ask: action(remove), before: plain(1, 1).and(1, 1)},
	}
}

// boots are starts of the machine.
func boots() []operation {
	nothing := func(context.Context, *matrix) error { return nil }
	return []operation{
		{
			name: "boot", boots: true, certain: true, prepare: steps(file("install", "plain"), file("refresh", "plain")), ask: nothing,
			before: plain(2, 1, 2), after: plain(2, 1, 2),
		},
		{
			name: "boot with what is staged", verdict: "restart", boots: true, certain: true,
			prepare: steps(file("install", "defer"), file("refresh", "defer")), ask: nothing,
			before: waits(), after: serving(2, 1, 2).with(carried(2, 1)),
		},
	}
}

func units(list ...string) func(*model) { return func(m *model) { m.units = list } }

// waits is a snap whose next revision is staged.
func waits() model {
	return serving(1, 1).with(func(m *model) { m.staged, m.written[2] = 2, "x1" })
}

func stagings() []operation {
	staged := steps(file("install", "defer"), file("refresh", "defer"))
	applied := serving(2, 1, 2).with(carried(2, 1))
	now := client.Action{Action: "refresh", Snaps: []string{"probe"}, Now: true}
	return []operation{
		{name: "apply what is staged", verdict: "restart", prepare: staged, ask: action(now), before: waits(), after: applied},
		{name: "apply by restart", verdict: "restart", prepare: staged, ask: action(onService("restart")), before: waits(), after: applied},
		{
			name: "apply at the end of the service", verdict: "restart", prepare: staged, before: waits(), after: applied, certain: true,
			ask: func(ctx context.Context, m *matrix) error {
				units, err := m.Client().Units(ctx) // It may die before it answers.
				for i := range units {
					at := slices.IndexFunc(units[i].Processes, func(p client.Process) bool { return p.Main })
					if units[i].ID == "probe.svc" && at >= 0 {
						return syscall.Kill(units[i].Processes[at].PID, syscall.SIGKILL)
					}
				}
				return err
			},
		},
		{
			name: "abort what is staged", verdict: "undone", prepare: staged, before: waits(), after: serving(1, 1), lives: []string{"probe.svc"},
			ask: func(ctx context.Context, m *matrix) error {
				changes, err := m.Client().Changes(ctx, "in-progress", "probe")
				if err == nil && len(changes) == 0 {
					changes, err = m.Client().Changes(ctx, "all", "probe")
				}
				if err != nil {
					return err
				}
				_, err = m.Client().Abort(ctx, changes[len(changes)-1].ID)
				return err
			},
		},
		{
			name: "remove what waits", verdict: "stop", prepare: staged, ask: action(on("remove")),
			before: waits(), between: []model{serving(1, 1)},
		},
		{
			name: "collect", prepare: steps(file("install", "endure"), file("refresh", "endure"), restartService, file("refresh", "endure")), certain: true,
			ask: func(ctx context.Context, m *matrix) error {
				units, err := m.Client().Units(ctx) // It may die before it answers.
				for i := range units {
					if u := &units[i]; trailingPID.MatchString(u.ID) && u.Revision == "x1" {
						return syscall.Kill(u.Processes[0].PID, syscall.SIGKILL)
					}
				}
				return err
			},
			before: serving(3, 1, 2, 3).with(units("svc x2", "vms x3", "vms/vm.# x1", "vms/vm.# x2")),
			after:  serving(3, 2, 3).with(units("svc x2", "vms x3", "vms/vm.# x2")),
		},
	}
}

func restartService(ctx context.Context, m *matrix) error {
	return action(onService("restart"))(ctx, m)
}

func setting(key string, value any) func(context.Context, *matrix) error {
	return configure("system", map[string]any{key: value})
}

func configure(snap string, patch map[string]any) func(context.Context, *matrix) error {
	return func(ctx context.Context, m *matrix) error {
		_, err := m.Client().SetConf(ctx, snap, patch)
		return err
	}
}

func controls() []operation {
	disabled := plain(1, 1).with(func(m *model) { m.disabled, m.units, m.off, m.commands = true, nil, []string{"svc"}, nil })
	installed := steps(file("install", "plain"))
	stopped := plain(1, 1).with(units())
	off := func(m *model) { m.off = []string{"svc"} }
	return []operation{
		{name: "stop", verdict: "stop", prepare: installed, ask: action(onService("stop")), before: plain(1, 1), after: stopped},
		{
			name: "stop and disable the service", verdict: "stop", prepare: installed, before: plain(1, 1), after: stopped.with(off),
			ask: action(client.Action{Action: "stop", Names: []string{"probe.svc"}, Disable: true}),
		},
		{name: "start", prepare: steps(file("install", "plain"), action(onService("stop"))), ask: action(onService("start")), before: stopped, after: plain(1, 1)},
		{name: "restart", verdict: "restart", prepare: installed, ask: restartService, before: plain(1, 1), after: plain(1, 1)},
		{
			name: "disable", verdict: "stop", prepare: installed, ask: action(on("disable")), before: plain(1, 1),
			after: disabled,
		},
		{
			name: "enable", prepare: steps(file("install", "plain"), action(on("disable"))), ask: action(on("enable")),
			before: disabled, after: plain(1, 1),
		},
	}
}

func settings() []operation {
	installed := steps(file("install", "plain"))
	conf := func(text string) func(*model) { return func(m *model) { m.conf = text } }
	one := configure("probe", map[string]any{"a.b": 1, "c": "d"})
	return []operation{
		{name: "set", prepare: steps(file("install", "hooked")), ask: one, before: plain(1, 1), after: plain(1, 1).with(conf(`{"a":{"b":1},"c":"d"}`))},
		{
			name: "unset", prepare: steps(file("install", "hooked"), one), ask: configure("probe", map[string]any{"a": nil}),
			before: plain(1, 1).with(conf(`{"a":{"b":1},"c":"d"}`)), after: plain(1, 1).with(conf(`{"c":"d"}`)),
		},
		{
			name: "set that the hook refuses", verdict: "undone", ask: one, fails: true, before: plain(1, 1),
			prepare: steps(file("install", "hooked"), func(_ context.Context, m *matrix) error {
				writeFile(m.t, filepath.Join(m.Common("probe"), "refuse"), "")
				return nil
			}),
		},
		{
			name: "refresh with configuration", verdict: "restart", prepare: steps(file("install", "hooked"), one), ask: file("refresh", "hooked"),
			before: plain(1, 1).with(conf(`{"a":{"b":1},"c":"d"}`)), after: plain(2, 1, 2).with(conf(`{"a":{"b":1},"c":"d"}`)).with(carried(2, 1)),
		},
		{
			name: "hold", prepare: installed, before: plain(1, 1), after: plain(1, 1).with(func(m *model) { m.held = "forever" }),
			ask: action(client.Action{Action: "hold", Snaps: []string{"probe"}, Time: "forever", HoldLevel: "general"}),
		},
		{
			name: "switch", prepare: steps(shelve, file("install", "plain")), before: plain(1, 1),
			after: plain(1, 1).with(func(m *model) { m.tracks = "latest/edge" }),
			ask:   action(client.Action{Action: "switch", Snaps: []string{"probe"}, Source: "shelf", Channel: "edge"}),
		},
		{
			name: "alias", prepare: installed, ask: alias("alias"), before: plain(1, 1),
			after: plain(1, 1).with(func(m *model) { m.commands = []string{"probe.say", "tell"} }),
		},
		{
			name: "unalias", prepare: steps(file("install", "plain"), alias("alias")), ask: alias("unalias"),
			before: plain(1, 1).with(func(m *model) { m.commands = []string{"probe.say", "tell"} }), after: plain(1, 1),
		},
	}
}

// shelve makes a directory a source, for as long as there is the instance.
func shelve(ctx context.Context, m *matrix) error {
	err := os.Mkdir(m.Path("shelf"), 0o755) //nolint:gosec // As people have it.
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		_, err = m.Client().ChangeSource(ctx, client.SourceAction{Action: "add", Kind: "dir", Location: m.Path("shelf")})
	}
	return err
}

func alias(verb string) func(context.Context, *matrix) error {
	a := client.AliasAction{Action: verb, Snap: "probe", Alias: "tell"}
	if verb == "alias" {
		a.App = "say"
	}
	return func(ctx context.Context, m *matrix) error {
		_, err := m.Client().ChangeAliases(ctx, a)
		return err
	}
}

func savings() []operation {
	save := func(ctx context.Context, m *matrix) error {
		_, _, err := m.Client().Save(ctx, []string{"probe"}, nil)
		return err
	}
	onSet := func(verb string) func(context.Context, *matrix) error {
		return func(ctx context.Context, m *matrix) error {
			sets, err := m.Client().Snapshots(ctx, 0, nil)
			if err != nil || len(sets) == 0 {
				return err
			}
			_, err = m.Client().ChangeSnapshots(ctx, client.SnapshotAction{Action: verb, Set: sets[0].ID, Snaps: []string{"probe"}})
			return err
		}
	}
	saved := func(m *model) { m.saved = 1 }
	stopped := plain(1, 1).with(units()).with(saved)
	return []operation{
		{name: "save", prepare: steps(file("install", "plain")), ask: save, before: plain(1, 1), after: plain(1, 1).with(saved)},
		{name: "forget", prepare: steps(file("install", "plain"), save), ask: onSet("forget"), before: plain(1, 1).with(saved), after: plain(1, 1)},
		{
			name: "restore", ask: onSet("restore"), after: stopped, before: stopped.with(func(m *model) { m.written[1] = "x0" }),
			prepare: func(ctx context.Context, m *matrix) {
				steps(file("install", "plain"), save, action(onService("stop")))(ctx, m)
				writeFile(m.t, m.Path("var/snap/probe/x1/mark"), "x0")
			},
		},
	}
}

// splitApps are the blocks of the apps in text.
func splitApps(text string) []string {
	var blocks []string
	for line := range strings.Lines(strings.TrimPrefix(text, "\n")) {
		if !strings.HasPrefix(line, "\t") {
			blocks = append(blocks, "")
		}
		blocks[len(blocks)-1] += line
	}
	return blocks
}
