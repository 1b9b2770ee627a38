package test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"testing"

	"tenure/client"
	"tenure/test/rig"
)

// waiter is a scene of a service that is waited for twice in a refresh: before it is told to stop, for
// that is what it asks for, and after that, for it must not be killed.
type waiter struct {
	*rig.Instance

	t     *testing.T
	trace *trace
	file  string
	// revision and changes are how many there have been.
	revision, changes, deaths int
}

// TestCrashWaits kills the daemon at every boundary of the steps of a refresh that wait: for
// a service before it is told, and for one that must not be killed. Wherever it dies the
// refresh comes to its end, and the service to its own.
func TestCrashWaits(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*rig.Patience)
	defer cancel()
	p := &waiter{Instance: rig.New(t, rig.Config{FailPoints: true}), t: t, revision: 1, changes: 1}
	p.trace = listen(t, p.Instance)
	p.file = probeSnap(t, p.Instance, probeYAML("1", `
db:
	daemon: notify
	command: PROBE trap ignore:SIGTERM env:SNAP_REVISION notify:READY:1 run
	stop-timeout: 100ms
	lifecycle: {refresh: defer, kill: never}
`))
	p.Tenure("install", "--dangerous", p.file)
	p.trace.expect("db", "env SNAP_REVISION=x1")
	p.Arm(0)
	p.refresh(ctx)
	points := p.Disarm()
	struck := 0
	for n, point := range points {
		if slices.Contains([]string{"decide", "stop-snap-services", "await-snap-services"}, point.TaskKind) {
			struck++
			p.Arm(n + 1)
			p.refresh(ctx)
			p.Disarm()
		}
	}
	if p.deaths < struck-2 || struck < 10 { // How often a step looks again is not the same every time.
		t.Errorf("%d deaths at %d boundaries: %v", p.deaths, struck, points)
	}
	t.Logf("%d deaths", p.deaths)
	last := p.Main("probe.db")
	interrupt(t, last)
	if err := rig.Gone(ctx, last); err != nil {
		t.Error(err)
	}
}

// refresh brings the service to the next revision, whatever becomes of the daemon
// meanwhile: it does not let a change wait longer than it must.
func (p *waiter) refresh(ctx context.Context) {
	p.t.Helper()
	p.revision++
	p.changes++
	before := p.Main("probe.db")
	interrupted := false
	for seen := uint64(0); ; {
		if closed(p.Ended()) {
			p.deaths++
			p.Start()
			seen = 0
		}
		c, err := p.Client().Follow(ctx, strconv.Itoa(p.changes), seen)
		failed, answered := errors.AsType[*client.Error](err)
		switch {
		case ctx.Err() != nil:
			p.t.Fatalf("the refresh to x%d does not end", p.revision)
		case answered && failed.Status == http.StatusNotFound:
			_, _ = p.Client().Do(ctx, client.Action{Action: "refresh", Files: []string{p.file}, Dangerous: true}) // It may die before it answers.
			continue
		case err != nil:
			select {
			case <-p.Ended():
			case <-ctx.Done():
			}
			continue
		case c.Ready:
			p.ended(c)
			return
		case c.Status == "Wait" && c.Holds && !interrupted:
			interrupt(p.t, before)
			interrupted = true
		case c.Status == "Wait" && !c.Holds:
			_, _ = p.Client().Do(ctx, client.Action{Action: "refresh", Snaps: []string{"probe"}, Now: true}) // See above.
		}
		seen = c.Revision
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// ended checks what a refresh has come to: the service has ended by what it listens to,
// after it was told, and runs from the next revision.
func (p *waiter) ended(c client.Change) {
	p.t.Helper()
	if c.Status != "Done" {
		p.t.Fatalf("the refresh to x%d is %s: %s", p.revision, c.Status, c.Err)
	}
	told := 0
	for {
		said := p.trace.next("db")
		if said == "heard SIGINT" {
			break
		}
		if told++; said != "heard SIGTERM" {
			p.t.Fatalf("the service reports %q", said)
		}
	}
	if told == 0 {
		p.t.Errorf("the service was not told before the refresh to x%d", p.revision)
	}
	p.trace.expect("db", "env SNAP_REVISION=x"+strconv.Itoa(p.revision))
	if unit := p.Units()["probe.db"]; unit.Revision != "x"+strconv.Itoa(p.revision) || unit.State != "running" {
		p.t.Errorf("the service is %s on %s, want x%d", unit.State, unit.Revision, p.revision)
	}
}
