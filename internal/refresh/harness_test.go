package refresh

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/mount"
	"tenure/internal/policy"
	"tenure/internal/revision"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
	"tenure/internal/supervise/supervisetest"
)

// harness is a Manager on a supervisor in memory, for tests in a bubble of
// testing/synctest. Nothing is mounted: its changes begin where the files are there.
// A machine outlives its daemons; each has an engine of its own on the one journal.
type harness struct {
	*Manager

	t    *testing.T
	dir  string
	twin *supervisetest.Twin
	stop func()
	// at, if set, hears of every boundary of the engine, which waits for it.
	at func(change.Point)
}

const probe = tenure.Instance("probe")

// newHarness is a machine with a daemon.
func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{t: t, dir: t.TempDir(), twin: supervisetest.NewTwin()}
	h.boot()
	t.Cleanup(func() { h.stop() })
	return h
}

// waitInBubble is clock.Wait by the time of a bubble of testing/synctest.
func waitInBubble(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// boot starts a daemon, which goes on with what the last one has left.
func (h *harness) boot() {
	h.t.Helper()
	db, err := journal.Open(journal.Config{Path: filepath.Join(h.dir, "state.db")})
	if err != nil {
		h.t.Fatal(err)
	}
	h.Manager = New(Config{
		Paths: Paths{Root: h.dir}, Journal: db, Supervisor: h.twin, Mounts: mount.New(mount.Config{Root: h.dir}),
		Wait: waitInBubble,
	})
	registry := change.NewRegistry()
	h.Register(registry)
	h.Use(change.New(change.Config{Store: db.Changes(), Registry: registry, Shorten: Shorten, Boundary: func(p change.Point) {
		if h.at != nil {
			h.at(p)
		}
	}}))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- h.engine.Run(ctx) }()
	go func() { ended <- h.Confirm(ctx) }()
	h.stop = func() {
		cancel()
		if err := errors.Join(<-ended, <-ended, db.Close()); err != nil {
			h.t.Error(err)
		}
		synctest.Wait()
	}
	<-h.engine.Ready()
}

// service is the Spec of a service of the probe, which does what program says.
func (h *harness) service(name tenure.App, rev tenure.Revision, program supervisetest.Program) supervise.Spec {
	return supervise.Spec{
		Unit: tenure.ServiceUnit(probe, name), Revision: rev, Type: supervise.Simple, Command: program.Command("/probe"),
		Restart: supervise.RestartPolicy{Condition: supervise.RestartOnFailure},
		Stop:    supervise.StopProtocol{Signal: "SIGTERM", Target: supervise.TargetGroup, Kill: supervise.KillAfterTimeout},
	}
}

// refresh begins what a refresh of the probe from x1 to x2 does once all files are
// there: services end, begin, and are observed.
func (h *harness) refresh(before, after []supervise.Spec, services ...observed) change.ID {
	h.t.Helper()
	was, is := h.state(tenure.LocalRevision(1)), h.state(tenure.LocalRevision(2))
	why := policy.Change{Reason: tenure.ReasonRefresh, Snap: probe, From: was.Line.Current, To: is.Line.Current}
	if err := errors.Join(h.snaps.Put(probe, was), h.twin.Start(h.t.Context(), before...)); err != nil {
		h.t.Fatal(err)
	}
	stop := stopParams{Change: why, Hold: names(after)}
	for i := range before {
		stop.Stop = append(stop.Stop, stopping{Unit: before[i].Unit, Revision: before[i].Revision, Spec: &before[i]})
	}
	id, err := h.engine.Start(h.t.Context(), change.NewChange{Kind: "refresh-snap", Snaps: []tenure.Instance{probe}, Tasks: []change.TaskSpec{
		change.NewTask(taskStop, "stop", stop).InGap(),
		change.NewTask(taskStart, "start", startParams{Change: why, Specs: after}).InGap(),
		change.NewTask(taskCommit, "commit", commitParams{Snap: probe, Before: was, After: is}),
		observeTask(services),
	}})
	if err != nil {
		h.t.Fatal(err)
	}
	synctest.Wait()
	return id
}

// state is the probe with one revision as the current one.
func (h *harness) state(rev tenure.Revision) *snapState {
	h.t.Helper()
	line, _, err := revision.Install(revision.State{}, rev)
	if err != nil {
		h.t.Fatal(err)
	}
	return &snapState{Instance: probe, Line: line, Kept: map[tenure.Revision]kept{rev: {Info: &snapfile.Snap{}}}}
}

// change is a change as it is now.
func (h *harness) change(id change.ID) change.Change {
	h.t.Helper()
	c, err := h.engine.Get(id)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// on fails the test unless the probe and a service of it are on rev, and the service
// is in a state.
func (h *harness) on(rev tenure.Revision, service tenure.App, in supervise.State) {
	h.t.Helper()
	state, err := h.snaps.Get(probe)
	if err != nil {
		h.t.Fatal(err)
	}
	status, err := h.statusOf(h.t.Context(), tenure.ServiceUnit(probe, service))
	if err != nil {
		h.t.Fatal(err)
	}
	if state.Line.Current != rev || status.Revision != rev || status.State != in {
		h.t.Errorf("the snap is on %s, its service on %s and %s; want %s and %s", state.Line.Current, status.Revision, status.State, rev, in)
	}
}
