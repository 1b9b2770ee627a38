package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/hook"
	"tenure/internal/mount"
	"tenure/internal/snapdata"
	"tenure/internal/snapshot"
)

// owner is who has data of a snap, and where: the system, or a user.
type owner struct {
	place

	// user is the name of the home directory; empty for the system.
	user string
}

func (o owner) archive() string {
	if o.user == "" {
		return snapshot.System
	}
	return snapshot.UserArchive(o.user)
}

// owners are those who have data of a snap, of users those named, all if there is none; with
// missing also those who could have some.
func (m *Manager) owners(snap tenure.Instance, users []string, missing bool) ([]owner, func()) {
	all := []owner{{place: place{path: m.cfg.Paths.DataDir(snap)}}}
	for _, home := range m.homes() {
		user := filepath.Base(home)
		if len(users) > 0 && !slices.Contains(users, user) {
			continue
		}
		held, err := openUserDir(home, snap)
		if errors.Is(err, os.ErrNotExist) && missing {
			if err = makeUserDir(home, snap); err == nil {
				held, err = openUserDir(home, snap)
			}
		}
		if err == nil {
			all = append(all, owner{place: place{path: fmt.Sprintf("/proc/self/fd/%d", held.Fd()), held: held}, user: user})
		}
	}
	return all, func() {
		for _, o := range all {
			if o.held != nil {
				_ = o.held.Close() // Opened for reading.
			}
		}
	}
}

// makeUserDir makes the directory of a snap in a home, as its owner's. What is given to the
// owner is a new directory, by its descriptor: whatever is put in its place is not.
func makeUserDir(home string, snap tenure.Instance) error {
	root, err := os.OpenRoot(home)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // Opened for its names.
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.ErrUnsupported
	}
	path := ""
	for _, name := range []string{"snap", string(snap)} {
		path = filepath.Join(path, name)
		if err := root.Mkdir(path, 0o700); errors.Is(err, os.ErrExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := give(root, path, st); err != nil {
			return err
		}
	}
	return nil
}

func give(root *os.Root, path string, to *syscall.Stat_t) error {
	dir, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // Opened for its owner.
	if names, err := dir.Readdirnames(1); len(names) > 0 {
		return fmt.Errorf("%s is not new: %w", path, errors.Join(err, os.ErrExist))
	}
	return dir.Chown(int(to.Uid), int(to.Gid))
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
	trees, files, err := s.gather(ctx, p, rev, work)
	if err != nil {
		return err
	}
	if p.Auto && files == 0 && len(conf) == 0 {
		change.ReporterFrom(ctx).Logf("there is nothing to save")
		return nil
	}
	return s.m.snapshots.Save(ctx, d, trees)
}

// gather copies what there is to a place where nobody changes it, as a refresh does: of what
// is archived then nothing can become something else. Files counts what is not a directory.
func (s saveStep) gather(ctx context.Context, p saveParams, rev tenure.Revision, work string) (trees map[string]string, files int, err error) {
	owners, release := s.m.owners(p.Snap, p.Users, false)
	defer release()
	trees = map[string]string{}
	for _, o := range owners {
		tree := filepath.Join(work, filepath.FromSlash(o.archive()))
		n, err := gatherOne(ctx, o, rev, tree)
		if s.m.spoilt(ctx, o.place, tenure.Ref{Snap: p.Snap, Revision: rev}, err) {
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("save data of %s: %w", p.Snap, err)
		}
		trees[o.archive()] = tree
		files += n
	}
	return trees, files, nil
}

func gatherOne(ctx context.Context, o owner, rev tenure.Revision, tree string) (files int, err error) {
	if err := os.MkdirAll(tree, 0o700); err != nil {
		return 0, err
	}
	for _, name := range []string{rev.String(), common} {
		from := filepath.Join(o.path, name)
		if isMissing(from) {
			continue
		}
		pass, err := snapdata.First(ctx, from, filepath.Join(tree, name), snapdata.Options{})
		if err == nil {
			// What has been written to meanwhile is looked at once more.
			_, err = pass.Second(ctx, snapdata.Options{})
		}
		if err != nil {
			return 0, err
		}
		files += pass.Stats.Files
	}
	return files, nil
}

// common is the name of the directory that all revisions share.
const common = "common"

func (s saveStep) Undo(_ context.Context, p saveParams, _ nothing) error {
	return errors.Join(s.m.snapshots.Forget(p.Set, p.Snap), os.RemoveAll(s.work(p)))
}

// restoring is what is being restored of a snap: durable before anything is exchanged.
type restoring struct {
	Targets []target `json:"targets"`
	// Conf and Before are the configuration that was saved, and the one that is replaced.
	Conf   hook.Document `json:"conf,omitempty"`
	Before hook.Document `json:"before,omitempty"`
}

// target is a directory that is replaced.
type target struct {
	// User is whose it is; empty for the system.
	User string `json:"user,omitempty"`
	// Name is that of the directory, and New and Old what is to be and what was there.
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
	var doc restoring
	if len(d.Conf) > 0 {
		if err := json.Unmarshal(d.Conf, &doc.Conf); err != nil {
			return fmt.Errorf("restore the configuration of %s: %w", p.Snap, err)
		}
	}
	if doc.Before, err = s.m.confs.of(p.Snap); err != nil {
		return err
	}
	owners, release := s.m.owners(p.Snap, p.Users, true)
	defer release()
	for _, o := range owners {
		ref := tenure.Ref{Snap: p.Snap, Revision: state.Line.Current}
		targets, err := placeBeside(ctx, o, filepath.Join(work, filepath.FromSlash(o.archive())), d.Revision, ref.Revision)
		if s.m.spoilt(ctx, o.place, ref, err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("restore %s: %w", p.Snap, err)
		}
		doc.Targets = append(doc.Targets, targets...)
	}
	return s.m.snapshots.restores.Put(p.key(ctx), doc)
}

// placeBeside copies the trees of one owner to where they only have to be exchanged.
func placeBeside(ctx context.Context, o owner, tree string, saved, current tenure.Revision) ([]target, error) {
	var targets []target
	var passes []*snapdata.Pass
	for from, name := range map[string]string{saved.String(): current.String(), common: common} {
		if isMissing(filepath.Join(tree, from)) {
			continue
		}
		beside := filepath.Join(o.path, name+besideSuffix)
		if err := snapdata.Remove(ctx, beside); err != nil {
			return nil, err
		}
		pass, err := snapdata.First(ctx, filepath.Join(tree, from), beside, snapdata.Options{})
		if err != nil {
			return nil, err
		}
		passes = append(passes, pass)
		t := target{User: o.user, Name: name}
		if t.New, err = snapdata.InodeOf(beside); err == nil {
			t.Old, err = snapdata.InodeOf(filepath.Join(o.path, name))
		}
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, snapdata.Sync(ctx, passes...)
}

func (s unpackStep) Undo(ctx context.Context, p restoreParams, _ nothing) error {
	return errors.Join(os.RemoveAll(s.work(p)), s.m.dropBeside(ctx, p))
}

// dropBeside removes what is beside the data of a snap: what was to be restored, or what was there
// before.
func (m *Manager) dropBeside(ctx context.Context, p restoreParams) error {
	owners, release := m.owners(p.Snap, nil, false)
	defer release()
	var failures []error
	for _, o := range owners {
		names, err := os.ReadDir(o.path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		failures = append(failures, err)
		for _, entry := range names {
			if filepath.Ext(entry.Name()) != besideSuffix {
				continue
			}
			err := snapdata.Remove(ctx, filepath.Join(o.path, entry.Name()))
			if !m.spoilt(ctx, o.place, tenure.Ref{Snap: p.Snap}, err) {
				failures = append(failures, err)
			}
		}
	}
	return errors.Join(append(failures, m.snapshots.restores.Delete(p.key(ctx)))...)
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
	if err == nil {
		err = s.exchange(ctx, p, &doc, func(t target) snapdata.Inode { return t.New })
	}
	if err == nil {
		err = s.m.confs.restore(p.Snap, doc.Conf)
	}
	return nothing{}, change.Partial(err)
}

// exchange has every directory of doc be the one that is wanted.
func (s restoreStep) exchange(ctx context.Context, p restoreParams, doc *restoring, wanted func(target) snapdata.Inode) (err error) {
	owners, release := s.m.owners(p.Snap, nil, false)
	defer release()
	shared := s.m.cfg.Paths.Common(p.Snap)
	// It is a mount for itself, so that mounts below it reach all units; and there are none.
	if below, err := mount.Below(shared); err != nil || len(below) > 1 {
		return errors.Join(err, fmt.Errorf("restore %s: %w: %s", p.Snap, snapdata.ErrMounted, shared))
	}
	if err := mount.Unmount(ctx, shared); err != nil {
		return fmt.Errorf("restore %s: %w", p.Snap, err)
	}
	defer func() { err = errors.Join(err, s.m.makeDataDirs(p.Snap)) }()
	for _, t := range doc.Targets {
		at := slices.IndexFunc(owners, func(o owner) bool { return o.user == t.User })
		if at < 0 {
			continue // The user has gone away with all of it.
		}
		dir := filepath.Join(owners[at].path, t.Name)
		err := snapdata.Exchange(dir+besideSuffix, dir, wanted(t))
		if err != nil && !s.m.spoilt(ctx, owners[at].place, tenure.Ref{Snap: p.Snap}, err) {
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
	if err != nil || !found {
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
