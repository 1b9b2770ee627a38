package refresh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/durable"
	"tenure/internal/mount"
	"tenure/internal/revision"
	"tenure/internal/snapdata"
	"tenure/internal/supervise"
)

// pins are the reasons to keep each revision of state. Those of processes are
// only looked for where nothing else pins a revision: they are expensive.
func (m *Manager) pins(ctx context.Context, state *snapState) (map[tenure.Revision][]revision.Pin, error) {
	all, err := m.pinsOf(ctx, []*snapState{state})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// pinsOf is pins for several snaps, with one look at all processes.
func (m *Manager) pinsOf(ctx context.Context, states []*snapState) ([]map[tenure.Revision][]revision.Pin, error) {
	pins, facts := make([]map[tenure.Revision][]revision.Pin, len(states)), make([]revision.Facts, len(states))
	var idle []tenure.Ref
	for i, state := range states {
		var err error
		if facts[i], err = m.pinFacts(ctx, state.Instance); err != nil {
			return nil, err
		}
		pins[i] = revision.Pins(state.Line, facts[i])
		for _, rev := range revision.Unreachable(state.Line, pins[i]) {
			idle = append(idle, tenure.Ref{Snap: state.Instance, Revision: rev})
		}
	}
	if len(idle) == 0 {
		return pins, nil
	}
	users, err := m.users(ctx, idle)
	if err != nil {
		return nil, err
	}
	for i, state := range states {
		facts[i].Users = map[tenure.Revision][]tenure.Process{}
		for _, ref := range idle {
			if ref.Snap == state.Instance {
				facts[i].Users[ref.Revision] = users[ref]
			}
		}
		pins[i] = revision.Pins(state.Line, facts[i])
	}
	return pins, nil
}

func (m *Manager) pinFacts(ctx context.Context, snap tenure.Instance) (revision.Facts, error) {
	statuses, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return revision.Facts{}, fmt.Errorf("see what pins %s: %w", snap, err)
	}
	facts := revision.Facts{
		Retain:  m.retainOf(snap),
		Units:   map[tenure.Revision][]tenure.UnitID{},
		Changes: map[tenure.Revision][]string{},
	}
	for _, status := range statuses {
		if idle(status) {
			continue
		}
		if status.Unit.Snap == snap {
			facts.Units[status.Revision] = append(facts.Units[status.Revision], status.Unit)
		}
		if status.Spec != nil && status.Spec.Base.Snap == snap {
			facts.Units[status.Spec.Base.Revision] = append(facts.Units[status.Spec.Base.Revision], status.Unit)
		}
	}
	own := change.IDFrom(ctx)
	for _, running := range m.engine.List(change.Filter{Select: change.Unfinished, Snap: snap}) {
		if running.ID == own {
			continue
		}
		for _, rev := range mentioned(running, snap) {
			facts.Changes[rev] = append(facts.Changes[rev], running.ID.String())
		}
	}
	return facts, nil
}

// idle reports whether a unit will not run again from what it was started from
// unless somebody starts it.
func idle(status supervise.Status) bool {
	return status.State == supervise.Inactive || status.State == supervise.Failed
}

// users are the processes, whoever they belong to, that use the mounts of refs.
func (m *Manager) users(ctx context.Context, refs []tenure.Ref) (map[tenure.Ref][]tenure.Process, error) {
	byDev := map[mount.Dev]tenure.Ref{}
	var infos []mount.Info
	for _, ref := range refs {
		info, mounted, err := m.cfg.Table.Mounted(m.cfg.Mounts.Dir(ref.Snap, ref.Revision))
		if err != nil {
			return nil, fmt.Errorf("see who uses %s: %w", ref, err)
		}
		if mounted {
			byDev[info.Dev] = ref
			infos = append(infos, info)
		}
	}
	if len(infos) == 0 {
		return nil, nil //nolint:nilnil // Nobody uses what is not mounted.
	}
	found, err := m.cfg.Table.UsersOf(ctx, infos...)
	if err != nil {
		return nil, fmt.Errorf("see who uses revisions of %s: %w", refs[0].Snap, err)
	}
	users := map[tenure.Ref][]tenure.Process{}
	for dev, uses := range found {
		for _, use := range uses {
			users[byDev[dev]] = append(users[byDev[dev]], use.Process)
		}
	}
	return users, nil
}

// mounted are the mounts of those of revs that are mounted, and whose each device is.
func (m *Manager) mounted(snap tenure.Instance, revs []tenure.Revision) (map[mount.Dev]tenure.Revision, []mount.Info, error) {
	byDev := map[mount.Dev]tenure.Revision{}
	var infos []mount.Info
	for _, rev := range revs {
		info, mounted, err := m.cfg.Table.Mounted(m.cfg.Mounts.Dir(snap, rev))
		if err != nil {
			return nil, nil, fmt.Errorf("see who uses %s: %w", tenure.Ref{Snap: snap, Revision: rev}, err)
		}
		if mounted {
			byDev[info.Dev] = rev
			infos = append(infos, info)
		}
	}
	return byDev, infos, nil
}

// Wake asks for a collection soon: something that may have pinned a revision is gone.
func (m *Manager) Wake() {
	select {
	case m.collect <- struct{}{}:
	default:
	}
}

// Collect runs the collector until ctx ends: it goes over all snaps whenever a
// unit has ended, a change is done, or a process that alone pinned a revision is gone.
func (m *Manager) Collect(ctx context.Context) error {
	units, changes := m.cfg.Supervisor.Events(ctx), m.engine.Subscribe(ctx, m.engine.Revision())
	m.Wake() // What had ended by now, of what the last daemon has left, nobody tells.
	late := time.NewTimer(0)
	defer late.Stop()
	go m.watchUnits(units)
	go m.watchChanges(changes, late)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-late.C:
			m.keepEstimates()
			continue
		case <-m.collect:
		}
		names, err := m.snaps.Names()
		if err != nil {
			m.cfg.Logger.ErrorContext(ctx, "cannot collect revisions", slog.Any("error", err))
			continue
		}
		for _, snap := range names {
			if err := m.collectIdle(ctx, snap); err != nil && ctx.Err() == nil {
				m.cfg.Logger.ErrorContext(ctx, "cannot collect revisions", slog.Any("snap", snap), slog.Any("error", err))
			}
		}
	}
}

func (m *Manager) watchUnits(events iter.Seq[supervise.Event]) {
	for event := range events {
		switch event.Kind {
		case supervise.EventState:
			// A unit that goes on pins what it did.
			if event.State == supervise.Inactive || event.State == supervise.Failed {
				m.Wake()
			}
		case supervise.EventEmpty, supervise.EventMain, supervise.EventLost:
			m.Wake()
		case supervise.EventSplit, supervise.EventSignal, supervise.EventEnded:
		}
	}
}

// watchChanges has late go off when all that a change has ended has been heard of.
func (m *Manager) watchChanges(changes iter.Seq[change.Change], late *time.Timer) {
	for changed := range changes {
		// Nobody is made to wait for the disk while services are stopped.
		if changed.Status.Ready() || changed.Status == change.Wait {
			m.keepEstimates()
			late.Reset(belated)
		}
		if changed.Status.Ready() {
			m.Wake()
		}
	}
}

// collectIdle collects what is unreachable of a snap that no change works on, and lets go of
// bases that are needed no more. A change that does collects by itself, and wakes the
// collector when it ends.
func (m *Manager) collectIdle(ctx context.Context, snap tenure.Instance) error {
	release, err := m.claims.take(ctx, snap)
	if err != nil {
		return err
	}
	defer release()
	if m.held(snap) {
		return nil
	}
	// What is listed and cannot be got is damaged, or gone with a change that has collected what there was of it. Nothing
	// tells what is to be kept.
	if state, err := m.snaps.Get(snap); err != nil || state == nil {
		return err
	}
	if err := errors.Join(m.forgetHooks(ctx, snap), m.forgetEnded(ctx, snap), m.forgetInstances(ctx, snap)); err != nil {
		return err
	}
	return errors.Join(m.rearm(ctx, snap), m.collectSnap(ctx, snap))
}

// collectSnap drops the unreachable revisions of one snap.
func (m *Manager) collectSnap(ctx context.Context, snap tenure.Instance) (err error) {
	m.collectSnaps(ctx, []tenure.Instance{snap}, func(_ tenure.Instance, failed error) { err = errors.Join(err, failed) })
	return err
}

// collectSnaps drops the unreachable revisions of snaps: first from their
// states, durably, then from the machine, so that a crash leaves something to
// sweep and never a state that speaks of what is gone. It tells of what has failed.
func (m *Manager) collectSnaps(ctx context.Context, snaps []tenure.Instance, failed func(tenure.Instance, error)) {
	states := make(map[tenure.Instance]*snapState, len(snaps))
	var there []*snapState
	for _, snap := range snaps {
		state, err := m.snaps.Get(snap)
		if err != nil {
			failed(snap, err)
			continue
		}
		if states[snap] = state; state != nil {
			there = append(there, state)
		}
	}
	after, err := m.forgetUnreachable(ctx, there)
	switch {
	case err != nil && len(snaps) > 1:
		// What is wrong with one of them keeps no other.
		for _, snap := range snaps {
			m.collectSnaps(ctx, []tenure.Instance{snap}, failed)
		}
		return
	case err != nil:
		failed(snaps[0], err)
		return
	}
	for _, state := range after {
		states[state.Instance] = state
	}
	var mu sync.Mutex
	var sweeping errgroup.Group
	sweeping.SetLimit(sideBySide)
	for snap, state := range states {
		sweeping.Go(func() error {
			if err := change.Guarded(func() error { return m.sweepSnap(ctx, snap, state) }); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed(snap, err)
			}
			return nil
		})
	}
	_ = sweeping.Wait() // They are all told of.
}

// forgetUnreachable drops from states, durably, the revisions that nothing reaches, and returns those that it has changed.
func (m *Manager) forgetUnreachable(ctx context.Context, states []*snapState) (changed []*snapState, err error) {
	pins, err := m.pinsOf(ctx, states)
	if err != nil {
		return nil, err
	}
	var said []string
	for i, state := range states {
		m.watchUsers(ctx, state, pins[i])
		line := state.Line
		unreachable := revision.Unreachable(line, pins[i])
		for _, rev := range unreachable {
			if line, _, err = revision.Forget(line, rev); err != nil {
				return nil, err
			}
		}
		if len(unreachable) > 0 {
			changed = append(changed, state.with(line))
			said = append(said, fmt.Sprintf("collected %s of %s", revisionNames(unreachable), state.Instance))
		}
	}
	if err := m.snaps.PutAll(changed); err != nil {
		return nil, err
	}
	for _, line := range said {
		change.ReporterFrom(ctx).Logf("%s", line)
	}
	return changed, nil
}

// sweepSnap removes from the machine what state does not speak of: mounts, files
// and data of revisions, and everything when there is no revision left. Revisions of
// a change that has not ended are spoken of by the change.
func (m *Manager) sweepSnap(ctx context.Context, snap tenure.Instance, state *snapState) error {
	spoken := map[tenure.Revision]bool{}
	if state != nil {
		for _, rev := range state.Line.Kept() {
			spoken[rev] = true
		}
	}
	own := change.IDFrom(ctx)
	for _, running := range m.engine.List(change.Filter{Select: change.Unfinished, Snap: snap}) {
		if running.ID == own {
			continue
		}
		if _, waits := deferral(running); !waits {
			return nil
		}
		for _, rev := range mentioned(running, snap) {
			spoken[rev] = true
		}
	}
	failures := []error{m.sweepAside(ctx, snap)}
	for _, rev := range m.present(snap) {
		if !spoken[rev] {
			failures = append(failures, m.sweepRevision(ctx, tenure.Ref{Snap: snap, Revision: rev}))
		}
	}
	if len(spoken) == 0 && errors.Join(failures...) == nil {
		failures = append(failures, m.sweepRest(ctx, snap))
	}
	return errors.Join(failures...)
}

// present are the revisions of which anything is on the machine. What is no directory is somebody else's.
func (m *Manager) present(snap tenure.Instance) []tenure.Revision {
	found := map[tenure.Revision]bool{}
	for _, dir := range []string{m.cfg.Mounts.SnapDir(snap), m.cfg.Paths.DataDir(snap), m.cfg.Paths.UserDir(snap)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			if rev, err := tenure.ParseRevision(entry.Name()); err == nil && entry.IsDir() {
				found[rev] = true
			}
		}
	}
	if stored, err := m.cfg.Mounts.Files(); err == nil {
		for _, file := range stored {
			if file.Snap == snap {
				found[file.Revision] = true
			}
		}
	}
	revs := make([]tenure.Revision, 0, len(found))
	for rev := range found {
		revs = append(revs, rev)
	}
	slices.SortFunc(revs, tenure.Revision.Compare)
	return revs
}

func (m *Manager) sweepRevision(ctx context.Context, ref tenure.Ref) error {
	if err := m.unmountRevision(ctx, ref); err != nil {
		if errors.Is(err, mount.ErrBusy) {
			m.awaitUsers(ctx, ref)
		}
		return err
	}
	if err := m.cfg.Mounts.Remove(ref.Snap, ref.Revision); err != nil {
		return err
	}
	return m.removeData(ctx, ref)
}

// sweepAside removes data that was in the way of a change that is done. That of a
// revision which is staged is put back if its change is undone.
func (m *Manager) sweepAside(ctx context.Context, snap tenure.Instance) error {
	places, release, err := m.places(snap)
	if err != nil {
		return err
	}
	defer release()
	var failures []error
	waiting := m.staged()
	for _, at := range places {
		entries, err := os.ReadDir(at.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		failures = append(failures, err)
		for _, entry := range entries {
			name, aside := snapdata.AsideOf(entry.Name())
			rev, err := tenure.ParseRevision(name)
			ref := tenure.Ref{Snap: snap, Revision: rev}
			if !aside || err != nil || waiting[ref] != 0 {
				continue
			}
			if err := snapdata.Remove(ctx, filepath.Join(at.path, entry.Name())); !m.spoilt(ctx, at, ref, err) {
				failures = append(failures, err)
			}
		}
	}
	return errors.Join(failures...)
}

// sweepRest removes what all revisions of a snap share, and last of all its state:
// as long as that is there, the collector tries again.
func (m *Manager) sweepRest(ctx context.Context, snap tenure.Instance) error {
	if err := m.forgetUnits(ctx, snap); err != nil {
		return err
	}
	if err := m.dropLogs(ctx, snap); err != nil {
		return err
	}
	if err := m.dropSnapDir(ctx, snap); err != nil {
		return err
	}
	if err := errors.Join(m.dropDataDir(ctx, snap), m.dropUserDirs(ctx, snap)); err != nil {
		return err
	}
	if err := snapdata.Remove(ctx, m.cfg.Paths.Tmp(snap)); err != nil {
		return fmt.Errorf("remove temporary files of %s: %w", snap, err)
	}
	if err := errors.Join(m.confs.drop(snap), m.instances.drop(snap), m.allowances.drop(snap), m.aliases.drop(snap), m.estimates.drop(snap), m.forgetUpdates(snap)); err != nil {
		return err
	}
	// When nothing speaks of the snap any more nothing of it may come back.
	if err := durable.Sync(m.cfg.Paths.Bin(), m.cfg.Paths.Mounts(), filepath.Dir(m.cfg.Paths.DataDir(snap)), filepath.Dir(m.cfg.Paths.UserDir(snap))); err != nil {
		return fmt.Errorf("remove %s: %w", snap, err)
	}
	return m.snaps.Put(snap, nil)
}

// forgetUnits drops what the supervisor knows of a snap that is gone.
func (m *Manager) forgetUnits(ctx context.Context, snap tenure.Instance) error {
	statuses, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return fmt.Errorf("forget units of %s: %w", snap, err)
	}
	var units []tenure.UnitID
	for _, status := range statuses {
		if status.Unit.Snap == snap {
			units = append(units, status.Unit)
		}
	}
	if len(units) == 0 {
		return nil
	}
	return m.cfg.Supervisor.Forget(ctx, units...)
}

// dropLogs deletes what the units of a snap that is gone wrote.
func (m *Manager) dropLogs(ctx context.Context, snap tenure.Instance) error {
	if logs, ok := m.cfg.Supervisor.(supervise.LogKeeper); ok {
		return logs.DropLogs(ctx, snap)
	}
	return nil
}

// watchUsers waits, for each process that alone pins a revision, for its end:
// nobody else tells.
func (m *Manager) watchUsers(ctx context.Context, state *snapState, pins map[tenure.Revision][]revision.Pin) {
	var revs []tenure.Revision
	for rev, why := range pins {
		if !slices.ContainsFunc(why, func(pin revision.Pin) bool { return pin.Kind != revision.PinProcess }) {
			revs = append(revs, rev)
		}
	}
	if len(revs) == 0 {
		return
	}
	refs := make([]tenure.Ref, 0, len(revs))
	for _, rev := range revs {
		refs = append(refs, tenure.Ref{Snap: state.Instance, Revision: rev})
	}
	m.watchUsersOf(ctx, refs...)
}

// watchUsersOf waits for the ends of all who use the mounts of refs, and reports how many there are.
func (m *Manager) watchUsersOf(ctx context.Context, refs ...tenure.Ref) (watched int) {
	users, err := m.users(ctx, refs)
	if err != nil {
		return 0
	}
	for _, processes := range users {
		watched += len(processes)
		for _, process := range processes {
			m.endings.watch(context.WithoutCancel(ctx), process, m.Wake)
		}
	}
	return watched
}

// awaitUsers waits for those who use the mount of a revision that no state speaks of any more: they came when it had been seen
// that nobody did. Who is gone by now, or cannot be seen, is no reason not to try again.
func (m *Manager) awaitUsers(ctx context.Context, ref tenure.Ref) {
	if m.watchUsersOf(ctx, ref) == 0 {
		m.endings.look(context.WithoutCancel(ctx), ref, m.Wake)
	}
}

func revisionNames(revs []tenure.Revision) string {
	names := make([]string, 0, len(revs))
	for _, rev := range revs {
		names = append(names, rev.String())
	}
	return strings.Join(names, ", ")
}

// report says in the change, or in the log where there is none, that something
// went wrong that nobody waits for.
func (m *Manager) report(ctx context.Context, snap tenure.Instance, err error) {
	change.ReporterFrom(ctx).Logf("%v; it is tried again later", err)
	m.cfg.Logger.WarnContext(ctx, "collection is incomplete", slog.Any("snap", snap), slog.Any("error", err))
}
