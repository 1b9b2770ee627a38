package refresh

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/journal"
	"tenure/internal/snapfile"
)

// kindRecover is the kind of the change that says how the state was restored.
const kindRecover = "recover-state"

// recoverState brings the state in line with the machine where the journal was damaged or lost: what is
// mounted, linked and running is newer than any backup. Nothing of the machine is touched, above all
// no process. It runs before anything is resumed, and again if it was cut off.
func (m *Manager) recoverState(ctx context.Context) error {
	r, err := m.cfg.Journal.LastRecovery()
	if err != nil || r == nil || !r.Pending {
		return err
	}
	seen, err := m.sightings(ctx)
	if err != nil {
		return err
	}
	if r.New && len(seen) == 0 {
		return m.cfg.Journal.Update(func(tx *journal.Tx) error { return tx.PutRecovery(nil) })
	}
	if r.New {
		r.Cause = "it was missing, and had no backup"
	}
	saved, err := m.cfg.Journal.Changes().Load(ctx)
	if err != nil {
		return err
	}
	given := m.giveUpChanges(&saved, r)
	after, err := m.reconcile(ctx, seen, r)
	if err != nil {
		return err
	}
	// It is told before it is done: who is cut off in between does it again, and finds it told.
	if err := m.recordRecovery(ctx, r, &saved, given); err != nil {
		return err
	}
	r.Pending = false
	err = m.cfg.Journal.Update(func(tx *journal.Tx) error {
		for snap, state := range after {
			var err error
			if docs := m.snaps.docs.In(tx); state == nil {
				err = docs.Delete(string(snap))
			} else {
				err = docs.Put(string(snap), *state)
			}
			if err != nil {
				return err
			}
		}
		return tx.PutRecovery(r)
	})
	if err != nil {
		return fmt.Errorf("restore the state: %w", err)
	}
	m.cfg.Logger.ErrorContext(ctx, "the state was restored", slog.String("what", recoveryText(r)), slog.Any("found", r.Notes))
	return nil
}

// recoveryText says what became of the journal, and what is lost.
func recoveryText(r *journal.Recovery) string {
	text := "the journal was damaged"
	if r.Damaged == "" {
		text = "the journal was lost"
	}
	text += " (" + r.Cause + "), and the state of Tenure was restored from "
	switch {
	case r.Backup == "":
		text += "what is on the machine: all settings, configuration, sources, holds and changes from before " + stamp(r.Found) + " are lost"
	case r.Whole():
		text += "the backup of " + stamp(r.AsOf) + ", which has all that was ever written"
	default:
		text += fmt.Sprintf("the backup of %s and from what is on the machine: settings, configuration and changes from then until %s are lost",
			stamp(r.AsOf), stamp(r.Found))
	}
	if r.Damaged != "" {
		text += "; the damaged file is kept: " + r.Damaged
	}
	return text + "; see tenure changes"
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// giveUpChanges ends what had not ended when the backup was made. Whether it went on after that nobody knows, so
// that it can neither be continued nor undone: what it has left is seen on the machine.
func (m *Manager) giveUpChanges(saved *change.Saved, r *journal.Recovery) (given []change.Change) {
	for i := range saved.Changes {
		c := &saved.Changes[i]
		if c.Status.Ready() {
			continue
		}
		c.GiveUp(m.cfg.Now(), "given up, since the journal was restored: it may have gone on after the backup")
		given = append(given, *c)
		r.Notes = append(r.Notes, fmt.Sprintf("change %s (%s) was given up: ask for it again if it is not done", c.ID, c.Summary))
	}
	return given
}

// lostChanges is how far the numbers of changes go on after a loss, so that none is used twice.
const lostChanges = 100

// recordRecovery makes what was found a change that people can read, unless it is one already, together with what is given up.
func (m *Manager) recordRecovery(ctx context.Context, r *journal.Recovery, saved *change.Saved, given []change.Change) error {
	text := recoveryText(r)
	told := slices.ContainsFunc(saved.Changes, func(c change.Change) bool {
		return c.Kind == kindRecover && len(c.Tasks) > 0 && slices.ContainsFunc(c.Tasks[0].Log, func(line string) bool { return strings.HasSuffix(line, text) })
	})
	if told {
		return nil
	}
	last := saved.LastID
	if !r.Whole() {
		last += lostChanges
	}
	return m.cfg.Journal.Changes().Apply(ctx, change.Batch{Put: append(given,
		change.Told(last+1, kindRecover, "Restore the state of Tenure", m.cfg.Now(), append([]string{text}, r.Notes...)),
	)})
}

// sighting is what the machine has of one snap.
type sighting struct {
	// Link is the revision that is current by its link; zero if there is none.
	Link tenure.Revision
	// Files are the revisions that have a file.
	Files []tenure.Revision
	// Running are those that units run from, and Main the one of its services.
	Running []tenure.Revision
	Main    tenure.Revision
}

// sightings are what there is of all snaps.
func (m *Manager) sightings(ctx context.Context) (map[tenure.Instance]*sighting, error) {
	seen := map[tenure.Instance]*sighting{}
	at := func(snap tenure.Instance) *sighting {
		if seen[snap] == nil {
			seen[snap] = &sighting{}
		}
		return seen[snap]
	}
	files, err := m.cfg.Mounts.Files()
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		s := at(file.Snap)
		s.Files = append(s.Files, file.Revision)
	}
	states, err := m.snaps.All()
	if err != nil {
		return nil, err
	}
	for i := range states {
		at(states[i].Instance)
	}
	units, err := m.statuses(ctx)
	if err != nil {
		return nil, err
	}
	for unit, status := range units {
		if idle(status) {
			continue
		}
		s := at(unit.Snap)
		s.Running = append(s.Running, status.Revision)
		if unit.Kind == tenure.Service && unit.At == "" && status.Revision.Compare(s.Main) > 0 {
			s.Main = status.Revision
		}
	}
	for snap, s := range seen {
		if target, err := os.Readlink(m.cfg.Paths.Current(snap)); err == nil {
			s.Link, _ = tenure.ParseRevision(filepath.Base(target)) // What is none is no link.
		}
	}
	return seen, nil
}

// reconcile is the state of those snaps that the machine has otherwise than the journal; nil is that it is gone.
func (m *Manager) reconcile(ctx context.Context, seen map[tenure.Instance]*sighting, r *journal.Recovery) (map[tenure.Instance]*snapState, error) {
	changed := map[tenure.Instance]*snapState{}
	for _, snap := range slices.Sorted(maps.Keys(seen)) {
		before, err := m.snaps.Get(snap)
		if err != nil {
			return nil, err
		}
		described, failures := m.describeAll(ctx, snap, before, seen[snap])
		r.Notes = append(r.Notes, failures...)
		after := restored(snap, before, seen[snap], described)
		if before != nil && after != nil && reflect.DeepEqual(before.Line, after.Line) {
			continue
		}
		if before == nil && after == nil {
			continue
		}
		if after != nil {
			after.Line.LastLocal = max(after.Line.LastLocal, m.lastLocal(snap, seen[snap]))
		}
		changed[snap] = after
		r.Notes = append(r.Notes, noteOf(snap, before, after))
	}
	return changed, nil
}

// describeAll is what is known of each revision that can be run from.
func (m *Manager) describeAll(ctx context.Context, snap tenure.Instance, before *snapState, s *sighting) (map[tenure.Revision]kept, []string) {
	described := map[tenure.Revision]kept{}
	var failures []string
	for _, rev := range s.Files {
		ref := tenure.Ref{Snap: snap, Revision: rev}
		if before != nil && before.Line.Has(rev) {
			described[rev] = before.Kept[rev]
			continue
		}
		known, err := m.describeFile(ctx, ref)
		if err != nil {
			failures = append(failures, fmt.Sprintf("%s cannot be taken over from its file: %v", ref, err))
			continue
		}
		described[rev] = known
	}
	if before == nil {
		return described, failures
	}
	for _, rev := range before.Line.Kept() {
		// What is mounted is there for as long as it is, whatever became of its file.
		if _, mounted, err := m.cfg.Table.Mounted(m.cfg.Mounts.Dir(snap, rev)); err == nil && mounted {
			described[rev] = before.Kept[rev]
		}
	}
	return described, failures
}

// describeFile reads what the file of a revision says of itself, as that of a stranger.
func (m *Manager) describeFile(ctx context.Context, ref tenure.Ref) (kept, error) {
	path := m.cfg.Mounts.File(ref.Snap, ref.Revision)
	c, err := m.inspect(ctx, File{Path: path, Name: ref.Snap})
	if err != nil {
		return kept{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return kept{}, err
	}
	return kept{Info: c.Info, Digest: c.Digest, Size: c.Size, Installed: info.ModTime().UTC()}, nil
}

// restored is the state of a snap by what there is of it: the link says what is current, and what
// is newer than that has never come to be so.
func restored(snap tenure.Instance, before *snapState, s *sighting, described map[tenure.Revision]kept) *snapState {
	if len(described) == 0 {
		return nil
	}
	if removed(before, s, described) {
		after := *before
		after.Kept = described
		after.Line.Aside = slices.DeleteFunc(slices.Clone(before.Line.Aside), func(rev tenure.Revision) bool { return described[rev].Info == nil })
		return &after
	}
	after := snapState{Instance: snap, Kept: described}
	if before != nil {
		after = *before
		after.Kept = described
	}
	line := &after.Line
	has := func(rev tenure.Revision) bool { return described[rev].Info != nil }
	line.Active = has(s.Link)
	known := slices.DeleteFunc(slices.Clone(line.Sequence), func(rev tenure.Revision) bool { return !has(rev) })
	aside := slices.DeleteFunc(slices.Clone(line.Aside), func(rev tenure.Revision) bool { return !has(rev) })
	all := slices.SortedFunc(maps.Keys(described), tenure.Revision.Compare)
	// Without a link the snap is disabled, whichever revision it was that is not current.
	for _, candidate := range []tenure.Revision{s.Link, s.Main, line.Current, all[len(all)-1]} {
		if line.Current = candidate; has(candidate) {
			break
		}
	}
	aside = slices.DeleteFunc(aside, func(rev tenure.Revision) bool { return rev == line.Current })
	later := slices.Contains(known, line.Current)
	for _, rev := range all {
		switch {
		case rev == line.Current || slices.Contains(known, rev) || slices.Contains(aside, rev):
		case later || rev.Compare(line.Current) > 0:
			aside = append(aside, rev)
		default:
			known = append(known, rev)
		}
	}
	if !later {
		known = append(known, line.Current)
	}
	line.Sequence, line.Aside = clip(known), clip(aside)
	if before == nil {
		info := described[line.Current].Info
		after.Options = Options{Classic: info.Confinement == snapfile.Classic, DevMode: info.Confinement == snapfile.Devmode}
		after.Disabled = disabledAfter(nil, info)
	}
	return &after
}

// removed reports whether a snap had been removed, but for revisions that are still used, and nothing says that it has been
// installed since: no link, and no revision that the backup does not know.
func removed(before *snapState, s *sighting, described map[tenure.Revision]kept) bool {
	if before == nil || before.Line.Installed() || !s.Link.IsZero() {
		return false
	}
	for rev := range described {
		if !before.Line.Has(rev) {
			return false
		}
	}
	return true
}

// clip has nothing for what is empty, as the journal has.
func clip(revs []tenure.Revision) []tenure.Revision {
	if len(revs) == 0 {
		return nil
	}
	return revs
}

// lastLocal is the highest number of a local revision of which there is anything.
func (m *Manager) lastLocal(snap tenure.Instance, s *sighting) int {
	last := 0
	for _, rev := range slices.Concat(m.present(snap), s.Running) {
		if rev.Local() {
			last = max(last, rev.Number())
		}
	}
	return last
}

// noteOf says what is otherwise than in the journal.
func noteOf(snap tenure.Instance, before, after *snapState) string {
	switch {
	case after == nil:
		return fmt.Sprintf("%q is no longer installed: nothing of it is on the machine but, perhaps, its data", snap)
	case !after.Line.Installed():
		return fmt.Sprintf("%q is removed, and has other revisions that are still used than in the backup: %s", snap, revisionNames(after.Line.Kept()))
	case !after.Line.Active:
		return fmt.Sprintf("%q is disabled, at revision %s: see tenure enable %s and tenure remove %s", snap, after.Line.Current, snap, snap)
	case before == nil:
		return strings.TrimSpace(fmt.Sprintf("%q is installed at revision %s, as on the machine; where its updates come from is not known %s",
			snap, after.Line.Current, confinementNote(after.Options)))
	case before.Line.Current != after.Line.Current:
		return fmt.Sprintf("%q is at revision %s, as on the machine, and was at %s in the backup", snap, after.Line.Current, before.Line.Current)
	}
	return fmt.Sprintf("%q has other revisions than in the backup: %s", snap, revisionNames(after.Line.Kept()))
}

func confinementNote(o Options) string {
	return cmp.Or(map[bool]string{true: "(with classic confinement)"}[o.Classic], map[bool]string{true: "(in development mode)"}[o.DevMode])
}
