package refresh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/durable"
	"tenure/internal/proc"
	"tenure/internal/supervise"
)

// Boot brings every revision that is kept back to its place, and those that a change
// had brought to theirs: mounts do not outlive the machine. It runs before changes
// are resumed. A revision that cannot be mounted does not keep the others from it.
func (m *Manager) Boot(ctx context.Context) error {
	// The files in it are for everybody to read who is given them: for a child without rights.
	staging := m.cfg.Paths.Staging()
	if err := errors.Join(os.MkdirAll(staging, 0o700), os.Chmod(staging, 0o700)); err != nil {
		return fmt.Errorf("make directories: %w", err)
	}
	for _, dir := range []string{m.cfg.Paths.Mounts(), m.cfg.Paths.Programs(), filepath.Dir(m.cfg.Paths.SnapctlSocket())} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directories: %w", err)
		}
	}
	if err := errors.Join(m.writeUsers(), m.offerSnapctl(), m.cfg.Mounts.Sweep(), m.snapshots.Sweep()); err != nil {
		return err
	}
	if err := m.recoverState(ctx); err != nil {
		return err
	}
	fresh, err := m.freshBoot()
	if err != nil {
		return err
	}
	states, err := m.snaps.All()
	if err != nil {
		return err
	}
	links, err := m.bootChanges(ctx)
	if err != nil {
		return err
	}
	// Where the machine has not started anew there is only to be looked, and nothing to be mounted.
	var workers errgroup.Group
	workers.SetLimit(1)
	if !fresh {
		workers.SetLimit(bootWorkers)
	}
	// The last daemon may not have lived to put back what the disk refused it; what it refuses this one is tried again.
	broken := fresh || m.unmended()
	for i := range states {
		workers.Go(func() error { return m.bootOne(ctx, &states[i], fresh, broken, links) })
	}
	err = workers.Wait()
	if broken {
		m.restoreRest(ctx, states, links)
	}
	if err == nil && !m.cfg.Trial {
		m.unmark()
	}
	return err
}

// restoreRest is restore for snaps that only a change knows yet, and removes what is left of commands that nobody has any more.
func (m *Manager) restoreRest(ctx context.Context, states []snapState, links []relinked) {
	known := map[tenure.Instance]bool{}
	for i := range states {
		known[states[i].Instance] = true
	}
	var err error
	for _, l := range links {
		if snap := l.params.Snap; !known[snap] {
			known[snap] = true
			err = errors.Join(err, m.restore(ctx, &snapState{Instance: snap}, links))
		}
	}
	entries, failed := m.placedCommands()
	if failed == nil {
		failed = m.sweepCommands(entries, states, links)
	}
	if failed != nil {
		m.mendCommands()
	}
	if err = errors.Join(err, failed); err != nil {
		m.cfg.Logger.ErrorContext(ctx, "not all commands are as they were", slog.Any("error", err))
	}
}

// bootWorkers is how many snaps are looked at side by side: who looks waits for the disk.
const bootWorkers = 4

// bootOne is Boot for one snap.
func (m *Manager) bootOne(ctx context.Context, state *snapState, fresh, broken bool, links []relinked) error {
	err := m.bootSnap(ctx, state)
	if broken {
		err = errors.Join(err, m.restore(ctx, state, links))
	}
	if err != nil {
		m.cfg.Logger.ErrorContext(ctx, "cannot bring a snap back", slog.Any("snap", state.Instance), slog.Any("error", err))
	}
	if !fresh || len(state.Stopped) == 0 {
		return nil
	}
	state.Stopped = nil
	return m.snaps.Put(state.Instance, state)
}

// bootChanges mounts again what changes that have not ended had mounted, and makes again what they had
// made and does not outlive the machine. It returns what they have done, or may have done, to links.
func (m *Manager) bootChanges(ctx context.Context) (links []relinked, err error) {
	saved, err := m.cfg.Journal.Changes().Load(ctx)
	if err != nil {
		return nil, err
	}
	for i := range saved.Changes {
		c := &saved.Changes[i]
		if c.Status.Ready() {
			continue
		}
		for j := range c.Tasks {
			link, err := m.bootTask(ctx, &c.Tasks[j])
			if err != nil {
				m.cfg.Logger.ErrorContext(ctx, "cannot bring back what a change has done", slog.Any("change", c.ID), slog.Any("error", err))
			} else if link != nil {
				links = append(links, *link)
			}
		}
	}
	return links, nil
}

// bootTask is bootChanges for one task.
func (m *Manager) bootTask(ctx context.Context, task *change.Task) (*relinked, error) {
	done := task.Status == change.Done
	switch {
	case done && (task.Kind == taskMount || task.Kind == taskMountAll):
		each, err := eachOf[mountParams](task, taskMountAll)
		if err != nil {
			return nil, err
		}
		for _, one := range each {
			err = errors.Join(err, m.mountRevision(ctx, one.Ref))
		}
		return nil, err
	case done && (task.Kind == taskCopy || task.Kind == taskCopyAll):
		each, err := eachOf[copyParams](task, taskCopyAll)
		if err != nil {
			return nil, err
		}
		for i := range each {
			err = errors.Join(err, m.makeDataDirs(each[i].To.Snap))
		}
		return nil, err
	}
	return relinkedBy(task)
}

// relinkedBy is what a task has done to links, or may have done; nil is nothing.
func relinkedBy(task *change.Task) (*relinked, error) {
	if task.Kind != taskLink || !task.Begun {
		return nil, nil //nolint:nilnil // Nothing to make again.
	}
	link := relinked{status: task.Status}
	err := json.Unmarshal(task.Params, &link.params)
	return &link, err
}

func (m *Manager) bootSnap(ctx context.Context, state *snapState) error {
	var failures []error
	for _, rev := range state.Line.Kept() {
		failures = append(failures, m.bringBack(ctx, tenure.Ref{Snap: state.Instance, Revision: rev}, state.Kept[rev]))
	}
	if state.Line.Installed() {
		ref := tenure.Ref{Snap: state.Instance, Revision: state.Line.Current}
		failures = append(failures, m.makeDataDirs(state.Instance), m.makeUserDirs(ref))
	}
	return errors.Join(failures...)
}

// relinked is what a change that has not ended has done to the links of a snap, or may have done.
type relinked struct {
	params linkParams
	status change.Status
}

// restore makes again what follows from the state of a snap, and from the change that works on it, now or as
// soon as the disk lets it. Nobody has waited for that to be on the disk, and a machine that lost its power may have lost it.
func (m *Manager) restore(ctx context.Context, state *snapState, links []relinked) error {
	p := linksOf(state)
	for _, l := range links {
		if l.params.Snap != state.Instance {
			continue
		}
		switch l.status {
		case change.Do, change.Doing:
			return nil // The step finds out, and does the same.
		case change.Done, change.Undo, change.Undoing:
			p.To, p.ToApps, p.ToCompleted = l.params.To, l.params.ToApps, l.params.ToCompleted
			p.FromApps = append(p.FromApps, l.params.FromApps...)
		case change.Abort, change.Undone, change.Hold, change.Error, change.Wait:
		}
	}
	err := m.remake(ctx, state, p)
	if err != nil {
		m.mendLinks(p)
	}
	return err
}

// remake makes the directories of a snap's data, its links, its commands and their other names.
func (m *Manager) remake(ctx context.Context, state *snapState, p linkParams) error {
	var dirs []string
	for _, rev := range state.Line.Kept() {
		dirs = append(dirs, m.cfg.Paths.Data(tenure.Ref{Snap: state.Instance, Revision: rev}))
	}
	return errors.Join(durable.MkdirAll(0o755, dirs...), m.link(ctx, p))
}

// linksOf are the links and commands of a snap, by its state: those of any revision that it has go, but for those of the current one.
func linksOf(state *snapState) linkParams {
	p := linkParams{Snap: state.Instance}
	if info := state.Kept[state.Line.Current].Info; info != nil && state.Line.Active {
		p.To, p.ToApps, p.ToCompleted = state.Line.Current, commands(info), completed(info)
	}
	for rev := range state.Kept {
		if info := state.Kept[rev].Info; info != nil {
			p.FromApps = append(p.FromApps, commands(info)...)
		}
	}
	return p
}

// bootMarker tells a start of the daemon from a start of the machine.
func (m *Manager) bootMarker() string { return filepath.Join(m.cfg.Paths.Run(), "boot") }

// freshBoot reports whether the machine, or this private instance of it, has
// started since the daemon last ran.
func (m *Manager) freshBoot() (bool, error) {
	id, err := proc.BootID()
	if err != nil {
		return false, fmt.Errorf("see whether the machine was restarted: %w", err)
	}
	known, err := os.ReadFile(m.bootMarker())
	if err == nil && string(known) == id {
		return false, nil
	}
	if err := os.WriteFile(m.bootMarker(), []byte(id), 0o600); err != nil {
		return false, fmt.Errorf("note that the machine was restarted: %w", err)
	}
	return true, nil
}

// Settle runs when changes have been resumed: it starts the enabled services
// that the supervisor does not know, as after a start of the machine, drops
// what an interrupted request left behind, and wakes the collector. Of snaps of
// which a change waits Attend starts them: a revision that is staged comes first.
func (m *Manager) Settle(ctx context.Context) error {
	m.sweepStaging()
	// Nobody can ask for anything yet: a snap that no change works on now stays as it
	// is, so what is read of it after this look is one picture.
	busy := map[tenure.Instance]bool{}
	for _, running := range m.engine.List(change.Filter{Select: change.All}) {
		_, attended, err := m.waits.Get(running.ID.String())
		if err != nil {
			return fmt.Errorf("see what waits: %w", err)
		}
		waits := running.Status == change.Wait
		works := !running.Status.Ready() && (!waits || running.Holds || attended) && !observes(&running)
		// One that attended, and has been woken or taken back since, is one that was interrupted.
		if works && (!waits || !attended) {
			go m.startAfter(ctx, running.ID)
		}
		for _, snap := range running.Snaps {
			busy[snap] = busy[snap] || works
		}
	}
	states, err := m.snaps.All()
	if err != nil {
		return err
	}
	known, err := m.statuses(ctx)
	if err != nil {
		return err
	}
	m.endCompletions(ctx, known)
	var specs []supervise.Spec
	for i := range states {
		if !busy[states[i].Instance] {
			specs = append(specs, m.missing(ctx, &states[i], known)...)
		}
	}
	m.Wake()
	if len(specs) == 0 {
		return nil
	}
	if err := m.cfg.Supervisor.Start(ctx, specs...); err != nil {
		m.cfg.Logger.ErrorContext(ctx, "not every service could be started", slog.Any("error", err))
	}
	return nil
}

// BringUp runs when changes have been resumed, and returns when all is as it is to be after a start of the
// machine: the services run, and what was staged is applied. Changes that wait for anything
// else go on waiting.
func (m *Manager) BringUp(ctx context.Context) error {
	if err := m.Settle(ctx); err != nil {
		return err
	}
	m.resumeWaits(ctx, m.resting())
	for _, c := range m.engine.List(change.Filter{Select: change.All}) {
		ended := c.Status.Ready()
		if _, err := m.settled(ctx, c.ID); err != nil && ctx.Err() != nil {
			return fmt.Errorf("wait for change %s: %w", c.ID, err)
		}
		if !ended {
			m.startAfter(ctx, c.ID)
		}
	}
	return nil
}

// startAfter starts what should run of the snaps of a change that was interrupted, when it has ended: one that
// is undone starts only what it has stopped itself, and nothing ran when the machine started.
func (m *Manager) startAfter(ctx context.Context, id change.ID) {
	c, err := m.settled(ctx, id)
	if err != nil || !c.Status.Ready() {
		return
	}
	for _, snap := range c.Snaps {
		if err := m.startMissing(ctx, snap, undone(&c)); err != nil && ctx.Err() == nil {
			m.cfg.Logger.ErrorContext(ctx, "not every service could be started", slog.Any("error", err))
		}
	}
}

// startMissing starts the services of one snap that should run and are not known,
// unless a change works on it. Those of a revision that was undone count as not known.
func (m *Manager) startMissing(ctx context.Context, snap tenure.Instance, undone []tenure.Ref) error {
	release, err := m.claims.take(ctx, snap)
	if err != nil {
		return err
	}
	defer release()
	if m.held(snap) {
		return nil
	}
	state, err := m.snaps.Get(snap)
	if err != nil || state == nil {
		return err
	}
	known, err := m.statuses(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(known, func(unit tenure.UnitID, status supervise.Status) bool {
		return !status.State.Alive() && slices.Contains(undone, tenure.Ref{Snap: unit.Snap, Revision: status.Revision})
	})
	return m.cfg.Supervisor.Start(ctx, m.missing(ctx, state, known)...)
}

// missing are the services of a snap that should run and are not known.
func (m *Manager) missing(ctx context.Context, state *snapState, known map[tenure.UnitID]supervise.Status) []supervise.Spec {
	if !state.Line.Active {
		return nil
	}
	r, err := m.runnable(state, state.Line.Current)
	if err != nil {
		m.cfg.Logger.ErrorContext(ctx, "cannot start services", slog.Any("snap", state.Instance), slog.Any("error", err))
		return nil
	}
	if why := cmp.Or(m.broken.of(r.Ref), m.broken.of(r.Base)); why != nil {
		m.cfg.Logger.ErrorContext(ctx, "services are not started", slog.Any("snap", state.Instance), slog.Any("error", why))
		return nil
	}
	var specs []supervise.Spec
	for _, app := range r.Info.StartOrder() {
		_, exists := known[tenure.ServiceUnit(state.Instance, app.Name)]
		off := slices.Contains(state.Disabled, app.Name) || slices.Contains(state.Stopped, app.Name)
		if !exists && !off && !app.Lifecycle.Instances {
			specs = append(specs, m.launch.service(r, app))
		}
	}
	instances, err := m.missingInstances(r, known)
	if err != nil {
		m.cfg.Logger.ErrorContext(ctx, "cannot start instances", slog.Any("snap", state.Instance), slog.Any("error", err))
	}
	return append(specs, instances...)
}

// sweepStaging removes staged files that no change speaks of, or that are kept already.
func (m *Manager) sweepStaging() {
	entries, err := os.ReadDir(m.cfg.Paths.Staging())
	if err != nil {
		return
	}
	unfinished := m.engine.List(change.Filter{Select: change.Unfinished})
	for _, entry := range entries {
		path := filepath.Join(m.cfg.Paths.Staging(), entry.Name())
		speaks := func(t change.Task) bool { return strings.Contains(string(t.Params), path) }
		wanted := slices.ContainsFunc(unfinished, func(c change.Change) bool {
			return slices.ContainsFunc(c.Tasks, speaks) && !slices.ContainsFunc(c.Tasks, func(t change.Task) bool {
				return (t.Kind == taskPrepare || t.Kind == taskPrepareAll) && t.Status == change.Done && speaks(t)
			})
		})
		if !wanted {
			_ = os.Remove(path) // Tried again at the next start.
		}
	}
}

// mentioned are the revisions of snap that a change leads from and to.
func mentioned(c change.Change, snap tenure.Instance) []tenure.Revision {
	var revs []tenure.Revision
	for _, plan := range plansOf(c) {
		if plan.Change.Snap == snap {
			revs = append(revs, plan.Change.From, plan.Change.To)
		}
	}
	return revs
}

// Shutdown ends every unit, for the reason "shutdown", and takes every mount
// back, as the end of the machine does. It is for private instances, and for
// machines whose init system asks for it. The daemon's own end does none of
// this. Changes that have not ended stay as they are, for the next start: their
// engine must not run.
func (m *Manager) Shutdown(ctx context.Context) error {
	if err := m.endAll(ctx); err != nil {
		return err
	}
	snaps, err := m.presentSnaps()
	if err != nil {
		return err
	}
	failures := []error{removeExisting(m.bootMarker())}
	for _, snap := range snaps {
		failures = append(failures,
			m.endStrays(ctx, snap, false),
			m.forgetUnits(ctx, snap),
			m.cfg.Table.UnmountTree(ctx, m.cfg.Mounts.SnapDir(snap)),
			m.cfg.Table.UnmountTree(ctx, m.cfg.Paths.DataDir(snap)))
	}
	return errors.Join(failures...)
}

// presentSnaps are the snaps of which anything may be on the machine, also those of
// changes that have not got as far as to a state.
func (m *Manager) presentSnaps() ([]tenure.Instance, error) {
	states, err := m.snaps.All()
	if err != nil {
		return nil, err
	}
	files, err := m.cfg.Mounts.Files()
	if err != nil {
		return nil, err
	}
	var snaps []tenure.Instance
	for i := range states {
		snaps = append(snaps, states[i].Instance)
	}
	for _, file := range files {
		snaps = append(snaps, file.Snap)
	}
	slices.Sort(snaps)
	return slices.Compact(snaps), nil
}

// endAll stops services first, so that nothing comes out of them any more, then
// everything else, until there is nothing.
func (m *Manager) endAll(ctx context.Context) error {
	for range strayRounds {
		ended, err := m.endOnce(ctx)
		if err != nil || ended == 0 {
			return err
		}
	}
	return fmt.Errorf("end all units: %w: there are ever new ones", supervise.ErrRunning)
}

// endOnce stops what runs, and tells how many units that was.
func (m *Manager) endOnce(ctx context.Context) (ended int, err error) {
	for _, services := range []bool{true, false} {
		list, err := m.cfg.Supervisor.Units(ctx)
		if err != nil {
			return ended, fmt.Errorf("end all units: %w", err)
		}
		var units []tenure.UnitID
		for _, status := range list {
			if (status.Unit.Kind == tenure.Service) == services && !idle(status) {
				units = append(units, status.Unit)
			}
		}
		if len(units) == 0 {
			continue
		}
		ended += len(units)
		if _, err := m.halt(ctx, supervise.StopRequest{
			Units: units, Reason: tenure.ReasonShutdown, Limit: m.limits().MaxStopTimeout,
		}); err != nil {
			return ended, fmt.Errorf("end all units: %w", err)
		}
	}
	return ended, nil
}

// offerSnapctl makes snapctl be where classic services and hooks look for programs,
// wherever this Tenure is installed.
func (m *Manager) offerSnapctl() error {
	if err := pointAt(filepath.Join(m.cfg.Paths.Programs(), "snapctl"), m.launch.snapctl); err != nil {
		return fmt.Errorf("offer snapctl: %w", err)
	}
	return nil
}

// users that snaps may ask for (system-usernames), with the ids that they have
// on every machine.
const sharedUsers = "snap_daemon:x:584788:584788::/nonexistent:/usr/bin/false\n" +
	"_daemon_:x:584792:584792::/nonexistent:/usr/bin/false\n"

const sharedGroups = "snap_daemon:x:584788:\n_daemon_:x:584792:\n"

// writeUsers makes the passwd and group files that units see: the host's, and
// the users that snaps share. The host's own files are not touched.
func (m *Manager) writeUsers() error {
	dir := m.launch.usernames
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write users: %w", err)
	}
	for name, extra := range map[string]string{"passwd": sharedUsers, "group": sharedGroups} {
		host, err := os.ReadFile(filepath.Join("/etc", name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write users: %w", err)
		}
		merged := mergeNames(string(host), extra)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(merged), 0o644); err != nil { //nolint:gosec // Everybody may read names.
			return fmt.Errorf("write users: %w", err)
		}
	}
	return nil
}

// mergeNames adds those lines of extra whose name host does not have.
func mergeNames(host, extra string) string {
	if host != "" && !strings.HasSuffix(host, "\n") {
		host += "\n"
	}
	for line := range strings.Lines(extra) {
		name, _, _ := strings.Cut(line, ":")
		if !strings.HasPrefix(host, name+":") && !strings.Contains(host, "\n"+name+":") {
			host += line
		}
	}
	return host
}
