package refresh

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/revision"
	"tenure/internal/supervise"
)

// autoState is what is kept of the automatic refreshes of the machine.
type autoState struct {
	// Last is when updates were last looked for in a window of refresh.timer.
	Last time.Time `json:"last,omitzero"`
	// Seed is the number by which this machine differs from others.
	Seed uint64 `json:"seed,string"`
}

// autoKey is the key of the one document of autoState.
const autoKey = "state"

// seed is the number of this machine, made when it is first asked for.
func (m *Manager) seed() (uint64, error) {
	known, found, err := m.autos.Get(autoKey)
	if err != nil || found {
		return known.Seed, err
	}
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // It never fails.
	made := autoState{Seed: binary.BigEndian.Uint64(raw)}
	err = m.cfg.Journal.Update(func(tx *journal.Tx) error {
		docs := m.autos.In(tx)
		if known, found, err := docs.Get(autoKey); err != nil || found {
			made = known
			return err
		}
		return docs.Put(autoKey, made)
	})
	return made.Seed, err
}

// Schedule is when automatic refreshes are.
type Schedule struct {
	Timer      string
	Last, Next time.Time
	// Held is that refresh.hold holds them; Hold is until when, zero for ever.
	Held bool
	Hold time.Time
}

// Schedule says when automatic refreshes are.
func (m *Manager) Schedule() (Schedule, error) {
	now := m.cfg.Now()
	seed, err := m.seed()
	if err != nil {
		return Schedule{}, err
	}
	known, _, err := m.autos.Get(autoKey)
	if err != nil {
		return Schedule{}, err
	}
	timer := m.timer()
	s := Schedule{Timer: timer.String(), Last: known.Last, Next: timer.Next(now, seed)}
	hold, held := m.holdOfAll(now)
	if s.Held, s.Hold = held, hold.Until; held && !hold.Until.IsZero() {
		s.Next, _ = timer.Window(hold.Until.In(now.Location()), seed)
		s.Next = later(s.Next, hold.Until)
	} else if held {
		s.Next = time.Time{}
	}
	return s, nil
}

// signal wakes a loop.
type signal chan struct{}

func (s signal) raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// look makes the automatic refreshes look again what is to be done.
func (m *Manager) look() { m.looks.raise() }

// AutoRefresh begins refreshes that nobody has asked for, each when its time has come,
// until ctx ends. It looks when a window of refresh.timer opens, when an update that it
// knows is due, and when a change has ended; nothing is polled. It also remembers which
// revisions have failed.
func (m *Manager) AutoRefresh(ctx context.Context) error {
	a := &automatic{m: m, busy: map[tenure.Instance]bool{}, pauses: map[tenure.Instance]pause{}}
	var helpers sync.WaitGroup
	defer helpers.Wait()
	helpers.Go(func() { m.recordOutcomes(ctx) })
	for ctx.Err() == nil {
		next, err := a.look(ctx, &helpers)
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.ErrorContext(ctx, "cannot look for updates", slog.Any("error", err))
		}
		m.idle(ctx, next)
	}
	return nil
}

// idle waits until a time, if it is not zero, or until somebody wants a look.
func (m *Manager) idle(ctx context.Context, next time.Time) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var over chan struct{}
	if !next.IsZero() {
		over = make(chan struct{})
		go func() {
			defer close(over)
			_ = m.cfg.Wait(ctx, next) // It is looked at again in any case.
		}()
	}
	select {
	case <-m.looks:
	case <-over:
	case <-ctx.Done():
	}
	if cancel(); over != nil {
		<-over
	}
}

// automatic is what AutoRefresh knows.
type automatic struct {
	m *Manager

	mu sync.Mutex
	// busy are the snaps of which a refresh is about to begin.
	busy map[tenure.Instance]bool
	// pauses are the snaps of which a refresh has to wait, for the machine was short of something.
	pauses map[tenure.Instance]pause

	// told are the problems that the last look found.
	told []string
}

// look begins what is due, and gives the time of the next look.
func (a *automatic) look(ctx context.Context, helpers *sync.WaitGroup) (next time.Time, err error) {
	m := a.m
	now := m.cfg.Now()
	seed, err := m.seed()
	if err != nil {
		return next, err
	}
	timer := m.timer()
	next = timer.Next(now, seed)
	all, err := m.sources.All()
	if err != nil || len(all) == 0 {
		return next, err
	}
	if start, _ := timer.Window(now, seed); !start.After(now) {
		if err := m.looked(start, now); err != nil {
			return next, err
		}
	}
	updates, problems, err := m.updatesAt(ctx, now)
	if err != nil {
		return next, err
	}
	a.tell(ctx, problems)
	for i := range updates {
		u := updates[i]
		switch due := u.Next.Due; {
		case u.Next.Staged != 0 || due.At.IsZero():
		case due.Now(now):
			if again := a.pausedUntil(u.Snap); again.After(now) {
				next = sooner(next, again)
			} else if a.claim(u.Snap) {
				helpers.Go(func() { a.begin(ctx, u) })
			}
		default:
			next = sooner(next, due.At)
		}
	}
	return next, nil
}

// sooner is the first of two times, of which the one may be zero, which is never.
func sooner(one, other time.Time) time.Time {
	if one.IsZero() || other.Before(one) {
		return other
	}
	return one
}

// tell warns of what is wrong with sources, once as long as nothing else is: a look may be
// wanted as often as packages like.
func (a *automatic) tell(ctx context.Context, problems []error) {
	var told []string
	for _, problem := range problems {
		told = append(told, problem.Error())
		if !slices.Contains(a.told, problem.Error()) {
			a.m.cfg.Logger.WarnContext(ctx, "a source cannot be read", slog.Any("error", problem))
		}
	}
	a.told = told
}

// looked notes that updates were looked for in a window that opened at a time.
func (m *Manager) looked(start, now time.Time) error {
	known, _, err := m.autos.Get(autoKey)
	if err != nil || !known.Last.Before(start) {
		return err
	}
	known.Last = now.UTC()
	return m.autos.Put(autoKey, known)
}

// claim takes a snap, unless something works on it: then the end of that wakes a look.
func (a *automatic) claim(snap tenure.Instance) bool {
	for _, c := range a.m.engine.List(change.Filter{Select: change.Unfinished, Snap: snap}) {
		if _, waits := deferral(c); !waits {
			return false
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy[snap] {
		return false
	}
	a.busy[snap] = true
	return true
}

// How long a refresh waits that the machine had no room for: it may have fetched the release in vain.
const (
	firstPause = time.Minute
	lastPause  = time.Hour
)

// pause is until when a refresh waits, and for how long it has been made to.
type pause struct {
	until time.Time
	after time.Duration
}

// pausedUntil is when a refresh may be tried again; zero if nothing keeps it.
func (a *automatic) pausedUntil(snap tenure.Instance) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pauses[snap].until
}

// pause makes a refresh wait, twice as long as the last time, or ends it that it waits.
func (a *automatic) pause(snap tenure.Instance, short bool) (until time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !short {
		delete(a.pauses, snap)
		return until
	}
	after := max(firstPause, min(2*a.pauses[snap].after, lastPause))
	until = a.m.cfg.Now().Add(after)
	a.pauses[snap] = pause{until: until, after: after}
	return until
}

// begin begins one refresh.
func (a *automatic) begin(ctx context.Context, u Update) {
	defer func() {
		a.mu.Lock()
		delete(a.busy, u.Snap)
		a.mu.Unlock()
		// What stood in its way may have ended meanwhile.
		a.m.look()
	}()
	// A change may have ended between the look and the claim.
	u, still, err := a.m.stillDue(ctx, u.Snap)
	if err == nil && !still {
		return
	}
	known := err == nil
	log := a.m.cfg.Logger.With(slog.Any("snap", u.Snap), slog.Any("revision", u.Next.Origin.Release.Revision))
	var id change.ID
	if known {
		id, err = a.m.beginAuto(ctx, &u)
	}
	short := !known || KindOf(err) == KindShort || supervise.IsShort(supervise.Short(err))
	again := a.pause(u.Snap, short)
	switch {
	case ctx.Err() != nil:
	case KindOf(err) == KindConflict, KindOf(err) == KindNoUpdate:
		// Somebody was faster: the end of that change wakes a look.
	case short:
		log.ErrorContext(ctx, "automatic refresh has to wait", slog.Any("error", err), slog.Time("again", again))
	case errors.Is(err, errGated):
		log.InfoContext(ctx, "automatic refresh is held", slog.Any("reason", err))
	case err != nil:
		log.ErrorContext(ctx, "automatic refresh refused", slog.Any("error", err))
		err := a.m.failures.note(u.Snap, revision.Failure{
			Digest: u.Next.Origin.Release.Digest, Revision: u.Next.Origin.Release.Revision, At: a.m.cfg.Now().UTC(), Why: oneLine(err.Error()), Refused: true,
		})
		if err != nil {
			log.ErrorContext(ctx, "cannot remember that a refresh was refused", slog.Any("error", err))
		}
	default:
		log.InfoContext(ctx, "automatic refresh", slog.Any("change", id))
	}
}

// stillDue is the update of a snap if there is one that is due.
func (m *Manager) stillDue(ctx context.Context, snap tenure.Instance) (Update, bool, error) {
	now := m.cfg.Now()
	updates, _, err := m.updatesAt(ctx, now)
	at := slices.IndexFunc(updates, func(u Update) bool { return u.Snap == snap })
	if err != nil || at < 0 {
		return Update{Snap: snap}, false, err
	}
	next := updates[at].Next
	return updates[at], next.Staged == 0 && next.Due.Now(now), nil
}

// beginAuto asks those that may say no, fetches a release, and begins the change to it.
func (m *Manager) beginAuto(ctx context.Context, u *Update) (change.ID, error) {
	req := Request{Action: ActionRefresh, Auto: true}
	if err := m.askGates(ctx, u); err != nil {
		return 0, err
	}
	var made []string
	defer func() {
		for _, path := range made {
			m.removeStaged(path)
		}
	}()
	err := m.take(ctx, &req, &made, u.Snap, u.Next.Origin)
	if err == nil {
		err = m.withBases(ctx, &req, &made)
	}
	if err != nil {
		return 0, err
	}
	return m.Do(ctx, req)
}

// errBusy is that a snap is observed after an earlier refresh.
var errBusy = errors.New("it is observed after the last change of it")

// undisturbed refuses an automatic change to a snap that is observed.
func (m *Manager) undisturbed(_ context.Context, _ string, snaps []tenure.Instance) error {
	for _, snap := range snaps {
		for _, c := range m.engine.List(change.Filter{Select: change.Unfinished, Snap: snap}) {
			if observationBegun(&c) {
				return &Error{Kind: KindConflict, Op: "refresh", Object: string(snap), Err: fmt.Errorf("change %s: %w", c.ID, errBusy)}
			}
		}
	}
	return nil
}
