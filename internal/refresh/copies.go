package refresh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"tenure"
	"tenure/internal/snapdata"
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
func (m *Manager) places(snap tenure.Instance) ([]place, func()) {
	places := []place{{path: m.cfg.Paths.DataDir(snap)}}
	homes, _ := filepath.Glob(m.cfg.Paths.at("home", "*")) // The pattern is well formed.
	for _, home := range append(homes, m.cfg.Paths.at("root")) {
		if held, err := openUserDir(home, snap); err == nil {
			places = append(places, place{path: fmt.Sprintf("/proc/self/fd/%d", held.Fd()), held: held})
		}
	}
	return places, func() {
		for _, p := range places {
			if p.held != nil {
				_ = p.held.Close() // Opened for reading.
			}
		}
	}
}

// openUserDir opens the directory of snap in a home directory, unless a link is
// in the way.
func openUserDir(home string, snap tenure.Instance) (*os.File, error) {
	root, err := os.OpenRoot(home)
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // Opened for reading.
	path := ""
	for _, name := range []string{"snap", string(snap)} {
		path = filepath.Join(path, name)
		info, err := root.Lstat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("%s: %w", path, os.ErrInvalid)
		}
	}
	// What has been put in the way meanwhile still cannot lead out of the home.
	return root.Open(path)
}

// copies is a copy of data between its two passes: in memory alone, for one that
// is lost with the daemon costs a full comparison at the second pass, nothing else.
type copies struct {
	passes  []*snapdata.Pass
	release func()
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
		return os.MkdirAll(m.cfg.Paths.Data(p.To), 0o755)
	}
	places, release := m.places(p.To.Snap)
	made := copies{release: release}
	for _, place := range places {
		pass, err := firstPass(ctx, place, p)
		if err != nil {
			release()
			return err
		}
		if pass != nil {
			made.passes = append(made.passes, pass)
		}
	}
	m.copies.keep(p.To, made)
	return nil
}

// firstPass is nil where there is nothing to copy.
func firstPass(ctx context.Context, at place, p copyParams) (*snapdata.Pass, error) {
	from, to := at.of(p.From.Revision), at.of(p.To.Revision)
	if _, err := os.Lstat(from); errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // Nothing to copy is no error.
	}
	// A first pass that died with the daemon is begun again.
	if err := snapdata.Remove(ctx, to); err != nil {
		return nil, err
	}
	pass, err := snapdata.First(ctx, from, to, snapdata.Options{})
	if err != nil {
		return nil, err
	}
	return pass, snapdata.Sync(to)
}

// secondCopy brings the copies up to what the stopped services have left.
func (m *Manager) secondCopy(ctx context.Context, p copyParams) error {
	made, found := m.copies.take(p.To)
	if !found {
		places, release := m.places(p.To.Snap)
		made.release = release
		for _, at := range places {
			if _, err := os.Lstat(at.of(p.From.Revision)); err == nil {
				made.passes = append(made.passes, snapdata.Resume(at.of(p.From.Revision), at.of(p.To.Revision)))
			}
		}
	}
	defer made.release()
	for _, pass := range made.passes {
		if _, err := pass.Second(ctx, snapdata.Options{}); err != nil {
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
	places, release := m.places(ref.Snap)
	defer release()
	var failures []error
	for _, at := range places {
		failures = append(failures, snapdata.Remove(ctx, at.of(ref.Revision)))
	}
	return errors.Join(failures...)
}
