package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/policy"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// wait is what a change in status Wait waits for, and what people have said about
// it since. It outlives the daemon, and is dropped when its change has ended.
type wait struct {
	Units []awaited `json:"units"`
	// Now, Force and Kill are the administrator's word, given while the change waited.
	Now   bool `json:"now,omitempty"`
	Force bool `json:"force,omitempty"`
	Kill  bool `json:"kill,omitempty"`
}

// awaited is a unit that is waited for, as it was when it had to be.
type awaited struct {
	Unit tenure.UnitID `json:"unit"`
	// Generation is the launch that is waited for, of a service.
	Generation int              `json:"generation,omitempty"`
	Processes  []tenure.Process `json:"processes,omitempty"`
	// While is the pattern of a service that is waited for only while one of Processes
	// matches it.
	While string `json:"while,omitempty"`
	// Limit is how long it is waited for at most; 0 is without a limit of its own.
	Limit time.Duration `json:"limit,omitempty"`
	// Ruled is that a rule of the administrator has the change wait for it.
	Ruled bool `json:"ruled,omitempty"`
	// Command is the command line of the first of them, for people.
	Command string `json:"command,omitempty"`
	// Told is when the unit had been told to stop and had not ended in its time; zero for one that is
	// left alone.
	Told time.Time `json:"told,omitzero"`
}

// over reports whether what was waited for of a unit is gone.
func (a awaited) over(known map[tenure.UnitID]supervise.Status) bool {
	if a.Unit.Kind == tenure.Service && (a.lapsed(known) || !known[a.Unit].State.Alive()) {
		return true
	}
	if a.Unit.Kind == tenure.Service && a.While == "" {
		return false
	}
	return !slices.ContainsFunc(a.Processes, a.holds)
}

// holds reports whether a process lives, and is still at what is waited for.
func (a awaited) holds(process tenure.Process) bool {
	if a.While == "" {
		return lives(process)
	}
	info, err := proc.Read(process.PID)
	if err != nil {
		return !errors.Is(err, proc.ErrGone)
	}
	pattern, err := regexp.Compile(a.While)
	return info.Process == process && (err != nil || pattern.MatchString(info.CommandLine()))
}

// lapsed reports whether a service was launched again since.
func (a awaited) lapsed(known map[tenure.UnitID]supervise.Status) bool {
	return a.Unit.Kind == tenure.Service && known[a.Unit].Generation > a.Generation
}

// lives reports whether a process has not ended. One that its parent has not reaped yet
// has: of the reaping nobody would hear.
func lives(process tenure.Process) bool {
	handle, err := proc.Open(process)
	if err != nil {
		return !errors.Is(err, proc.ErrGone)
	}
	defer handle.Close()
	ended, err := handle.Ended()
	return err != nil || !ended
}

// over reports whether nothing of w is left to wait for.
func (w *wait) over(known map[tenure.UnitID]supervise.Status) bool {
	return !slices.ContainsFunc(w.Units, func(a awaited) bool { return !a.over(known) })
}

// yields reports whether the administrator's word, or a limit, ends the wait: not
// that for hooks alone.
func (w *wait) yields() bool {
	return slices.ContainsFunc(w.Units, func(a awaited) bool { return a.Unit.Kind != tenure.HookRun && a.Told.IsZero() })
}

func (w *wait) has(unit tenure.UnitID) bool {
	return slices.ContainsFunc(w.Units, func(a awaited) bool { return a.Unit == unit })
}

// waited is the wait of the change whose step runs with ctx; nil if it has not waited.
func (m *Manager) waited(ctx context.Context) (*wait, error) {
	w, found, err := m.waits.Get(change.IDFrom(ctx).String())
	if err != nil {
		return nil, fmt.Errorf("see what was waited for: %w", err)
	}
	if !found {
		return nil, nil //nolint:nilnil // Not to have waited is no error.
	}
	return &w, nil
}

// putWait notes what the change whose step runs with ctx waits for from now on. What
// was said meanwhile holds.
func (m *Manager) putWait(ctx context.Context, units []awaited) error {
	return m.updateWait(change.IDFrom(ctx), func(w *wait) { w.Units = units })
}

func (m *Manager) updateWait(id change.ID, update func(*wait)) error {
	err := m.cfg.Journal.Update(func(tx *journal.Tx) error {
		waits := m.waits.In(tx)
		w, _, err := waits.Get(id.String())
		if err != nil {
			return err
		}
		update(&w)
		return waits.Put(id.String(), w)
	})
	if err != nil {
		return fmt.Errorf("note what change %s waits for: %w", id, err)
	}
	return nil
}

// Attend wakes changes that wait as soon as what they wait for has happened: a unit
// has ended, a limit has passed. It gives up those that a newer one has made
// pointless. It hears of ends, and sets a timer for limits; nothing is polled but what
// processes say of themselves, where a change waits for that (ADR 8).
//
// It first has every change that waits look again, for nobody has watched until
// now, and starts what runs no more of their snaps afterwards.
func (m *Manager) Attend(ctx context.Context) error {
	look := make(chan struct{}, 1)
	a := &attendant{m: m, woken: map[change.ID]string{}, watched: map[tenure.Process]bool{}, wake: func() {
		select {
		case look <- struct{}{}:
		default:
		}
	}}
	waited := m.resting()
	a.listen(ctx)
	go m.resumeWaits(ctx, waited)
	for {
		next, err := a.look(ctx)
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.ErrorContext(ctx, "cannot see what changes wait for", slog.Any("error", err))
		}
		if !m.lookAgain(ctx, look, next) {
			return nil
		}
	}
}

// lookAgain waits until it is time to look again: at next, if that is not zero. It
// reports false when ctx has ended.
func (m *Manager) lookAgain(ctx context.Context, look <-chan struct{}, next time.Time) bool {
	var over chan struct{}
	if !next.IsZero() {
		waiting, cancel := context.WithCancel(ctx)
		defer cancel()
		over = make(chan struct{})
		go func() {
			defer close(over)
			// It also ends when the clock was set: what time it is then is looked at.
			if err := m.cfg.Wait(waiting, next); err != nil && waiting.Err() == nil {
				m.cfg.Logger.WarnContext(ctx, "the clock cannot tell when a wait is over", slog.Any("error", err))
				<-time.After(again) // It is looked at again in any case.
			}
		}()
	}
	select {
	case <-look:
	case <-over:
	case <-ctx.Done():
		return false
	}
	return true
}

// resting are the changes that wait, and those that have waited and ended since Settle looked: they, too, have kept services
// from being started.
func (m *Manager) resting() (waited []change.Change) {
	for _, c := range m.engine.List(change.Filter{Select: change.All}) {
		if _, found, err := m.waits.Get(c.ID.String()); err == nil && found {
			waited = append(waited, c)
		}
	}
	return waited
}

// resumeWaits lets every change that waits look again, and starts services of its
// snap that should run and do not, if it still waits then or was undone. It returns when all of them have.
func (m *Manager) resumeWaits(ctx context.Context, waited []change.Change) {
	var group sync.WaitGroup
	defer group.Wait()
	for _, c := range waited {
		if c.Status == change.Wait {
			_ = m.engine.Wake(ctx, c.ID) // Or it has ended.
		}
		group.Go(func() {
			c, err := m.settled(ctx, c.ID)
			if err != nil {
				return
			}
			for _, snap := range c.Snaps {
				if err := m.startMissing(ctx, snap, undone(&c)); err != nil && ctx.Err() == nil {
					m.cfg.Logger.ErrorContext(ctx, "not every service could be started", slog.Any("error", err))
				}
			}
		})
	}
}

// undone are the revisions that a change would have led to and does not.
func undone(c *change.Change) (refs []tenure.Ref) {
	if !c.Status.Ready() || c.Status == change.Done {
		return nil
	}
	for _, plan := range plansOf(*c) {
		refs = append(refs, tenure.Ref{Snap: plan.Change.Snap, Revision: plan.Change.To})
	}
	return refs
}

// settled waits until a change that was woken has ended or waits again.
func (m *Manager) settled(ctx context.Context, id change.ID) (change.Change, error) {
	var rev uint64
	for {
		c, err := m.engine.Watch(ctx, id, rev)
		if err != nil || c.Status.Ready() || c.Status == change.Wait {
			return c, err
		}
		rev = c.Rev
	}
}

// attendant is what Attend knows.
type attendant struct {
	m *Manager
	// wake makes it look.
	wake func()
	// woken is on what each change was last woken for: nobody is woken twice for one thing.
	woken map[change.ID]string
	// watched are the processes whose end it hears of, beside those of units.
	watched map[tenure.Process]bool
}

func (a *attendant) listen(ctx context.Context) {
	events := a.m.cfg.Supervisor.Events(ctx)
	go func() {
		for event := range events {
			ended := event.Kind == supervise.EventState && !event.State.Alive()
			if ended || event.Kind == supervise.EventEmpty || event.Kind == supervise.EventLost {
				a.wake()
			}
		}
	}()
	changes := a.m.engine.Subscribe(ctx, a.m.engine.Revision())
	go func() {
		for c := range changes {
			if c.Status == change.Wait || c.Status.Ready() {
				a.wake()
			}
		}
	}()
}

// look wakes what is due, gives up what is pointless, and gives the time of the
// next limit; zero is none.
func (a *attendant) look(ctx context.Context) (next time.Time, err error) {
	waits, err := a.m.waits.All()
	if err != nil || len(waits) == 0 {
		return next, err
	}
	known, err := a.m.statuses(ctx)
	if err != nil {
		return next, err
	}
	limit := a.m.limits().MaxDeferral
	for text, w := range waits {
		id, err := change.ParseID(text)
		if err != nil {
			continue
		}
		c, err := a.m.engine.Get(id)
		switch {
		case err != nil || c.Status.Ready():
			delete(a.woken, id)
			if err := a.m.waits.Delete(text); err != nil {
				return next, err
			}
		case c.Status != change.Wait:
		default:
			at, err := a.attend(ctx, c, &w, known, limit)
			if err != nil {
				return next, err
			}
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
	return next, nil
}

// attend looks after one change that waits.
func (a *attendant) attend(ctx context.Context, c change.Change, w *wait, known map[tenure.UnitID]supervise.Status, limit time.Duration) (at time.Time, err error) {
	if why, err := a.m.pointless(c); err != nil || why != "" {
		if err == nil {
			a.m.cfg.Logger.InfoContext(ctx, "a staged revision is given up", slog.String("change", c.ID.String()), slog.String("reason", why))
			err = a.m.engine.Abort(ctx, c.ID)
		}
		return at, err
	}
	due := w.over(known)
	if w.yields() {
		due = due || w.Now || w.Force
		if at = w.until(c.Spawned, limit); !at.IsZero() {
			due = due || !a.m.cfg.Now().Before(at)
		}
	}
	if !due {
		if due, err = a.m.released(ctx, c, w); err != nil {
			return at, err
		}
	}
	if !due {
		delete(a.woken, c.ID)
		a.watch(ctx, w)
		return w.lookAgainAt(a.m.cfg.Now(), at), nil
	}
	seen := []any{*w}
	for _, unit := range w.Units {
		seen = append(seen, known[unit.Unit].State, known[unit.Unit].Generation)
	}
	key := fmt.Sprint(seen...)
	if a.woken[c.ID] == key {
		return time.Time{}, nil
	}
	a.woken[c.ID] = key
	return time.Time{}, a.m.engine.Wake(ctx, c.ID)
}

// glance is how often it is seen whether a process is still at what is waited for: what
// a process says of itself it writes to its own memory, and the kernel tells nobody.
const glance = time.Second

// lookAgainAt is when to look at w again, if nothing happens before: at its limit, or
// soon where the end of what is waited for is not an event.
func (w *wait) lookAgainAt(now, limit time.Time) time.Time {
	soon := now.Add(ruledGlance)
	if slices.ContainsFunc(w.Units, func(a awaited) bool { return a.Ruled }) && (limit.IsZero() || soon.Before(limit)) {
		limit = soon
	}
	soon = now.Add(glance)
	if slices.ContainsFunc(w.Units, func(a awaited) bool { return a.While != "" }) && (limit.IsZero() || soon.Before(limit)) {
		return soon
	}
	return limit
}

// watch hears of the ends of processes that are not yet units of their own.
func (a *attendant) watch(ctx context.Context, w *wait) {
	for _, unit := range w.Units {
		if unit.Unit.Kind == tenure.Service && unit.While == "" {
			continue
		}
		for _, process := range unit.Processes {
			if a.watched[process] {
				continue
			}
			a.watched[process] = true
			go func() {
				if handle, err := proc.Open(process); err == nil {
					defer handle.Close()
					if _, err := handle.Wait(ctx); err != nil && ctx.Err() != nil {
						return
					}
				}
				a.wake()
			}()
		}
	}
}

// pointless says why a change that waits before its switch leads nowhere any more:
// it is empty if it does.
func (m *Manager) pointless(c change.Change) (string, error) {
	plan, switches := deferral(c)
	if !switches {
		return "", nil
	}
	snap := plan.Change.Snap
	for _, other := range m.deferred(snap) {
		if other.ID > c.ID {
			return "change " + other.ID.String() + " is newer", nil
		}
	}
	state, err := m.snaps.Get(snap)
	if err != nil {
		return "", err
	}
	if state == nil || state.Line.Current != plan.Change.From {
		return fmt.Sprintf("revision %s is no longer the current one", plan.Change.From), nil
	}
	return "", nil
}

// deferral is the plan of a change that waits before it switches a snap to another
// revision.
func deferral(c change.Change) (policy.Plan, bool) {
	if c.Status != change.Wait || c.Holds || len(c.Snaps) != 1 {
		return policy.Plan{}, false // Whoever follows changes asks at each of their steps.
	}
	plans := plansOf(c)
	if len(plans) != 1 {
		return policy.Plan{}, false
	}
	reason := plans[0].Change.Reason
	return plans[0], reason == tenure.ReasonRefresh || reason == tenure.ReasonRevert
}

// deferred are the changes that wait to switch snap to another revision, oldest first.
func (m *Manager) deferred(snap tenure.Instance) []change.Change {
	found := m.engine.List(change.Filter{Select: change.WaitingOnly, Snap: snap})
	return slices.DeleteFunc(found, func(c change.Change) bool {
		_, is := deferral(c)
		return !is
	})
}

// staged are the revisions that wait to become current, with the changes that do.
func (m *Manager) staged() map[tenure.Ref]change.ID {
	found := map[tenure.Ref]change.ID{}
	for _, c := range m.engine.List(change.Filter{Select: change.WaitingOnly}) {
		if plan, is := deferral(c); is {
			found[tenure.Ref{Snap: plan.Change.Snap, Revision: plan.Change.To}] = c.ID
		}
	}
	return found
}
