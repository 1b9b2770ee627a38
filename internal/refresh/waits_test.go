package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/mount"
	"tenure/internal/revision"
	"tenure/internal/rules/rulefile"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// house is a Manager with an engine and the twin of a supervisor, in which revision
// x2 of the snap called db runs and is to be reverted to x1.
type house struct {
	*Manager
	twin *supervisetest.Twin

	mu      sync.Mutex
	signals []string
	// killed is closed after the first SIGKILL was noted.
	killed chan struct{}
}

const houseYAML = `
name: db
version: '1'
base: bare
apps:
  db:
    command: bin/db
    daemon: simple
    stop-timeout: 30ms
    lifecycle: {refresh: defer, kill: never, observe: 0s}
`

func newHouse(t *testing.T, program supervisetest.Program) *house {
	t.Helper()
	info, err := snapfile.Parse([]byte(houseYAML), nil)
	if err != nil {
		t.Fatal(err)
	}
	info.Apps[0].Command = snapfile.Command(program.Command("bin/db").Argv)
	db, err := journal.Open(journal.Config{Path: filepath.Join(t.TempDir(), "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	h := &house{twin: supervisetest.NewTwin(), killed: make(chan struct{})}
	paths := Paths{Root: root}
	h.Manager = New(Config{
		Paths: paths, Journal: db, Supervisor: h.twin, Mounts: mount.New(mount.Config{Root: root}),
		Wait:  waitInBubble,
		Rules: rulefile.New(rulefile.Config{Path: paths.Policy(), Kept: filepath.Join(root, "kept.yaml")}),
	})
	registry := change.NewRegistry()
	h.Register(registry)
	h.Use(change.New(change.Config{Store: db.Changes(), Registry: registry, Shorten: Shorten}))
	for _, dir := range []string{h.cfg.Paths.SnapDir("db"), h.cfg.Paths.DataDir("db")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	old, current := tenure.LocalRevision(1), tenure.LocalRevision(2)
	state := &snapState{
		Instance: "db",
		Line:     revision.State{Sequence: []tenure.Revision{old, current}, Current: current, Active: true, LastLocal: 2},
		Kept:     map[tenure.Revision]kept{old: {Info: info}, current: {Info: info}},
	}
	r := state.revision(current)
	if err := h.snaps.Put("db", state); err != nil {
		t.Fatal(err)
	}
	if err := h.twin.Start(t.Context(), h.launch.service(&r, &info.Apps[0])); err != nil {
		t.Fatal(err)
	}
	h.run(t, db)
	return h
}

// run runs the components until the test ends, and notes every signal.
func (h *house) run(t *testing.T, db *journal.DB) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	events := h.twin.Events(ctx)
	wg.Go(func() {
		for event := range events {
			if event.Kind == supervise.EventSignal {
				h.mu.Lock()
				h.signals = append(h.signals, event.Signal)
				h.mu.Unlock()
				if event.Signal == "SIGKILL" {
					close(h.killed)
				}
			}
		}
	})
	wg.Go(func() { _ = h.engine.Run(ctx) })
	<-h.engine.Ready()
	wg.Go(func() { _ = h.Attend(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (h *house) sent() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.signals)
}

// revert begins to, and waits until the change has ended or waits.
func (h *house) revert(t *testing.T) change.Change {
	t.Helper()
	id, err := h.Do(t.Context(), Request{Action: ActionRevert, Snaps: []tenure.Instance{"db"}})
	if err != nil {
		t.Fatal(err)
	}
	return h.until(t, id, func(c change.Change) bool { return c.Status.Ready() || c.Status == change.Wait })
}

func (h *house) until(t *testing.T, id change.ID, done func(change.Change) bool) change.Change {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var rev uint64
	for {
		c, err := h.engine.Watch(ctx, id, rev)
		if err != nil {
			t.Fatalf("change %s: %v", id, err)
		}
		if done(c) {
			return c
		}
		rev = c.Rev
	}
}

func (h *house) wantRevision(t *testing.T, want tenure.Revision) {
	t.Helper()
	status, err := h.statusOf(t.Context(), tenure.ServiceUnit("db", "db"))
	if err != nil || status.Revision != want || status.State != supervise.Running {
		t.Errorf("the service is %s from %s, want it to run from %s: %v", status.State, status.Revision, want, err)
	}
}

// A change that waits sends no signal; when its limit has passed it goes on.
func TestDeferralHasALimit(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{})
	c := h.revert(t)
	if c.Status != change.Wait || c.Holds {
		t.Fatalf("the change is %s, holds %t: %s", c.Status, c.Holds, c.Err)
	}
	if sent := h.sent(); len(sent) > 0 {
		t.Errorf("signals %v while the change waits", sent)
	}
	h.wantRevision(t, tenure.LocalRevision(2))
	patch := map[string]json.RawMessage{optionDeferral: json.RawMessage(`"1ms"`)}
	if _, err := h.Configure(t.Context(), System, patch); err != nil {
		t.Fatal(err)
	}
	if c = h.until(t, c.ID, func(c change.Change) bool { return c.Status.Ready() }); c.Status != change.Done {
		t.Errorf("the change is %s: %s", c.Status, c.Err)
	}
	h.wantRevision(t, tenure.LocalRevision(1))
}

// A request that meets a staged change in the moment in which that looks again whether its time has come is answered as at
// any other moment: it takes its place, or makes it go on.
func TestARequestLetsAChangeLook(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		req  Request
		same bool
	}{
		"the next one": {Request{Action: ActionRevert, Snaps: []tenure.Instance{"db"}}, false},
		"--now":        {Request{Action: ActionRefresh, Snaps: []tenure.Instance{"db"}, Options: Options{Now: true}}, true},
		"a restart":    {Request{Action: ActionRestart, Names: []string{"db"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 10 { // Which of the two is the first to go on is not for the test to say.
				h := newHouse(t, supervisetest.Program{})
				first := h.revert(t).ID
				second, err := h.askWhileItLooks(t, first, test.req)
				if err != nil || (second == first) != test.same {
					t.Fatalf("change %s, and %s for who asks while it looks again: %v", first, second, err)
				}
				ended := func(c change.Change) bool { return c.Status.Ready() }
				if c := h.until(t, first, ended); (c.Status == change.Done) != test.same {
					t.Errorf("the change that was staged is %s: %s", c.Status, c.Err)
				}
			}
		})
	}
}

// askWhileItLooks has a change that waits look again, and asks for something else meanwhile.
func (h *house) askWhileItLooks(t *testing.T, id change.ID, req Request) (asked change.ID, err error) {
	t.Helper()
	release, err := h.claims.take(t.Context(), "db")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.engine.Wake(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	h.until(t, id, func(c change.Change) bool { return c.Status == change.Doing })
	var asking sync.WaitGroup
	asking.Go(func() { asked, err = h.Do(t.Context(), req) })
	release()
	asking.Wait()
	return asked, err
}

// A request is refused by a change that waits and holds its snap, as often as it comes.
func TestARequestIsRefusedByWhatHolds(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{IgnoreTerm: true})
	id, err := h.Do(t.Context(), Request{Action: ActionStop, Names: []string{"db.db"}})
	if err != nil {
		t.Fatal(err)
	}
	c := h.until(t, id, func(c change.Change) bool { return c.Status == change.Wait })
	if !c.Holds {
		t.Fatal("the stop of what must not be killed does not hold its snap")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 2 {
		if _, err := h.Do(ctx, Request{Action: ActionRemove, Snaps: []tenure.Instance{"db"}}); KindOf(err) != KindConflict {
			t.Errorf("a removal meanwhile: %v", err)
		}
	}
}

// Also where a staged change is to go on, and waits until what holds its snap has ended: nobody waits with it.
func TestARequestIsRefusedByWhatHoldsAQueue(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{IgnoreTerm: true})
	staged := h.revert(t)
	id, err := h.Do(t.Context(), Request{Action: ActionStop, Names: []string{"db.db"}})
	if err != nil {
		t.Fatal(err)
	}
	h.until(t, id, func(c change.Change) bool { return c.Status == change.Wait && c.Holds })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if id, err := h.Do(ctx, Request{Action: ActionRefresh, Snaps: []tenure.Instance{"db"}, Options: Options{Now: true}}); err != nil || id != staged.ID {
		t.Fatalf("--now makes change %s go on, not %s: %v", id, staged.ID, err)
	}
	h.until(t, staged.ID, func(c change.Change) bool { return c.Status != change.Wait })
	if _, err := h.Do(ctx, Request{Action: ActionRestart, Names: []string{"db"}}); KindOf(err) != KindConflict {
		t.Errorf("a restart meanwhile: %v", err)
	}
}

// The file of a request that was refused is where it was, and the request can be tried once more.
func TestUnstage(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{})
	staging := h.cfg.Paths.Staging()
	if err := os.MkdirAll(staging, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"that was received": staging, "of somebody": t.TempDir()} {
		file := filepath.Join(dir, "file")
		if err := os.WriteFile(file, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		jobs, files := []job{{After: &snapState{Instance: "db"}, Staged: "to be staged"}}, map[tenure.Instance]string{"db": file}
		if err := h.stage(t.Context(), &jobs[0], files); err != nil {
			t.Fatal(err)
		}
		h.unstage(jobs, files)
		if text, err := os.ReadFile(file); err != nil || string(text) != name {
			t.Errorf("the file %s is %q, %v", name, text, err)
		}
		if _, err := os.Lstat(jobs[0].Staged); err == nil {
			t.Errorf("the file %s is staged still", name)
		}
	}
}

// begin begins the revert, as one that nobody has asked for if it is automatic.
func (h *house) begin(t *testing.T, automatic bool) change.ID {
	t.Helper()
	prepared, err := h.prepareAlone(t.Context(), Request{Action: ActionRevert, Snaps: []tenure.Instance{"db"}})
	if err != nil {
		t.Fatal(err)
	}
	defer prepared.release()
	prepared.jobs[0].Auto, prepared.plans[0].Change.Auto = automatic, automatic
	plans, err := json.Marshal(prepared.plans)
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := h.tasks(prepared.jobs)
	if err != nil {
		t.Fatal(err)
	}
	id, err := h.engine.Start(t.Context(), change.NewChange{Kind: "revert-snap", Snaps: jobSnaps(prepared.jobs), Tasks: tasks, Plan: plans})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A change waits as long as it may, to the second, and not longer: any for
// lifecycle.max-deferral, one that nobody has asked for at most for
// refresh.max-inhibition-days, which are 14 where nothing is set.
func TestDeferralLastsAsLongAsItMay(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		auto    bool
		options map[string]json.RawMessage
		lasts   time.Duration
	}{
		"max-deferral":                     {false, map[string]json.RawMessage{optionDeferral: json.RawMessage(`"7d"`)}, 7 * day},
		"max-deferral is the shorter one":  {true, map[string]json.RawMessage{optionDeferral: json.RawMessage(`"36h"`)}, 36 * time.Hour},
		"max-inhibition-days":              {true, map[string]json.RawMessage{optionInhibition: json.RawMessage(`"3"`)}, 3 * day},
		"max-inhibition-days is not set":   {true, nil, 14 * day},
		"max-inhibition-days is not asked": {false, map[string]json.RawMessage{optionInhibition: json.RawMessage(`"1"`), optionDeferral: json.RawMessage(`"2d"`)}, 2 * day},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t, supervisetest.Program{})
				if len(test.options) > 0 {
					id, err := h.Configure(t.Context(), System, test.options)
					if err == nil {
						_, err = h.engine.WaitFor(t.Context(), id)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				began := time.Now()
				id := h.begin(t, test.auto)
				<-time.After(test.lasts - time.Second)
				synctest.Wait()
				if c, err := h.engine.Get(id); err != nil || c.Status != change.Wait {
					t.Fatalf("a second before its time the change is %s: %s, %v", c.Status, c.Err, err)
				}
				h.wantRevision(t, tenure.LocalRevision(2))
				c, err := h.engine.WaitFor(t.Context(), id)
				if err != nil || c.Status != change.Done {
					t.Errorf("the change is %s: %s, %v", c.Status, c.Err, err)
				}
				if took := time.Since(began); took < test.lasts || took > test.lasts+time.Second {
					t.Errorf("it took %s, want %s", took, test.lasts)
				}
				h.wantRevision(t, tenure.LocalRevision(1))
			})
		})
	}
}

// A service that ignores its signal and must not be killed is told once, and never
// killed; what has waited says so and holds the snap until it is turned round.
func TestNoSignalButTheFirst(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{IgnoreTerm: true})
	c := h.revert(t)
	if err := h.hurry(t.Context(), c.ID, Options{}); err != nil {
		t.Fatal(err)
	}
	c = h.until(t, c.ID, func(c change.Change) bool { return c.Status.Ready() || c.Status == change.Wait && c.Holds })
	if c.Status != change.Wait {
		t.Fatalf("the change is %s: %s", c.Status, c.Err)
	}
	// Woken in vain, it looks and waits on.
	if err := h.engine.Wake(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if again, err := h.settled(t.Context(), c.ID); err != nil || again.Status != change.Wait {
		t.Errorf("woken in vain, the change is %s, %v", again.Status, err)
	}
	if err := h.engine.Abort(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if c = h.until(t, c.ID, func(c change.Change) bool { return c.Status.Ready() }); c.Status != change.Undone {
		t.Errorf("the change is %s: %s", c.Status, c.Err)
	}
	h.wantRevision(t, tenure.LocalRevision(2))
	// The order to kill is the last that is heard of.
	order := supervise.StopRequest{Units: []tenure.UnitID{tenure.ServiceUnit("db", "db")}, Kill: true}
	if _, err := h.twin.Stop(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	<-h.killed
	if sent, want := h.sent(), []string{"SIGTERM", "SIGTERM", "SIGKILL"}; !slices.Equal(sent, want) {
		t.Errorf("signals %v with those of the order, want %v", sent, want)
	}
}

// What is waited for is over when its launch is, whatever has been launched since.
func TestOver(t *testing.T) {
	t.Parallel()
	db := tenure.ServiceUnit("db", "db")
	for name, test := range map[string]struct {
		status supervise.Status
		over   bool
	}{
		"runs":           {supervise.Status{State: supervise.Running, Generation: 3}, false},
		"ends":           {supervise.Status{State: supervise.Stopping, Generation: 3}, false},
		"failed":         {supervise.Status{State: supervise.Failed, Generation: 3}, true},
		"started again":  {supervise.Status{State: supervise.Running, Generation: 4}, true},
		"is not known":   {supervise.Status{}, true},
		"about to start": {supervise.Status{State: supervise.Backoff, Generation: 3}, true},
	} {
		a := awaited{Unit: db, Generation: 3}
		if got := a.over(map[tenure.UnitID]supervise.Status{db: test.status}); got != test.over {
			t.Errorf("a service that %s is over: %t, want %t", name, got, test.over)
		}
	}
	hook := wait{Units: []awaited{{Unit: tenure.UnitID{Snap: "db", Kind: tenure.HookRun}}}}
	if hook.yields() || (&wait{Units: []awaited{{Unit: db, Told: time.Now()}}}).yields() || !(&wait{Units: []awaited{{Unit: db}}}).yields() {
		t.Error("what yields to a limit is not what was left alone of services and workloads")
	}
}

// Whoever would start something of a snap waits from the moment that its data may be exchanged, until
// it can no longer be exchanged back.
func TestARestoreIsUnsettledToItsEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		of      change.Status
		restore change.Status
		want    bool
	}{
		{change.Doing, change.Do, false},
		{change.Doing, change.Doing, true},
		{change.Doing, change.Done, true},
		{change.Undoing, change.Undoing, true},
		{change.Undoing, change.Undone, false},
		{change.Done, change.Done, false},
	} {
		var changed change.Change
		changed.Status = c.of
		changed.Tasks = []change.Task{{Kind: taskUnpack, Status: change.Done}, {Kind: taskRestore, Status: c.restore}, {Kind: taskRestore, Status: change.Do}}
		if got := unsettled(&changed); got != c.want {
			t.Errorf("a change that is %s, with its restore %s: %v", c.of, c.restore, got)
		}
	}
}

// A decision as version 2 of the journal has it, with all jobs of its change, is carried out: that of the
// first, and then one for each of the others.
func TestADecisionOfVersion2(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{})
	state, err := h.snaps.Get("db")
	if err != nil {
		t.Fatal(err)
	}
	other := *state
	other.Instance = "other"
	if err := errors.Join(h.snaps.Put("other", &other), os.MkdirAll(h.cfg.Paths.SnapDir("other"), 0o700), os.MkdirAll(h.cfg.Paths.DataDir("other"), 0o700)); err != nil {
		t.Fatal(err)
	}
	request := Request{Action: ActionRevert, Snaps: []tenure.Instance{"db", "other"}, Options: Options{Now: true}}
	p, err := h.prepareAlone(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	p.release()
	plans, err := json.Marshal(p.plans)
	if err != nil {
		t.Fatal(err)
	}
	id, err := h.engine.Start(t.Context(), change.NewChange{
		Kind: "revert-snap", Snaps: jobSnaps(p.jobs), Plan: plans,
		Tasks: []change.TaskSpec{change.NewTask(taskDecide, "Decide", decideParams{Jobs: p.jobs, Asked: []tenure.Instance{"db"}})},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := h.until(t, id, func(c change.Change) bool { return c.Status.Ready() })
	if c.Status != change.Done {
		t.Fatalf("the change is %s: %s", c.Status, c.Err)
	}
	count := map[string]int{}
	for i := range c.Tasks {
		count[c.Tasks[i].Kind]++
	}
	if count[taskDecide] != 2 || count[taskCommit] != 2 || count[taskCompare] != 1 {
		t.Errorf("its tasks are %v", count)
	}
	for _, snap := range request.Snaps {
		if state, err := h.snaps.Get(snap); err != nil || state.Line.Current != tenure.LocalRevision(1) {
			t.Errorf("%s is %+v: %v", snap, state, err)
		}
	}
	h.wantRevision(t, tenure.LocalRevision(1))
}
