package refresh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"tenure"
	"tenure/internal/change"
	"tenure/internal/snapdata"
	"tenure/internal/supervise"
)

// place is a directory in which a snap keeps one directory for each revision: its
// own, and one in the home directory of every user. Those of users are held
// open: their owner may put a link to anywhere in the way at any time, and what is
// done in them goes by the descriptor.
type place struct {
	path string
	held *os.File
}

func (p place) of(rev tenure.Revision) string { return filepath.Join(p.path, rev.String()) }

// places are all directories with data of revisions of snap, and what lets go of
// them.
func (m *Manager) places(snap tenure.Instance) (places []place, release func(), err error) {
	places = []place{{path: m.cfg.Paths.DataDir(snap)}}
	release = func() {
		for _, p := range places {
			if p.held != nil {
				_ = p.held.Close() // Opened for reading.
			}
		}
	}
	for _, home := range m.homes() {
		held, err := openUserDir(home, snap)
		if supervise.IsShort(supervise.Short(err)) {
			release()
			return nil, nil, fmt.Errorf("open data in %s: %w", home, supervise.Short(err))
		}
		if err == nil {
			places = append(places, place{path: fmt.Sprintf("/proc/self/fd/%d", held.Fd()), held: held})
		}
	}
	return places, release, nil
}

// homes are the home directories that there are.
func (m *Manager) homes() []string {
	homes := []string{m.cfg.Paths.at(rootHome)}
	entries, _ := os.ReadDir(m.cfg.Paths.at("home")) // Where there is none, nobody has any.
	for _, entry := range entries {
		homes = append(homes, m.cfg.Paths.at("home", entry.Name()))
	}
	return homes
}

// spoilt reports whether something failed because of what a user has made of their
// own data: that is theirs to mend, and keeps no one from a refresh. It is said
// in the change.
func (m *Manager) spoilt(ctx context.Context, at place, ref tenure.Ref, err error) bool {
	if at.held == nil || !theirs(err) {
		return false
	}
	change.ReporterFrom(ctx).Logf("data of %s below %s is left alone: %v", ref, at.held.Name(), err)
	return true
}

// theirs reports whether an error is of a kind that users can bring about with their own directories: by links,
// mounts, modes, other things in the way, or files that are too much for where they are copied to.
func theirs(err error) bool {
	kinds := []error{
		snapdata.ErrTooDeep, snapdata.ErrMounted, syscall.ELOOP, syscall.ENOTDIR, syscall.EFBIG, syscall.E2BIG,
		fs.ErrExist, fs.ErrNotExist, fs.ErrPermission,
	}
	return slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) })
}

// openUserDir opens the directory of snap in a home directory, unless a link is
// in the way.
func openUserDir(home string, snap tenure.Instance) (*os.File, error) {
	return snapdata.Descend(home, false, "snap", string(snap))
}

// copies is a copy of data between its two passes: in memory alone, for one that
// is lost with the daemon costs a full comparison at the second pass, nothing else.
type copies struct {
	passes  []copying
	release func()
}

type copying struct {
	at   place
	pass *snapdata.Pass
}

// running are the copies of changes that run, by what they copy to.
type running struct {
	mu   sync.Mutex
	made map[tenure.Ref]copies
}

func (r *running) keep(to tenure.Ref, made copies) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.made == nil {
		r.made = make(map[tenure.Ref]copies)
	}
	r.made[to] = made
}

func (r *running) take(to tenure.Ref) (made copies, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	made, found = r.made[to]
	delete(r.made, to)
	return made, found
}

// firstCopy copies what is there of the data of a revision to the next, and makes
// the copy durable: the gap does not wait for the disk.
func (m *Manager) firstCopy(ctx context.Context, p copyParams) error {
	if !p.Copy {
		return nil
	}
	places, release, err := m.places(p.To.Snap)
	if err != nil {
		return err
	}
	made := copies{release: release}
	for _, place := range places {
		pass, err := m.firstPass(ctx, place, p)
		if m.spoilt(ctx, place, p.To, err) {
			_ = snapdata.Remove(ctx, place.of(p.To.Revision)) // What there is of a copy is none.
			continue
		}
		if err != nil {
			release()
			return err
		}
		if pass != nil {
			made.passes = append(made.passes, copying{place, pass})
		}
	}
	if err := made.sync(ctx); err != nil {
		release()
		return err
	}
	m.copies.keep(p.To, made)
	return nil
}

// firstPass is nil where there is nothing to copy.
func (m *Manager) firstPass(ctx context.Context, at place, p copyParams) (*snapdata.Pass, error) {
	from, to := at.of(p.From.Revision), at.of(p.To.Revision)
	if _, err := os.Lstat(from); errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // Nothing to copy is no error.
	}
	// A first pass that died with the daemon is begun again.
	if err := snapdata.Remove(ctx, to); err != nil {
		return nil, err
	}
	pass, err := snapdata.First(ctx, from, to, m.cfg.Copying)
	if err != nil {
		return nil, err
	}
	return pass, nil
}

// sync makes what was copied durable.
func (c copies) sync(ctx context.Context) error {
	passes := make([]*snapdata.Pass, 0, len(c.passes))
	for _, copying := range c.passes {
		passes = append(passes, copying.pass)
	}
	return snapdata.Sync(ctx, passes...)
}

// secondCopy brings the copies up to what the stopped services have left.
func (m *Manager) secondCopy(ctx context.Context, p copyParams) error {
	made, found := m.copies.take(p.To)
	if !found {
		places, release, err := m.places(p.To.Snap)
		if err != nil {
			return err
		}
		made.release = release
		for _, at := range places {
			if _, err := os.Lstat(at.of(p.From.Revision)); err == nil {
				made.passes = append(made.passes, copying{at, snapdata.Resume(at.of(p.From.Revision), at.of(p.To.Revision))})
			}
		}
	}
	defer made.release()
	for _, c := range made.passes {
		_, err := c.pass.Second(ctx, m.cfg.Copying)
		if err != nil && !m.spoilt(ctx, c.at, p.To, err) {
			return fmt.Errorf("bring data of %s up to date: %w", p.To, err)
		}
	}
	return nil
}

// dropCopy forgets a copy whose change is undone.
func (m *Manager) dropCopy(to tenure.Ref) {
	if made, found := m.copies.take(to); found {
		made.release()
	}
}

// removeData removes the data of one revision, also that of users.
func (m *Manager) removeData(ctx context.Context, ref tenure.Ref) error {
	places, release, err := m.places(ref.Snap)
	if err != nil {
		return err
	}
	defer release()
	var failures []error
	for _, at := range places {
		err := snapdata.Remove(ctx, at.of(ref.Revision))
		if !m.spoilt(ctx, at, ref, err) {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// dropUserDirs removes what users have of a snap for all its revisions, and the
// directories that are empty then.
func (m *Manager) dropUserDirs(ctx context.Context, snap tenure.Instance) error {
	homes := m.homes()
	var failures []error
	for _, home := range homes {
		held, err := openUserDir(home, snap)
		if err != nil {
			continue // There is none, or it is not ours to remove.
		}
		at := place{path: fmt.Sprintf("/proc/self/fd/%d", held.Fd()), held: held}
		for _, name := range []string{"common", current, nextOf(current)} {
			err := snapdata.Remove(ctx, filepath.Join(at.path, name))
			if !m.spoilt(ctx, at, tenure.Ref{Snap: snap}, err) {
				failures = append(failures, err)
			}
		}
		_ = held.Close() // Opened for reading.
		failures = append(failures, removeEmpty(home, snap))
	}
	return errors.Join(failures...)
}

// inUse reports whether an error is of a directory that is not to go: something is in it, or mounted on it, or its owner has it on
// a file system that nobody may write to.
func inUse(err error) bool {
	return errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EROFS)
}

// removeEmpty removes the directory of snap in a home, if there is nothing of its
// owner's in it.
func removeEmpty(home string, snap tenure.Instance) error {
	root, err := os.OpenRoot(home)
	if err != nil {
		return nil // It is theirs.
	}
	defer root.Close() //nolint:errcheck // Opened for reading.
	if err := root.Remove(filepath.Join("snap", string(snap))); err != nil && !theirs(err) && !inUse(err) {
		return fmt.Errorf("remove directory of %s: %w", snap, err)
	}
	return nil
}
