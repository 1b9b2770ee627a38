package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/mount"
	"tenure/internal/revision"
	"tenure/internal/snapfile"
	"tenure/internal/source"
	"tenure/internal/source/sourcetest"
	"tenure/internal/supervise/supervisetest"
)

// clockwork is a Manager whose automatic refreshes run by the time of a bubble of
// testing/synctest, which begins at midnight UTC of the first day of 2000. The probe is at revision 7
// of a source in memory.
type clockwork struct {
	*Manager

	t      *testing.T
	source narrow
	// waits are how many times a timer was set.
	waits int
}

// narrow is a source that counts what is fetched from it, and can be short of descriptors.
type narrow struct {
	sourcetest.Twin

	short   atomic.Bool
	fetched atomic.Int32
}

func (n *narrow) Fetch(ctx context.Context, r source.Release, into io.Writer) error {
	n.fetched.Add(1)
	if n.short.Load() {
		return syscall.EMFILE
	}
	return n.Twin.Fetch(ctx, r, into)
}

func newClockwork(t *testing.T) *clockwork {
	t.Helper()
	c := &clockwork{t: t}
	dir := t.TempDir()
	db, err := journal.Open(journal.Config{Path: filepath.Join(dir, "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	c.Manager = New(Config{
		Paths: Paths{Root: dir}, Journal: db, Supervisor: supervisetest.NewTwin(), Mounts: mount.New(mount.Config{Root: dir}),
		Sources: map[string]Opener{"twin": func(string) (source.Source, error) { return &c.source, nil }},
		Now:     func() time.Time { return time.Now().UTC() },
		Wait:    c.wait,
	})
	registry := change.NewRegistry()
	c.Register(registry)
	c.Use(change.New(change.Config{Store: db.Changes(), Registry: registry, Shorten: Shorten}))
	line, _, err := revision.Install(revision.State{}, tenure.SourceRevision(7))
	if err != nil {
		t.Fatal(err)
	}
	current, _ := sourcetest.Of("probe", 7)
	state := snapState{
		Instance: probe, Line: line, Tracking: Tracking{"shelf", "latest/stable"},
		Kept: map[tenure.Revision]kept{line.Current: {Info: &snapfile.Snap{Name: "probe", Type: snapfile.TypeApp, Base: "bare"}, Digest: current.Digest}},
	}
	_, err = c.AddSource(t.Context(), SourceConfig{Name: "shelf", Kind: "twin", Location: "here"})
	if err = errors.Join(err, c.snaps.Put(probe, &state)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 2)
	go func() { ended <- c.engine.Run(ctx) }()
	<-c.engine.Ready()
	go func() { ended <- c.AutoRefresh(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended, db.Close()); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return c
}

func (c *clockwork) wait(ctx context.Context, until time.Time) error {
	c.waits++
	return waitInBubble(ctx, until)
}

// sleep lets time pass.
func (c *clockwork) sleep(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// publish releases a revision of the probe, whose file was changed on the way, so that
// every attempt to refresh to it fails, and can be seen.
func (c *clockwork) publish(number int, released time.Time) source.Release {
	c.t.Helper()
	r, file := sourcetest.Of("probe", number)
	r.Released = released
	file[0] ^= 1
	c.source.Publish(r, file)
	return r
}

func (c *clockwork) set(options map[string]any) {
	c.t.Helper()
	values := map[string]json.RawMessage{}
	for key, value := range options {
		raw, err := json.Marshal(value)
		if err != nil {
			c.t.Fatal(err)
		}
		values[key] = raw
	}
	id, err := c.Configure(c.t.Context(), System, values)
	if err == nil {
		_, err = c.engine.WaitFor(c.t.Context(), id)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// at lets the time come to a day and a time of day, and tells how often it was tried to
// refresh to a release until then.
func (c *clockwork) at(day int, clock string, r source.Release) int {
	c.t.Helper()
	parsed, err := time.Parse("15:04:05", clock)
	if err != nil {
		c.t.Fatal(err)
	}
	to := time.Date(2000, 1, day, parsed.Hour(), parsed.Minute(), parsed.Second(), 0, time.UTC)
	c.sleep(time.Until(to))
	failures, err := c.failures.of(probe)
	if err != nil {
		c.t.Fatal(err)
	}
	known, _ := failures.Of(r.Digest)
	return known.Tries
}

// An update begins when its window opens; what has failed is tried again after a while
// that doubles, in windows alone. One timer is set for all that.
func TestAutomaticRefreshesKeepTheirTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork(t)
		c.set(map[string]any{"refresh.timer": "2:00-4:00"})
		r := c.publish(8, time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC))
		for _, moment := range []struct {
			day   int
			clock string
			tries int
		}{
			{1, "01:59:59", 0},
			{1, "02:00:01", 1},
			{1, "02:59:59", 1},
			{1, "03:00:01", 2},
			{1, "23:59:59", 2},
			{2, "01:59:59", 2},
			{2, "02:00:01", 3},
			{2, "03:59:59", 3},
			{3, "02:00:01", 4},
			{3, "23:00:00", 4},
		} {
			if tries := c.at(moment.day, moment.clock, r); tries != moment.tries {
				t.Errorf("on day %d at %s it has been tried %d times, want %d", moment.day, moment.clock, tries, moment.tries)
			}
		}
		if c.waits > 40 {
			t.Errorf("%d timers were set in three days", c.waits)
		}
		if when, err := c.Schedule(); err != nil || !when.Last.Equal(time.Date(2000, 1, 3, 2, 0, 0, 0, time.UTC)) || !when.Next.Equal(time.Date(2000, 1, 4, 2, 0, 0, 0, time.UTC)) {
			t.Errorf("schedule: %+v, %v", when, err)
		}
	})
}

// A refresh that the machine has no room for is tried again, ever more seldom, and is not held against the release.
func TestAutomaticRefreshesWaitForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork(t)
		c.set(map[string]any{"refresh.timer": "0:00-24:00"})
		c.source.short.Store(true)
		r := c.publish(8, time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC))
		c.look()
		for _, moment := range []struct {
			clock   string
			fetched int32
		}{
			{"00:00:30", 1},
			{"00:01:30", 2},
			{"00:03:30", 3},
			{"08:00:00", 13},
		} {
			if tries := c.at(1, moment.clock, r); tries != 0 || c.source.fetched.Load() != moment.fetched {
				t.Errorf("at %s it was fetched %d times, want %d, and has failed %d times", moment.clock, c.source.fetched.Load(), moment.fetched, tries)
			}
			c.look() // Whoever wants a look changes nothing.
			synctest.Wait()
		}
		c.source.short.Store(false)
		if tries := c.at(1, "08:30:00", r); tries != 1 {
			t.Errorf("with room again it has been tried %d times", tries)
		}
	})
}

// A release waits until it is old enough; an older one that is goes before it. Holds end by
// themselves.
func TestAutomaticRefreshesWaitForAgeAndHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork(t)
		c.set(map[string]any{"refresh.timer": "0:00-24:00", "refresh.minimum-age": "36h"})
		young := c.publish(8, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))
		if tries := c.at(2, "11:59:59", young); tries != 0 {
			t.Errorf("too young, and tried %d times", tries)
		}
		if tries := c.at(2, "12:00:01", young); tries != 1 {
			t.Errorf("old enough, and tried %d times", tries)
		}
		younger := c.publish(9, time.Date(2000, 1, 2, 12, 0, 0, 0, time.UTC))
		if tries := c.at(2, "13:00:01", young); tries != 2 {
			t.Errorf("the older one that is old enough was tried %d times", tries)
		}
		c.set(map[string]any{"refresh.hold": "2000-01-10T00:00:00Z"})
		held := time.Date(2000, 1, 11, 0, 0, 0, 0, time.UTC)
		id, err := c.Hold(t.Context(), HoldRequest{Snaps: []tenure.Instance{probe}, Until: held})
		if err == nil {
			_, err = c.engine.WaitFor(t.Context(), id)
		}
		if err != nil {
			t.Fatal(err)
		}
		if tries := c.at(10, "23:59:59", younger); tries != 0 {
			t.Errorf("held, and tried %d times", tries)
		}
		if tries := c.at(11, "00:00:01", younger); tries != 1 {
			t.Errorf("no longer held, and tried %d times", tries)
		}
	})
}

// A snap holds its own refreshes for ninety days at most, and those of its base for two,
// however often it asks; after a refresh it may again.
func TestASnapHoldsOnlySoLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork(t)
		const base, day = tenure.Instance("bare"), 24 * time.Hour
		until := func(snap tenure.Instance) time.Duration {
			on, _, err := c.holds.docs.Get(string(snap))
			if err != nil {
				t.Fatal(err)
			}
			return time.Until(on.Gates[probe].Until)
		}
		ask := func(affecting ...tenure.Instance) error { return c.gateHolds(probe, affecting, time.Time{}) }
		if err := ask(probe, base); err != nil || until(probe) != 90*day || until(base) != 2*day {
			t.Errorf("%v; itself %s, its base %s", err, until(probe), until(base))
		}
		c.sleep(47 * time.Hour)
		if err := ask(probe, base); err != nil || until(base) != time.Hour {
			t.Errorf("again: %v; its base %s", err, until(base))
		}
		c.sleep(time.Hour)
		if err := ask(probe, base); !errors.Is(err, errHeldLongEnough) || until(probe) > 0 || until(base) > 0 {
			t.Errorf("too long: %v; itself %s, its base %s", err, until(probe), until(base))
		}
		if err := ask(probe); err != nil || until(probe) != 88*day {
			t.Errorf("itself alone: %v, %s", err, until(probe))
		}
		c.sleep(88 * day)
		if err := ask(probe); !errors.Is(err, errHeldLongEnough) {
			t.Errorf("after ninety days: %v", err)
		}
		if err := errors.Join(c.refreshed(probe), ask(probe)); err != nil || until(probe) != 90*day {
			t.Errorf("after a refresh: %v, %s", err, until(probe))
		}
	})
}
