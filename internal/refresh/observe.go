package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/snapfile"
	"tenure/internal/supervise"
)

// observed is a service that has to prove itself on another revision.
type observed struct {
	Unit   tenure.UnitID `json:"unit"`
	Window time.Duration `json:"window"`
	// Steady is that it ran before: its end is a failure, however clean. A service
	// that had nothing to do before may have nothing to do again.
	Steady bool `json:"steady,omitempty"`
	// Restarts are the supervisor's own that were before the window, for a service that
	// goes on without a start.
	Restarts int `json:"restarts,omitempty"`
}

type observeParams struct {
	Services []observed `json:"services"`
}

// observing are the services of j's target that its switch starts, reloads or lets
// succeed, with their windows. A first install has nothing to go back to.
func (m *Manager) observing(ctx context.Context, j *job, sw *switching) ([]observed, error) {
	if j.to().IsZero() || j.from().IsZero() || j.Reason != tenure.ReasonRefresh && j.Reason != tenure.ReasonRevert {
		return nil, nil
	}
	statuses, err := m.statuses(ctx)
	if err != nil {
		return nil, err
	}
	info := j.After.Kept[j.to()].Info
	var all []observed
	add := func(spec *supervise.Spec, restarts int) {
		window := m.window(info.App(spec.Unit.App))
		if window == 0 {
			return
		}
		ran := statuses[spec.Unit].State.Alive() && spec.Type != supervise.Oneshot && spec.Timer == ""
		all = append(all, observed{Unit: spec.Unit, Window: window, Steady: ran, Restarts: restarts})
	}
	for i := range sw.Start {
		add(&sw.Start[i], 0)
	}
	for i := range sw.Follow {
		add(&sw.Follow[i].New, statuses[sw.Follow[i].New.Unit].Restarts)
	}
	for i := range sw.HandOver {
		add(&sw.HandOver[i].New, 0) // A successor has a life of its own.
	}
	return all, nil
}

// window is for how long a service is observed: as long as the administrator
// says, else its package.
func (m *Manager) window(app *snapfile.App) time.Duration {
	raw, found, err := m.settings.Get(optionObserve)
	var text string
	if err == nil && found && json.Unmarshal(raw, &text) == nil {
		if window, err := time.ParseDuration(text); err == nil {
			return window
		}
	}
	if app == nil {
		return 0
	}
	return app.Lifecycle.ObserveFor()
}

func observeTask(services []observed) change.TaskSpec {
	names := make([]string, 0, len(services))
	for i := range services {
		names = append(names, services[i].Unit.String())
	}
	return change.NewTask(taskObserve, "Observe "+strings.Join(names, ", "), observeParams{Services: services})
}

// failure says how a service has failed since its window began; empty if it has not.
func (o *observed) failure(status *supervise.Status) string {
	ended := "ended"
	unclean := status.LastExit != nil && !status.LastExit.Success()
	if status.LastExit != nil {
		ended += ": " + status.LastExit.String()
	}
	switch {
	case status.State == supervise.Failed:
		return ended
	case status.Restarts > o.Restarts && (o.Steady || unclean):
		return ended + " and was restarted"
	case status.State == supervise.Backoff && (o.Steady || unclean):
		return ended
	case status.State == supervise.Inactive && o.Steady:
		return ended
	}
	return ""
}

// outlook is how an observation stands.
type outlook struct {
	// failed is a service that has failed in its window, if one has, and why says how.
	failed tenure.UnitID
	why    string
	// end is when the last window is over.
	end time.Time
}

// look sees how an observation that began at a time stands.
func (p *observeParams) look(statuses map[tenure.UnitID]supervise.Status, began time.Time) outlook {
	var seen outlook
	for i := range p.Services {
		o := &p.Services[i]
		over := began.Add(o.Window)
		if over.After(seen.end) {
			seen.end = over
		}
		// One that has not been launched since the machine was started, and has not failed to
		// be, is only about to run: its supervisor may know it already, or not yet.
		status := statuses[o.Unit]
		tried := status.Generation > 0 || status.State == supervise.Failed
		why := o.failure(&status)
		// What ended after its own window, while another's lasts, has proved itself.
		if tried && why != "" && seen.why == "" && status.Since.Before(over) {
			seen.failed, seen.why = o.Unit, fmt.Sprintf("%s %s, while it was observed for %s", o.Unit, why, o.Window)
		}
	}
	return seen
}

// observeStep lets services prove themselves. It waits as a state of the change, which
// holds the snap and no worker; Confirm wakes it when there is something to see.
type observeStep struct{ m *Manager }

func (s observeStep) Do(ctx context.Context, p observeParams) (nothing, error) {
	c, err := s.m.engine.Get(change.IDFrom(ctx))
	if err != nil {
		return nothing{}, fmt.Errorf("observe services: %w", err)
	}
	statuses, err := s.m.statuses(ctx)
	if err != nil {
		return nothing{}, fmt.Errorf("observe services: %w", err)
	}
	seen := p.look(statuses, observedSince(&c))
	by, trusted := s.m.trusted.why(c.ID)
	switch {
	case seen.why != "":
		s.m.quote(ctx, seen.failed)
		return nothing{}, errors.New(seen.why) //nolint:err113 // What was seen is the error.
	case trusted:
		change.ReporterFrom(ctx).Logf("the observation ends early: %s", by)
		return nothing{}, nil
	case !s.m.cfg.Now().Before(seen.end):
		change.ReporterFrom(ctx).Logf("no service has failed")
		return nothing{}, nil
	}
	return nothing{}, &change.Waiting{For: p.String() + " to run well until " + seen.end.Format(time.TimeOnly), Hold: true, Settled: true}
}

// quoted is how many lines of its log a service that has failed is quoted with.
const quoted = 10

// quote says in the change what a service that has failed wrote last.
func (m *Manager) quote(ctx context.Context, unit tenure.UnitID) {
	lines, late := supervise.LastLines(ctx, m.cfg.Supervisor, unit, quoted)
	for _, line := range lines {
		change.ReporterFrom(ctx).Logf("%s: %s", unit, line)
	}
	if late {
		change.ReporterFrom(ctx).Logf("what %s has logged could not be read in time; see tenure logs %s", unit, unit)
	}
}

// Undo has nothing to do: nothing was done.
func (observeStep) Undo(context.Context, observeParams, nothing) error { return nil }

// String names the services.
func (p *observeParams) String() string {
	names := make([]string, 0, len(p.Services))
	for i := range p.Services {
		names = append(names, p.Services[i].Unit.String())
	}
	return strings.Join(names, ", ")
}

// observation is the task of c that observes; nil if there is none.
func observation(c *change.Change) *change.Task {
	i := slices.IndexFunc(c.Tasks, func(t change.Task) bool { return t.Kind == taskObserve })
	if i < 0 {
		return nil
	}
	return &c.Tasks[i]
}

// observes reports whether a change has done all that it was to do, and waits to see
// whether that was well.
func observes(c *change.Change) bool {
	task := observation(c)
	return task != nil && task.Status == change.Wait && !c.Backward
}

// observationBegun reports whether the observation of a change has begun, and the change has
// not ended or turned round.
func observationBegun(c *change.Change) bool {
	task := observation(c)
	return task != nil && !task.Started.IsZero() && !c.Backward && !c.Status.Ready()
}

// observedSince is when the window of c began.
func observedSince(c *change.Change) time.Time {
	if task := observation(c); task != nil {
		return task.Started
	}
	return time.Time{}
}

// Confirm watches the services of changes that observe them, until ctx ends: it
// wakes a change when a service of it has failed, or its window is over.
func (m *Manager) Confirm(ctx context.Context) error {
	watched := map[change.ID]context.CancelFunc{}
	for c := range m.engine.Subscribe(ctx, 0) {
		stop, watching := watched[c.ID]
		switch {
		case observes(&c) && !watching:
			inner, cancel := context.WithCancel(ctx)
			watched[c.ID] = cancel
			go m.watchObserved(inner, c)
		case watching && !observationBegun(&c):
			stop()
			delete(watched, c.ID)
		}
	}
	return nil
}

// again is how long it takes until a change that was woken and waits on is looked at
// again.
const again = time.Second

func (m *Manager) watchObserved(ctx context.Context, c change.Change) {
	var params observeParams
	if err := json.Unmarshal(observation(&c).Params, &params); err != nil {
		m.wakeChange(ctx, c.ID) // The step will say what is wrong.
		return
	}
	news := make(chan struct{}, 1)
	events := m.cfg.Supervisor.Events(ctx)
	go func() {
		for event := range events {
			ours := slices.ContainsFunc(params.Services, func(o observed) bool { return o.Unit == event.Unit })
			if ours || event.Kind == supervise.EventLost {
				select {
				case news <- struct{}{}:
				default:
				}
			}
		}
	}()
	for {
		statuses, err := m.statuses(ctx)
		seen := params.look(statuses, observedSince(&c))
		rest := seen.end.Sub(m.cfg.Now())
		if err != nil || seen.why != "" || rest <= 0 {
			m.wakeChange(ctx, c.ID)
			rest = again
		}
		timer := time.NewTimer(rest)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-news:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// wakeChange wakes a change that may have ended meanwhile.
func (m *Manager) wakeChange(ctx context.Context, id change.ID) {
	err := m.engine.Wake(ctx, id)
	if _, ended := errors.AsType[*change.FinishedError](err); err != nil && !ended && ctx.Err() == nil {
		m.cfg.Logger.ErrorContext(ctx, "cannot wake a change", slog.Any("change", id), slog.Any("error", err))
	}
}

// trust has the changes whose observation ends early, and why.
type trust struct {
	mu  sync.Mutex
	all map[change.ID]string
}

func (t *trust) put(id change.ID, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = make(map[change.ID]string)
	}
	t.all[id] = why
}

func (t *trust) why(id change.ID) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	why, found := t.all[id]
	return why, found
}

func (t *trust) forget(id change.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, id)
}

// vacate ends the observations of snaps that a request is about to change: who asks
// for the next change has seen what the last one came to. If there were any, it fails
// with errStale: the observation may have ended in an undo.
func (m *Manager) vacate(ctx context.Context, op string, snaps []tenure.Instance) error {
	var stale error
	for _, snap := range snaps {
		for _, c := range m.engine.List(change.Filter{Select: change.Unfinished, Snap: snap}) {
			if !observationBegun(&c) {
				continue
			}
			stale = errStale
			m.trusted.put(c.ID, fmt.Sprintf("the next change was asked for (%s %s)", op, snap))
			m.wakeChange(ctx, c.ID)
			_, err := m.engine.WaitFor(ctx, c.ID)
			m.trusted.forget(c.ID)
			if err != nil {
				return fmt.Errorf("end the observation of %s: %w", snap, err)
			}
		}
	}
	return stale
}
