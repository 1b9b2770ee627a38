package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/mount"
	"tenure/internal/revision"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// mortal is a machine in memory whose daemons die: at a boundary of the engine, on either side of
// what is made durable, and of what the supervisor is asked for. Who dies stands still for ever
// where it is, and so does everybody else who comes to such a place.
type mortal struct {
	*Manager

	t     *testing.T
	dir   string
	twin  *supervisetest.Twin
	lives int
	life  *life
	// prepared is how many changes there have been before the operation.
	prepared int
	over     chan struct{}
	// cancel and end are what ends the daemons when everything has been looked at.
	cancel []context.CancelFunc
	end    []func()
}

// life is one daemon.
type life struct {
	mu sync.Mutex
	// left is how many places it passes alive; negative is all. passed is how many it has.
	left, passed int
	dead         chan struct{}
	over         <-chan struct{}
}

// place is where a daemon may die.
func (l *life) place() {
	l.mu.Lock()
	l.passed++
	alive := l.left < 0 || l.passed <= l.left
	if !alive && l.passed == l.left+1 {
		close(l.dead)
	}
	l.mu.Unlock()
	if !alive {
		<-l.over // It is no matter what it does then.
	}
}

// undertaker is the supervisor as a daemon that may die asks it.
type undertaker struct {
	*supervisetest.Twin

	*life
}

func (u undertaker) Start(ctx context.Context, specs ...supervise.Spec) error {
	specs = slices.Clone(specs)
	for i := range specs {
		specs[i].Command = programOf(&specs[i]).Command("/probe")
		specs[i].Reload = nil
	}
	u.place()
	err := u.Twin.Start(ctx, specs...)
	u.place()
	return err
}

func (u undertaker) Stop(ctx context.Context, req supervise.StopRequest) (supervise.Ended, error) {
	u.place()
	ended, err := u.Twin.Stop(ctx, req)
	u.place()
	return ended, err
}

func (u undertaker) Succeed(ctx context.Context, spec supervise.Spec) error {
	spec.Command = programOf(&spec).Command("/probe")
	u.place()
	err := u.Twin.Succeed(ctx, spec)
	u.place()
	return err
}

func (u undertaker) TakeOver(ctx context.Context, service tenure.UnitID, drain time.Duration) (tenure.UnitID, error) {
	u.place()
	draining, err := u.Twin.TakeOver(ctx, service, drain)
	u.place()
	return draining, err
}

func (u undertaker) Forget(ctx context.Context, units ...tenure.UnitID) error {
	u.place()
	err := u.Twin.Forget(ctx, units...)
	u.place()
	return err
}

// programOf is what a unit does: hooks end well, and services called "broken" badly.
func programOf(spec *supervise.Spec) supervisetest.Program {
	switch {
	case spec.Unit.App == "broken":
		return supervisetest.Program{Exits: true, Code: 1}
	case spec.Unit.Kind != tenure.Service:
		return supervisetest.Program{Exits: true}
	}
	return supervisetest.Program{Name: string(spec.Unit.App), Notify: true}
}

func newMortal(t *testing.T) *mortal {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tenure-crash-") //nolint:usetesting // In memory: daemons die, and not the machine.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	m := &mortal{t: t, dir: dir, twin: supervisetest.NewTwin(), over: make(chan struct{})}
	for _, dir := range []string{"snap/probe", "var/snap/probe/common"} {
		if err := os.MkdirAll(filepath.Join(m.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.boot(-1)
	err = errors.Join(
		m.settings.Put(optionRetention, json.RawMessage(`"no"`)),
		m.settings.Put(optionObserve, json.RawMessage(`"0s"`)),
	)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// boot starts a daemon, which dies when it has passed so many places. It reports whether that lives
// until it has taken up what was left.
func (m *mortal) boot(left int) bool {
	m.t.Helper()
	m.lives++
	state := func(life int) string { return filepath.Join(m.dir, fmt.Sprintf("state.%d.db", life)) }
	// Who stands still has the old one open.
	if text, err := os.ReadFile(state(m.lives - 1)); err == nil {
		if err := os.WriteFile(state(m.lives), text, 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	l := &life{left: left, dead: make(chan struct{}), over: m.over}
	m.life = l
	db, err := journal.Open(journal.Config{Path: state(m.lives), Boundary: l.place})
	if err != nil {
		m.t.Fatal(err)
	}
	supervisor := undertaker{m.twin, l}
	m.Manager = New(Config{Paths: Paths{Root: m.dir}, Journal: db, Supervisor: supervisor, Mounts: mount.New(mount.Config{Root: m.dir})})
	registry := change.NewRegistry()
	m.Register(registry)
	engine := change.New(change.Config{Store: db.Changes(), Registry: registry, Boundary: func(change.Point) { l.place() }})
	m.Use(engine)
	ctx, cancel := context.WithCancel(context.Background())
	manager := m.Manager
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var group sync.WaitGroup
		group.Go(func() { _ = engine.Run(ctx) })
		<-engine.Ready()
		group.Go(func() { _ = manager.Collect(ctx) })
		group.Go(func() { _ = manager.Confirm(ctx) })
		group.Go(func() { _ = manager.Mend(ctx) })
		group.Go(func() { _ = manager.Settle(ctx) })
		group.Wait()
	}()
	m.cancel = append(m.cancel, cancel)
	m.end = append(m.end, func() {
		<-ended
		if err := db.Close(); err != nil {
			m.t.Error(err)
		}
	})
	synctest.Wait()
	select {
	case <-l.dead:
		return false
	default:
		return true
	}
}

// close lets all go who stand still.
func (m *mortal) close() {
	for _, cancel := range m.cancel {
		cancel()
	}
	close(m.over)
	for _, end := range m.end {
		end()
	}
}

// settle waits until the daemon has died, or no change goes on.
func (m *mortal) settle() (alive bool) {
	m.t.Helper()
	// What takes its time takes none here.
	for range 100 {
		<-time.After(time.Second)
		synctest.Wait()
		select {
		case <-m.life.dead:
			return false
		default:
		}
		if len(m.engine.List(change.Filter{Select: change.InProgress})) == 0 {
			return true
		}
	}
	m.t.Fatalf("there is no end to %+v", m.engine.List(change.Filter{Select: change.InProgress}))
	return false
}

// told is what is installed: a snap of these apps.
func (m *mortal) told(apps string) *snapfile.Snap {
	m.t.Helper()
	info, err := snapfile.Parse([]byte("name: probe\nversion: 1\nsummary: s\ndescription: d\nbase: bare\nconfinement: strict\napps:\n"+apps), []string{"configure"})
	if err != nil {
		m.t.Fatal(err)
	}
	return info
}

// advance begins the change that installs, or refreshes to, a snap of these apps, once its files are there.
func (m *mortal) advance(ctx context.Context, apps string) error {
	before, err := m.snaps.Get(probe)
	if err != nil {
		return err
	}
	info := m.told(apps)
	state := snapState{Instance: probe}
	to := revision.Install
	if before != nil {
		state, to = *before, revision.Refresh
	}
	rev := state.Line.NextLocal()
	line, _, err := to(state.Line, rev)
	if err != nil {
		return err
	}
	after := state.with(line)
	after.Kept[rev] = kept{Info: info}
	after.Disabled = disabledAfter(before, info)
	j := job{Reason: tenure.ReasonRefresh, Before: before, After: after}
	plan, err := m.decide(ctx, &j, nil)
	if err != nil {
		return err
	}
	p := &prepared{jobs: []job{j}}
	p.plans = append(p.plans, plan)
	if err := os.MkdirAll(m.cfg.Paths.Data(j.target()), 0o755); err != nil {
		return err
	}
	tasks, err := m.tasks(p.jobs)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(p.plans)
	if err != nil {
		return err
	}
	_, err = m.engine.Start(ctx, change.NewChange{Kind: kindOf(j), Snaps: []tenure.Instance{probe}, Tasks: tasks, Plan: raw})
	return err
}

// facts are all that is true of the snap, one a line.
func (m *mortal) facts() []string {
	m.t.Helper()
	var facts []string
	fact := func(format string, args ...any) { facts = append(facts, fmt.Sprintf(format, args...)) }
	state, err := m.snaps.Get(probe)
	if err != nil {
		m.t.Fatal(err)
	}
	if state != nil {
		fact("snap %s active=%t of %v off=%v stopped=%v", state.Line.Current, state.Line.Active, state.Line.Kept(), state.Disabled, state.Stopped)
	}
	statuses, err := m.twin.Units(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	for _, s := range statuses {
		if s.State != supervise.Inactive {
			fact("unit %s %s %s", trimPID(s.Unit.String()), s.Revision, s.State)
		}
	}
	for _, link := range []string{"snap/probe/current", "var/snap/probe/current"} {
		if target, err := os.Readlink(filepath.Join(m.dir, link)); err == nil {
			fact("link %s %s", link, target)
		}
	}
	entries, err := os.ReadDir(filepath.Join(m.dir, "snap/bin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
	for _, entry := range entries {
		fact("command %s", entry.Name())
	}
	conf, err := m.Conf(string(probe), nil)
	text, bad := json.Marshal(conf)
	if err == nil && bad == nil && len(conf) > 0 {
		fact("conf %s", text)
	}
	for _, c := range m.engine.List(change.Filter{Select: change.All}) {
		if !c.Status.Ready() {
			fact("%s waits", c.Kind)
		}
	}
	return facts
}

// main is the main process of the service.
func (m *mortal) main() tenure.Process {
	m.t.Helper()
	status, err := m.statusOf(m.t.Context(), tenure.ServiceUnit(probe, "svc"))
	if err != nil && !errors.Is(err, supervise.ErrUnknown) {
		m.t.Fatal(err)
	}
	return status.Main
}

// carriedOut reports whether the last change, if there is any but those before, is done.
func (m *mortal) carriedOut() bool {
	list := m.engine.List(change.Filter{Select: change.All})
	return len(list) > m.prepared && list[len(list)-1].Status == change.Done
}

// trimPID is a unit without the process that it is called after.
func trimPID(unit string) string {
	if name, _, found := strings.Cut(unit, "/"); found {
		return name + "/*"
	}
	return unit
}

// crashing is an operation: something to ask for, and the two states that may come of it: the oracle.
type crashing struct {
	name          string
	prepare       []func(context.Context, *mortal) error
	ask           func(context.Context, *mortal) error
	before, after []string
	// renews is that the service is another process when it is done.
	renews bool
}

const (
	oneService  = "  svc: {command: bin/svc, daemon: notify, restart-condition: never}\n  say: {command: bin/say}\n"
	twoServices = oneService + "  two: {command: bin/two, daemon: notify, restart-condition: never}\n"
	badService  = oneService + "  broken: {command: bin/broken, daemon: notify, restart-condition: never}\n"
	handing     = "  svc: {command: bin/svc, daemon: notify, restart-condition: never, lifecycle: {refresh: handover}}\n"
	lasting     = "  svc: {command: bin/svc, daemon: notify, restart-condition: never, lifecycle: {refresh: endure}}\n"
	deferring   = "  svc: {command: bin/svc, daemon: notify, restart-condition: never, lifecycle: {refresh: defer}}\n"
)

func advance(apps string) func(context.Context, *mortal) error {
	return func(ctx context.Context, m *mortal) error { return m.advance(ctx, apps) }
}

func request(req Request) func(context.Context, *mortal) error {
	return func(ctx context.Context, m *mortal) error {
		_, err := m.Do(ctx, req)
		return err
	}
}

func onProbe(action Action) func(context.Context, *mortal) error {
	return request(Request{Action: action, Snaps: []tenure.Instance{probe}})
}

func onOne(action Action) func(context.Context, *mortal) error {
	return request(Request{Action: action, Names: []string{"probe.svc"}})
}

// standingOn is the snap on a revision, with its service.
func standingOn(current, kept string, more ...string) []string {
	return append([]string{
		"snap " + current + " active=true of [" + kept + "] off=[] stopped=[]",
		"unit probe.svc " + current + " running",
		"link snap/probe/current " + current, "link var/snap/probe/current " + current,
	}, more...)
}

func crashings() []crashing {
	type asks = []func(context.Context, *mortal) error
	const say = "command probe.say"
	first, second := standingOn("x1", "x1", say), standingOn("x2", "x1 x2", say)
	stopped := []string{
		"snap x1 active=true of [x1] off=[] stopped=[svc]", "link snap/probe/current x1", "link var/snap/probe/current x1", say,
	}
	disabled := []string{"snap x1 active=false of [x1] off=[] stopped=[]"}
	withTwo := slices.Insert(slices.Clone(second), 2, "unit probe.two x2 running")
	set := func(ctx context.Context, m *mortal) error {
		_, err := m.Configure(ctx, string(probe), map[string]json.RawMessage{"a": json.RawMessage("1")})
		return err
	}
	unset := func(ctx context.Context, m *mortal) error {
		_, err := m.Configure(ctx, string(probe), map[string]json.RawMessage{"a": json.RawMessage("null")})
		return err
	}
	alias := func(ctx context.Context, m *mortal) error {
		_, err := m.ChangeAliases(ctx, AliasRequest{Action: actionAlias, Snap: "probe", App: "say", Alias: "tell"})
		return err
	}
	told := append(slices.Clone(first), "command tell")
	waiting := standingOn("x1", "x2 x1", "refresh-snap waits")
	now := request(Request{Action: ActionRefresh, Snaps: []tenure.Instance{probe}, Options: Options{Now: true}})
	return []crashing{
		{name: "install", ask: advance(oneService), after: first},
		{name: "install that fails", ask: advance(badService)},
		{name: "refresh, restart", prepare: asks{advance(oneService)}, ask: advance(oneService), before: first, after: second},
		{name: "refresh, a service more", prepare: asks{advance(oneService)}, ask: advance(twoServices), before: first, after: withTwo},
		{name: "refresh, a service less", prepare: asks{advance(oneService), advance(twoServices)}, ask: advance(oneService), before: withTwo, after: standingOn("x3", "x2 x3", say)},
		{name: "refresh, undone", prepare: asks{advance(oneService)}, ask: advance(badService), before: first, after: first},
		{name: "refresh, hand over", prepare: asks{advance(handing)}, ask: advance(handing), before: standingOn("x1", "x1"), after: standingOn("x2", "x1 x2")},
		{name: "refresh, endure", prepare: asks{advance(lasting)}, ask: advance(lasting), before: standingOn("x1", "x1"), after: []string{
			"snap x2 active=true of [x1 x2] off=[] stopped=[]", "unit probe.svc x1 running", "link snap/probe/current x2", "link var/snap/probe/current x2",
		}},
		{name: "refresh, defer", prepare: asks{advance(deferring)}, ask: advance(deferring), before: standingOn("x1", "x1"), after: waiting},
		{name: "apply what is staged", prepare: asks{advance(deferring), advance(deferring)}, ask: now, before: waiting, after: standingOn("x2", "x1 x2")},
		{name: "apply by restart", prepare: asks{advance(deferring), advance(deferring)}, ask: onOne(ActionRestart), before: waiting, after: standingOn("x2", "x1 x2")},
		{name: "revert", prepare: asks{advance(oneService), advance(oneService)}, ask: onProbe(ActionRevert), before: second, after: standingOn("x1", "x1 x2", say)},
		{name: "remove", prepare: asks{advance(oneService), advance(oneService)}, ask: onProbe(ActionRemove), before: second, after: nil},
		{name: "disable", prepare: asks{advance(oneService)}, ask: onProbe(ActionDisable), before: first, after: disabled},
		{name: "enable", prepare: asks{advance(oneService), onProbe(ActionDisable)}, ask: onProbe(ActionEnable), before: disabled, after: first},
		{name: "stop", prepare: asks{advance(oneService)}, ask: onOne(ActionStop), before: first, after: stopped},
		{name: "start", prepare: asks{advance(oneService), onOne(ActionStop)}, ask: onOne(ActionStart), before: stopped, after: first},
		{name: "restart", prepare: asks{advance(oneService)}, ask: onOne(ActionRestart), before: first, after: first, renews: true},
		{name: "set", prepare: asks{advance(oneService)}, ask: set, before: first, after: append(slices.Clone(first), `conf {"a":1}`)},
		{name: "unset", prepare: asks{advance(oneService), set}, ask: unset, before: append(slices.Clone(first), `conf {"a":1}`), after: first},
		{name: "alias", prepare: asks{advance(oneService)}, ask: alias, before: first, after: told},
	}
}

// TestCrashOperations has the daemon die at every place in every operation, and a second one, that
// goes on, at one of its own, in memory. Then all is as before, or all as after.
func TestCrashOperations(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var rows []string
	t.Run("all", func(t *testing.T) {
		for _, op := range crashings() {
			t.Run(op.name, func(t *testing.T) {
				t.Parallel()
				row := op.everywhere(t)
				mu.Lock()
				defer mu.Unlock()
				rows = append(rows, row)
			})
		}
	})
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	slices.Sort(rows)
	fmt.Fprintf(table, "operation\tplaces\tdied at\tagain\tas before\tas after\n%s", strings.Join(rows, ""))
	_ = table.Flush() // A strings.Builder does not fail.
	t.Logf("\n%s", out.String())
}

// everywhere has the daemon die at every place, and gives the row of the table.
func (op *crashing) everywhere(t *testing.T) string {
	t.Helper()
	died, again, asBefore, asAfter, at, alive := 0, 0, 0, 0, 0, false
	for ; !alive && !t.Failed(); at++ {
		synctest.Test(t, func(t *testing.T) {
			m := newMortal(t)
			defer m.close()
			for _, step := range op.prepare {
				if err := step(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				m.settle()
			}
			if diff := cmp.Diff(sorted(op.before), sorted(m.facts())); diff != "" {
				t.Fatalf("before (-want +got):\n%s", diff)
			}
			m.prepared = len(m.engine.List(change.Filter{Select: change.All}))
			was := m.main()
			alive = op.die(m, at)
			second := false
			if !alive {
				died++
				// Now and then the next one dies as well.
				if second = !m.boot([]int{-1, at * 7 % 23}[at%2]) || !m.settle(); second {
					again++
					m.boot(-1)
				}
				m.settle()
			}
			if op.renews && m.carriedOut() && m.main() == was {
				t.Errorf("killed at %d of it, again %t, it is done, and the service is the process that it was", at, second)
			}
			got := sorted(m.facts())
			switch {
			case slices.Equal(got, sorted(op.after)):
				asAfter++
			case slices.Equal(got, sorted(op.before)) && !alive:
				asBefore++
			default:
				t.Errorf("killed at %d of it, again %t, it is neither as before:\n%s\nnor as after:\n%s", at, second, cmp.Diff(sorted(op.before), got), cmp.Diff(sorted(op.after), got))
			}
		})
	}
	places := at - 1
	if died != places {
		t.Errorf("of %d places %d were left out", places, places-died)
	}
	return fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%d\n", op.name, places, died, again, asBefore, asAfter)
}

// die asks for the operation, and reports whether the daemon has passed fewer places than at.
func (op *crashing) die(m *mortal, at int) (alive bool) {
	m.life.mu.Lock()
	m.life.left, m.life.passed = at, 0
	m.life.mu.Unlock()
	go func() { _ = op.ask(m.t.Context(), m) }() // It may die before it answers.
	if !m.settle() {
		return false
	}
	m.life.mu.Lock()
	defer m.life.mu.Unlock()
	m.life.left = -1
	return true
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}
