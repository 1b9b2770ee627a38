package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/snapshot"
)

// The kinds of tasks on snapshots.
const (
	taskSave    = "save-snapshot"
	taskUnpack  = "unpack-snapshot"
	taskRestore = "restore-snapshot"
	taskDropOld = "drop-restored-over"
	taskCheck   = "check-snapshot"
	taskForget  = "forget-snapshot"
)

// optionRetention is how long the snapshot is kept that is made when a snap is removed; "no" is
// that none is made.
const optionRetention = "snapshots.automatic.retention"

// The bounds of snapshots.automatic.retention, and what holds where it is not set: as in snapd.
const minRetention, defaultRetention = 24 * time.Hour, 31 * 24 * time.Hour

// never is the value of snapshots.automatic.retention for no snapshots.
const never = "no"

func checkRetention(text string) (any, error) {
	if text == never {
		return text, nil
	}
	if limit, err := parseLimit(text); err != nil || limit < minRetention {
		return nil, fmt.Errorf("retention must be %q or a time of at least %s like 744h or 31d, not %q", never, minRetention, text)
	}
	return text, nil
}

// retention is snapshots.automatic.retention; 0 is that no snapshots are made.
func (m *Manager) retention() time.Duration {
	text := m.text(optionRetention)
	if text == never {
		return 0
	}
	if limit, err := parseLimit(text); err == nil {
		return limit
	}
	return defaultRetention
}

// snapshots are the store, and the last number of a set.
type snapshots struct {
	snapshot.Store

	last *journal.Collection[snapshot.Set]
	// restores are what is being restored, by change and snap.
	restores *journal.Collection[restoring]
	// made is raised when there may be another one to forget.
	made signal
}

func newSnapshots(paths Paths, db *journal.DB) snapshots {
	return snapshots{
		Store: snapshot.Store{Dir: paths.Snapshots()}, last: journal.NewCollection[snapshot.Set](db, "snapshot-sets"),
		restores: journal.NewCollection[restoring](db, "snapshot-restores"), made: make(signal, 1),
	}
}

// next is a set number that was never used.
func (s *snapshots) next(db *journal.DB) (set snapshot.Set, err error) {
	const key = "last"
	found, err := s.List(0)
	if err != nil {
		return 0, err
	}
	err = db.Update(func(tx *journal.Tx) error {
		docs := s.last.In(tx)
		if set, _, err = docs.Get(key); err != nil {
			return err
		}
		for i := range found {
			set = max(set, found[i].Set)
		}
		set++
		return docs.Put(key, set)
	})
	if err != nil {
		return 0, fmt.Errorf("number the snapshots: %w", err)
	}
	return set, nil
}

// SnapshotRequest asks for something to be done with snapshots.
type SnapshotRequest struct {
	// Set is which one; of none for a new one.
	Set snapshot.Set
	// Snaps and Users are whose data; all where there is none.
	Snaps []tenure.Instance
	Users []string
}

// Snapshots are the snapshots of a set, 0 for all, and of snaps, none for all.
func (m *Manager) Snapshots(set snapshot.Set, snaps []tenure.Instance) ([]snapshot.Description, error) {
	return m.snapshots.List(set, snaps...)
}

// Save begins to save the data of snaps, of all that are installed if none is named. What runs goes on
// meanwhile: files that are being written are saved as they are found.
func (m *Manager) Save(ctx context.Context, req SnapshotRequest) (snapshot.Set, change.ID, error) {
	states, err := m.snaps.All()
	if err != nil {
		return 0, 0, err
	}
	if len(req.Snaps) == 0 {
		for i := range states {
			if states[i].Line.Installed() {
				req.Snaps = append(req.Snaps, states[i].Instance)
			}
		}
	}
	if len(req.Snaps) == 0 {
		return 0, 0, &Error{Kind: KindBad, Op: "save", Err: errors.New("no snap is installed")}
	}
	for _, snap := range req.Snaps {
		if _, err := m.installedSnap("save", snap); err != nil {
			return 0, 0, err
		}
	}
	homes := m.homes()
	for _, user := range req.Users {
		if !slices.ContainsFunc(homes, func(home string) bool { return filepath.Base(home) == user }) {
			return 0, 0, &Error{Kind: KindNotFound, Op: "save", Object: "data of user " + user, Err: errors.New("there is no such home directory")}
		}
	}
	set, err := m.snapshots.next(m.cfg.Journal)
	if err != nil {
		return 0, 0, err
	}
	var tasks []change.TaskSpec
	for _, snap := range req.Snaps {
		tasks = append(tasks, saveTask(saveParams{Set: set, Snap: snap, Users: req.Users}))
	}
	id, err := m.beginOnSnapshots(ctx, "save", fmt.Sprintf("Save data of snaps %s in snapshot set #%s", quotedNames(req.Snaps), set), req.Snaps, tasks)
	return set, id, err
}

func saveTask(p saveParams) change.TaskSpec {
	return change.NewTask(taskSave, fmt.Sprintf("Save data of %q in snapshot set #%s", p.Snap, p.Set), p)
}

// Restore begins to replace the data of snaps by what a set has. They must be installed, and
// nothing of them may run.
func (m *Manager) Restore(ctx context.Context, req SnapshotRequest) (change.ID, error) {
	found, err := m.ofSet("restore", req)
	if err != nil {
		return 0, err
	}
	var unpack, restore, drop []change.TaskSpec
	var snaps []tenure.Instance
	for i := range found {
		d := &found[i]
		if err := m.restorable(ctx, d); err != nil {
			return 0, err
		}
		p := restoreParams{Set: d.Set, Snap: d.Snap, Users: req.Users}
		unpack = append(unpack, change.NewTask(taskUnpack, fmt.Sprintf("Unpack data of %q from snapshot set #%s", d.Snap, d.Set), p))
		restore = append(restore, change.NewTask(taskRestore, fmt.Sprintf("Restore data of %q from snapshot set #%s", d.Snap, d.Set), p))
		drop = append(drop, change.NewTask(taskDropOld, fmt.Sprintf("Remove the data that %q had before", d.Snap), p))
		snaps = append(snaps, d.Snap)
	}
	return m.beginOnSnapshots(ctx, "restore", summaryOf("Restore", req.Set, req.Snaps), snaps, slices.Concat(unpack, restore, drop))
}

// CheckSnapshots begins to read a set, and fails if it is not what was saved.
func (m *Manager) CheckSnapshots(ctx context.Context, req SnapshotRequest) (change.ID, error) {
	found, err := m.ofSet("check", req)
	if err != nil {
		return 0, err
	}
	var tasks []change.TaskSpec
	for i := range found {
		d := &found[i]
		tasks = append(tasks, change.NewTask(taskCheck, fmt.Sprintf("Check data of %q in snapshot set #%s", d.Snap, d.Set),
			restoreParams{Set: d.Set, Snap: d.Snap, Users: req.Users}))
	}
	return m.beginOnSnapshots(ctx, "check", summaryOf("Check", req.Set, req.Snaps), nil, tasks)
}

// Forget begins to remove a set, or what it has of snaps.
func (m *Manager) Forget(ctx context.Context, req SnapshotRequest) (change.ID, error) {
	found, err := m.ofSet("forget", req)
	if err != nil {
		return 0, err
	}
	var tasks []change.TaskSpec
	for i := range found {
		d := &found[i]
		tasks = append(tasks, change.NewTask(taskForget, fmt.Sprintf("Forget data of %q in snapshot set #%s", d.Snap, d.Set),
			restoreParams{Set: d.Set, Snap: d.Snap}))
	}
	return m.beginOnSnapshots(ctx, "forget", summaryOf("Forget", req.Set, req.Snaps), nil, tasks)
}

func summaryOf(verb string, set snapshot.Set, snaps []tenure.Instance) string {
	if len(snaps) == 0 {
		return fmt.Sprintf("%s snapshot set #%s", verb, set)
	}
	return fmt.Sprintf("%s snapshot set #%s for snaps %s", verb, set, quotedNames(snaps))
}

func quotedNames(snaps []tenure.Instance) string {
	names := make([]string, 0, len(snaps))
	for _, snap := range snaps {
		names = append(names, strconv.Quote(string(snap)))
	}
	return strings.Join(names, ", ")
}

// ofSet are the snapshots that a request is about.
func (m *Manager) ofSet(op string, req SnapshotRequest) ([]snapshot.Description, error) {
	found, err := m.snapshots.List(req.Set, req.Snaps...)
	if err != nil {
		return nil, err
	}
	missing := func(err error) error {
		return &Error{Kind: KindNotFound, Op: op, Object: "snapshot set #" + req.Set.String(), Hint: "see tenure saved", Err: err}
	}
	if len(found) == 0 && len(req.Snaps) == 0 {
		return nil, missing(errors.New("there is no such set"))
	}
	for _, snap := range req.Snaps {
		if !slices.ContainsFunc(found, func(d snapshot.Description) bool { return d.Snap == snap }) {
			return nil, missing(fmt.Errorf("it has nothing of snap %q", snap))
		}
	}
	for _, user := range req.Users {
		if !slices.ContainsFunc(found, func(d snapshot.Description) bool { return d.Broken != "" || slices.Contains(d.Users(), user) }) {
			return nil, missing(fmt.Errorf("it has nothing of user %q", user))
		}
	}
	return found, nil
}

// restorable is nil if the data of d can become that of its snap.
func (m *Manager) restorable(ctx context.Context, d *snapshot.Description) error {
	bad := func(err error) error {
		return &Error{Kind: KindBad, Op: "restore", Object: string(d.Snap), Err: err}
	}
	if d.Broken != "" {
		return bad(errors.New(d.Broken)) //nolint:err113 // It was an error when it was read.
	}
	state, err := m.installedSnap("restore", d.Snap)
	if err != nil {
		return err
	}
	info := state.Kept[state.Line.Current].Info
	saved := info.Epoch
	if len(d.Epoch) > 0 {
		if err := json.Unmarshal(d.Epoch, &saved); err != nil {
			return bad(fmt.Errorf("its epoch: %w", err))
		}
	}
	if !info.Epoch.CanRead(saved) {
		return bad(fmt.Errorf("the installed revision %s cannot read that data (epoch %s after %s)", state.Line.Current, info.Epoch, saved))
	}
	return m.dataUnused(ctx, d.Snap)
}

// dataUnused is nil if no unit of a snap lives, or would be started by itself: whoever has opened the
// data would go on to write to what is about to be removed (ADR 11).
func (m *Manager) dataUnused(ctx context.Context, snap tenure.Instance) error {
	statuses, err := m.cfg.Supervisor.Units(ctx)
	if err != nil {
		return fmt.Errorf("see who uses the data of %s: %w", snap, err)
	}
	for _, status := range statuses {
		if status.Unit.Snap == snap && !idle(status) {
			return &Error{
				Kind: KindRefused, Op: "restore", Object: string(snap), Hint: fmt.Sprintf("end it first: tenure stop %s", stopName(status.Unit)),
				Err: fmt.Errorf("%s uses the data that would be replaced", status.Unit),
			}
		}
	}
	return nil
}

// stopName is what to name to stop a unit: of a service all of its snap, for others may follow.
func stopName(unit tenure.UnitID) string {
	if unit.Kind == tenure.Service {
		return string(unit.Snap)
	}
	return unit.String()
}

// beginOnSnapshots begins a change, of snaps whose last refresh is observed no more.
func (m *Manager) beginOnSnapshots(ctx context.Context, op, summary string, snaps []tenure.Instance, tasks []change.TaskSpec) (change.ID, error) {
	for {
		err := m.vacate(ctx, op, snaps)
		if err == nil {
			break
		}
		if !errors.Is(err, errStale) {
			return 0, err
		}
	}
	id, err := m.engine.Start(ctx, change.NewChange{Kind: op + "-snapshot", Summary: summary, Snaps: snaps, Tasks: tasks})
	if err != nil {
		return 0, conflict(op, join(snaps), err)
	}
	return id, nil
}

// autoSave are the tasks that save the data of a snap that is removed, when nothing of it runs
// any more.
func (m *Manager) autoSave(j *job) ([]change.TaskSpec, error) {
	if j.Reason != tenure.ReasonRemove || j.prunes() || j.Purge || m.retention() == 0 {
		return nil, nil
	}
	set, err := m.snapshots.next(m.cfg.Journal)
	if err != nil {
		return nil, err
	}
	return []change.TaskSpec{saveTask(saveParams{Set: set, Snap: j.snap(), Auto: true})}, nil
}

// ForgetOld forgets snapshots that were made when snaps were removed, each when it has been
// kept for as long as the administrator says, until ctx ends.
func (m *Manager) ForgetOld(ctx context.Context) error {
	for {
		next, err := m.forgetOld()
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.ErrorContext(ctx, "cannot forget old snapshots", slog.Any("error", err))
		}
		if !m.lookAgain(ctx, m.snapshots.made, next) {
			return nil
		}
	}
}

// forgetOld gives the time at which the next one is to be forgotten; zero is none.
func (m *Manager) forgetOld() (next time.Time, err error) {
	found, err := m.snapshots.List(0)
	if err != nil {
		return next, err
	}
	now, keep := m.cfg.Now(), m.retention()
	if keep == 0 {
		// Those that there are stay as long as they would have.
		keep = defaultRetention
	}
	var failures []error
	for i := range found {
		d := &found[i]
		over := d.Time.Add(keep)
		switch {
		case !d.Auto:
		case !over.After(now):
			failures = append(failures, m.snapshots.Forget(d.Set, d.Snap))
		case next.IsZero() || over.Before(next):
			next = over
		}
	}
	return next, errors.Join(failures...)
}
