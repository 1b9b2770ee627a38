package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/snapdata"
	"tenure/internal/snapshot"
)

// owner is who has data of a snap, and where: the system, or a user.
type owner struct {
	place

	// user is the name of the home directory, and uid its owner; empty for the system.
	user string
	uid  uint32
}

func (o owner) archive() string {
	if o.user == "" {
		return snapshot.System
	}
	return snapshot.UserArchive(o.user)
}

// owners are those who have data of a snap, of users those named, all if there is none. With wanted they are
// those users for whom it says yes, and what is missing of their directories is made. Whom a link or the
// like keeps out of it is said in the change; whatever else fails is an error, for what is not seen could be lost.
func (m *Manager) owners(ctx context.Context, snap tenure.Instance, users []string, wanted func(user string, uid uint32) bool) ([]owner, func(), error) {
	all := []owner{{place: place{path: m.cfg.Paths.DataDir(snap)}}}
	release := func() {
		for _, o := range all {
			if o.held != nil {
				_ = o.held.Close() // Opened for reading.
			}
		}
	}
	for _, home := range m.homes() {
		if len(users) > 0 && !slices.Contains(users, filepath.Base(home)) {
			continue
		}
		o, err := ownerAt(home, snap, wanted)
		switch {
		case err == nil:
			all = append(all, o)
		case errors.Is(err, fs.ErrNotExist):
		case theirs(err):
			change.ReporterFrom(ctx).Logf("data of %s in %s is left alone: %v", snap, home, err)
		default:
			release()
			return nil, nil, fmt.Errorf("see what %s has of %s: %w", home, snap, err)
		}
	}
	return all, release, nil
}

// ownerAt is who has data below a home; fs.ErrNotExist is nobody.
func ownerAt(home string, snap tenure.Instance, wanted func(user string, uid uint32) bool) (owner, error) {
	o := owner{user: filepath.Base(home)}
	info, err := os.Stat(home)
	if err != nil {
		return o, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		o.uid = st.Uid
	}
	if !info.IsDir() || wanted != nil && !wanted(o.user, o.uid) {
		return o, fs.ErrNotExist
	}
	held, err := snapdata.Descend(home, wanted != nil, "snap", string(snap))
	if err != nil {
		return o, err
	}
	o.place = place{path: fmt.Sprintf("/proc/self/fd/%d", held.Fd()), held: held}
	return o, nil
}

// saveStep saves the data of a snap.
type saveStep struct{ m *Manager }

type saveParams struct {
	Set   snapshot.Set    `json:"set"`
	Snap  tenure.Instance `json:"snap"`
	Users []string        `json:"users,omitempty"`
	// Auto is that nobody has asked for it.
	Auto bool `json:"auto,omitempty"`
}

func (s saveStep) work(p saveParams) string {
	return s.m.snapshots.Work(fmt.Sprintf("save-%s-%s", p.Set, p.Snap))
}

func (s saveStep) Do(ctx context.Context, p saveParams) (nothing, error) {
	work := s.work(p)
	err := os.RemoveAll(work)
	if err == nil {
		err = s.save(ctx, p, work)
	}
	if err = errors.Join(err, os.RemoveAll(work)); err != nil && p.Auto {
		err = fmt.Errorf("%w (tenure remove --purge %s saves nothing)", err, p.Snap)
	}
	if err == nil {
		s.m.snapshots.made.raise()
	}
	return nothing{}, change.Partial(err)
}

func (s saveStep) save(ctx context.Context, p saveParams, work string) error {
	state, err := s.m.installedSnap("save", p.Snap)
	if err != nil {
		return err
	}
	rev := state.Line.Current
	info := state.Kept[rev].Info
	d := snapshot.Description{
		Set: p.Set, Snap: p.Snap, Time: s.m.cfg.Now().UTC(), Revision: rev, Version: info.Version, Summary: info.Summary, Auto: p.Auto,
	}
	conf, err := s.m.confs.of(p.Snap)
	if err != nil {
		return err
	}
	if len(conf) > 0 {
		if d.Conf, err = json.Marshal(conf); err != nil {
			return fmt.Errorf("save the configuration of %s: %w", p.Snap, err)
		}
	}
	if d.Epoch, err = json.Marshal(info.Epoch); err != nil {
		return fmt.Errorf("save the epoch of %s: %w", p.Snap, err)
	}
	trees, files, err := s.gather(ctx, p, &d, work)
	if err != nil {
		return err
	}
	if p.Auto && files == 0 && len(conf) == 0 {
		change.ReporterFrom(ctx).Logf("there is nothing to save")
		return nil
	}
	return s.m.snapshots.Save(ctx, d, trees, func(text string) { change.ReporterFrom(ctx).Logf("%s", text) })
}

// gather copies what there is to a place where nobody changes it, as a refresh does: of what
// is archived then nothing can become something else. Files counts what is not a directory.
func (s saveStep) gather(ctx context.Context, p saveParams, d *snapshot.Description, work string) (trees map[string]string, files int, err error) {
	owners, release, err := s.m.owners(ctx, p.Snap, p.Users, nil)
	if err != nil {
		return nil, 0, err
	}
	defer release()
	trees, d.Owners = map[string]string{}, map[string]uint32{}
	for _, o := range owners {
		tree := filepath.Join(work, filepath.FromSlash(o.archive()))
		err := os.MkdirAll(tree, 0o700)
		for _, name := range []string{d.Revision.String(), common} {
			if err != nil {
				break
			}
			var n int
			n, err = s.m.gatherOne(ctx, filepath.Join(o.path, name), filepath.Join(tree, name))
			if s.m.spoilt(ctx, o.place, tenure.Ref{Snap: p.Snap, Revision: d.Revision}, err) {
				n, err = 0, snapdata.Remove(ctx, filepath.Join(tree, name))
			}
			files += n
		}
		if err != nil {
			return nil, 0, fmt.Errorf("save data of %s: %w", p.Snap, err)
		}
		trees[o.archive()] = tree
		if o.user != "" {
			d.Owners[o.user] = o.uid
		}
	}
	return trees, files, nil
}

// gatherOne copies one directory, if it is there.
func (m *Manager) gatherOne(ctx context.Context, from, to string) (files int, err error) {
	if isMissing(from) {
		return 0, nil
	}
	pass, err := snapdata.First(ctx, from, to, m.cfg.Copying)
	if err == nil {
		// What has been written to meanwhile is looked at once more.
		_, err = pass.Second(ctx, m.cfg.Copying)
	}
	if err != nil {
		return 0, err
	}
	return pass.Stats.Files, nil
}

// common is the name of the directory that all revisions share.
const common = "common"

func (s saveStep) Undo(_ context.Context, p saveParams, _ nothing) error {
	return errors.Join(s.m.snapshots.Forget(p.Set, p.Snap), os.RemoveAll(s.work(p)))
}

// restoring is what is being restored of a snap: durable before anything is made, and again before
// anything is exchanged.
type restoring struct {
	Targets []target `json:"targets"`
	// Begun is that the targets have their Old, for something may have been exchanged.
	Begun bool `json:"begun,omitempty"`
	// Conf and Before are the configuration that was saved, and the one that is replaced.
	Conf   hook.Document `json:"conf,omitempty"`
	Before hook.Document `json:"before,omitempty"`
}

// target is a directory that is replaced.
type target struct {
	// User is whose it is; empty for the system.
	User string `json:"user,omitempty"`
	// Name is that of the directory, and New and Old what is to be and what was there. Without
	// New it is left alone.
	Name string         `json:"name"`
	New  snapdata.Inode `json:"new"`
	Old  snapdata.Inode `json:"old"`
}

type restoreParams struct {
	Set   snapshot.Set    `json:"set"`
	Snap  tenure.Instance `json:"snap"`
	Users []string        `json:"users,omitempty"`
}

func (p restoreParams) archives(name string) bool {
	return name == snapshot.System || len(p.Users) == 0 ||
		slices.ContainsFunc(p.Users, func(user string) bool { return name == snapshot.UserArchive(user) })
}

// key is that of what a change restores of a snap.
func (p restoreParams) key(ctx context.Context) string {
	return change.IDFrom(ctx).String() + "/" + string(p.Snap)
}

// besideSuffix is what the new directory has behind its name, beside the one that it replaces;
// then the old one has it.
const besideSuffix = ".restored"

// unpackStep makes the directories that are to be, beside those that are.
type unpackStep struct{ m *Manager }

func (s unpackStep) work(p restoreParams) string {
	return s.m.snapshots.Work(fmt.Sprintf("restore-%s-%s", p.Set, p.Snap))
}

func (s unpackStep) Do(ctx context.Context, p restoreParams) (nothing, error) {
	work := s.work(p)
	err := os.RemoveAll(work)
	if err == nil {
		err = s.unpack(ctx, p, work)
	}
	return nothing{}, change.Partial(errors.Join(err, os.RemoveAll(work)))
}

func (s unpackStep) unpack(ctx context.Context, p restoreParams, work string) error {
	state, err := s.m.installedSnap("restore", p.Snap)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return fmt.Errorf("restore %s: %w", p.Snap, err)
	}
	d, err := s.m.snapshots.Unpack(ctx, p.Set, p.Snap, work, p.archives)
	if err != nil {
		return err
	}
	before, _, err := s.m.snapshots.restores.Get(p.key(ctx))
	if err != nil {
		return err
	}
	var doc restoring
	if len(d.Conf) > 0 {
		if err := json.Unmarshal(d.Conf, &doc.Conf); err != nil {
			return fmt.Errorf("restore the configuration of %s: %w", p.Snap, err)
		}
	}
	if doc.Before, err = s.m.confs.of(p.Snap); err != nil {
		return err
	}
	plan := plan{m: s.m, params: p, of: &d, work: work, now: state.Line.Current, earlier: before.Targets}
	if err := plan.carryOut(ctx, &doc); err != nil {
		return fmt.Errorf("restore %s: %w", p.Snap, err)
	}
	return s.m.snapshots.restores.Put(p.key(ctx), doc)
}

// plan is where what was unpacked in work is to be: the data of a snap for the revision that is current now.
type plan struct {
	m      *Manager
	params restoreParams
	of     *snapshot.Description
	work   string
	now    tenure.Revision
	// earlier are the targets of an attempt of this change that has not come to its end.
	earlier []target
}

// carryOut makes the new directories beside their targets, which are in the journal before.
func (p plan) carryOut(ctx context.Context, doc *restoring) error {
	owners, release, err := p.m.owners(ctx, p.params.Snap, p.params.Users, p.wanted(ctx))
	if err != nil {
		return err
	}
	defer release()
	for _, user := range p.of.Users() {
		if p.params.archives(snapshot.UserArchive(user)) && !slices.ContainsFunc(owners, func(o owner) bool { return o.user == user }) {
			change.ReporterFrom(ctx).Logf("nothing is restored to user %q", user)
		}
	}
	placings, err := p.placings(ctx, owners)
	if err != nil {
		return err
	}
	for i := range placings {
		doc.Targets = append(doc.Targets, placings[i].target)
	}
	if err := p.m.snapshots.restores.Put(p.params.key(ctx), *doc); err != nil {
		return err
	}
	for i, at := range placings {
		made, err := at.place(ctx)
		if err != nil && !p.m.spoilt(ctx, at.owner.place, p.ref(), err) {
			return err
		}
		doc.Targets[i].New = made
	}
	return nil
}

func (p plan) ref() tenure.Ref { return tenure.Ref{Snap: p.params.Snap, Revision: p.now} }

func (p plan) tree(archive string) string { return filepath.Join(p.work, filepath.FromSlash(archive)) }

// wanted says whose archives there are, each for the one whose home it was: of a name that has become
// another's, the files are not theirs.
func (p plan) wanted(ctx context.Context) func(user string, uid uint32) bool {
	return func(user string, uid uint32) bool {
		if isMissing(p.tree(snapshot.UserArchive(user))) {
			return false
		}
		was, known := p.of.Owners[user]
		if known && was != uid {
			change.ReporterFrom(ctx).Logf("what user %q had of %s is left out: the home was that of user %d, and is that of %d", user, p.of.Snap, was, uid)
		}
		return !known || was == uid
	}
}

// placing is a directory that is to be copied to beside its target.
type placing struct {
	owner  owner
	target target
	from   string
	// copying is how it is copied.
	copying snapdata.Options
}

func (p placing) dir() string { return filepath.Join(p.owner.path, p.target.Name) }

// placings are the directories that can be. What somebody has there that is no directory stays, and so does what is
// beside it, unless this change has made it.
func (p plan) placings(ctx context.Context, owners []owner) ([]placing, error) {
	var found []placing
	for _, o := range owners {
		for saved, name := range map[string]string{p.of.Revision.String(): p.now.String(), common: common} {
			at := placing{
				owner: o, target: target{User: o.user, Name: name}, from: filepath.Join(p.tree(o.archive()), saved), copying: p.m.cfg.Copying,
			}
			if isMissing(at.from) {
				continue
			}
			err := p.free(at)
			if p.m.spoilt(ctx, o.place, p.ref(), err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			found = append(found, at)
		}
	}
	return found, nil
}

// free is nil if nothing but a directory is at a target, and nothing beside it.
func (p plan) free(at placing) error {
	info, err := os.Lstat(at.dir())
	if err == nil && !info.IsDir() {
		return &os.PathError{Op: "restore", Path: at.target.Name, Err: syscall.ENOTDIR}
	}
	ours := slices.ContainsFunc(p.earlier, func(t target) bool { return t.User == at.target.User && t.Name == at.target.Name })
	if !ours && !isMissing(at.dir()+besideSuffix) {
		return &os.PathError{Op: "restore", Path: at.target.Name + besideSuffix, Err: syscall.EEXIST}
	}
	return nil
}

// place makes the copy, so that it only has to be exchanged.
func (p placing) place(ctx context.Context) (made snapdata.Inode, err error) {
	beside := p.dir() + besideSuffix
	if err := snapdata.Remove(ctx, beside); err != nil {
		return made, err
	}
	pass, err := snapdata.First(ctx, p.from, beside, p.copying)
	if err != nil {
		return made, err
	}
	if err := snapdata.Sync(ctx, pass); err != nil {
		return made, err
	}
	return snapdata.InodeOf(beside)
}

func (s unpackStep) Undo(ctx context.Context, p restoreParams, _ nothing) error {
	return errors.Join(os.RemoveAll(s.work(p)), s.m.dropBeside(ctx, p))
}

// dropBeside removes what is beside the data of a snap: what was to be restored, or what was there
// before. Nothing else is: a name says nothing.
func (m *Manager) dropBeside(ctx context.Context, p restoreParams) error {
	doc, found, err := m.snapshots.restores.Get(p.key(ctx))
	if err != nil || !found {
		return err
	}
	owners, release, err := m.owners(ctx, p.Snap, nil, nil)
	if err != nil {
		return err
	}
	defer release()
	var failures []error
	for _, t := range doc.Targets {
		at := t.owner(owners)
		if at == nil {
			continue // The user has gone away with all of it.
		}
		err := snapdata.Remove(ctx, filepath.Join(at.path, t.Name+besideSuffix))
		if !m.spoilt(ctx, at.place, tenure.Ref{Snap: p.Snap}, err) {
			failures = append(failures, err)
		}
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	return m.snapshots.restores.Delete(p.key(ctx))
}

// owner is whose the target is; nil if they are there no more.
func (t target) owner(owners []owner) *owner {
	at := slices.IndexFunc(owners, func(o owner) bool { return o.user == t.User })
	if at < 0 {
		return nil
	}
	return &owners[at]
}

// restoreStep exchanges the directories, when nothing of the snap runs, and nothing begins to.
type restoreStep struct{ m *Manager }

func (s restoreStep) Do(ctx context.Context, p restoreParams) (nothing, error) {
	release, err := s.m.claims.take(ctx, p.Snap)
	if err != nil {
		return nothing{}, err
	}
	defer release()
	if err := s.m.dataUnused(ctx, p.Snap); err != nil {
		return nothing{}, err
	}
	doc, _, err := s.m.snapshots.restores.Get(p.key(ctx))
	if err == nil && !doc.Begun {
		err = s.begin(ctx, p, &doc)
	}
	if err == nil {
		err = s.exchange(ctx, p, &doc, func(t target) snapdata.Inode { return t.New })
	}
	if err == nil {
		err = s.m.confs.restore(p.Snap, doc.Conf)
	}
	return nothing{}, change.Partial(err)
}

// begin records what there is: from here on nobody of the snap changes it until the change has ended.
func (s restoreStep) begin(ctx context.Context, p restoreParams, doc *restoring) error {
	owners, release, err := s.m.owners(ctx, p.Snap, nil, nil)
	if err != nil {
		return err
	}
	defer release()
	for i := range doc.Targets {
		t := &doc.Targets[i]
		at := t.owner(owners)
		if at == nil {
			continue
		}
		if t.Old, err = snapdata.InodeOf(filepath.Join(at.path, t.Name)); err != nil {
			return fmt.Errorf("restore %s: %w", p.Snap, err)
		}
	}
	doc.Begun = true
	return s.m.snapshots.restores.Put(p.key(ctx), *doc)
}

// exchange has every directory of doc be the one that is wanted.
func (s restoreStep) exchange(ctx context.Context, p restoreParams, doc *restoring, wanted func(target) snapdata.Inode) (err error) {
	owners, release, err := s.m.owners(ctx, p.Snap, nil, nil)
	if err != nil {
		return err
	}
	defer release()
	shared := s.m.cfg.Paths.Common(p.Snap)
	// It is a mount for itself, so that mounts below it reach all units; and there are none.
	if below, err := s.m.cfg.Table.Below(shared); err != nil || len(below) > 1 {
		return errors.Join(err, fmt.Errorf("restore %s: %w: %s", p.Snap, snapdata.ErrMounted, shared))
	}
	if err := s.m.cfg.Table.Unmount(ctx, shared); err != nil {
		return fmt.Errorf("restore %s: %w", p.Snap, err)
	}
	defer func() { err = errors.Join(err, s.m.makeDataDirs(p.Snap)) }()
	for _, t := range doc.Targets {
		at := t.owner(owners)
		if at == nil || t.New == (snapdata.Inode{}) {
			continue
		}
		dir := filepath.Join(at.path, t.Name)
		err := snapdata.Exchange(dir+besideSuffix, dir, wanted(t))
		if err != nil && !s.m.spoilt(ctx, at.place, tenure.Ref{Snap: p.Snap}, err) {
			return fmt.Errorf("restore %s: %w", p.Snap, err)
		}
	}
	return nil
}

func (s restoreStep) Undo(ctx context.Context, p restoreParams, _ nothing) error {
	release, err := s.m.claims.take(ctx, p.Snap)
	if err != nil {
		return err
	}
	defer release()
	doc, found, err := s.m.snapshots.restores.Get(p.key(ctx))
	if err != nil || !found || !doc.Begun {
		return err
	}
	return errors.Join(
		s.exchange(ctx, p, &doc, func(t target) snapdata.Inode { return t.Old }),
		s.m.confs.restore(p.Snap, doc.Before),
	)
}

// dropOldStep removes what was there before. It is the last, and not undone.
type dropOldStep struct{ m *Manager }

func (s dropOldStep) Do(ctx context.Context, p restoreParams) (nothing, error) {
	return nothing{}, s.m.dropBeside(ctx, p)
}

func (dropOldStep) Undo(context.Context, restoreParams, nothing) error { return nil }

// checkStep reads a snapshot.
type checkStep struct{ m *Manager }

func (s checkStep) Do(ctx context.Context, p restoreParams) (nothing, error) {
	return nothing{}, s.m.snapshots.Check(ctx, p.Set, p.Snap, p.archives)
}

func (checkStep) Undo(context.Context, restoreParams, nothing) error { return nil }

// forgetStep removes a snapshot. It is not undone.
type forgetStep struct{ m *Manager }

func (s forgetStep) Do(_ context.Context, p restoreParams) (nothing, error) {
	return nothing{}, s.m.snapshots.Forget(p.Set, p.Snap)
}

func (forgetStep) Undo(context.Context, restoreParams, nothing) error { return nil }
