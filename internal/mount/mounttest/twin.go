package mounttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"tenure"
	"tenure/internal/mount"
)

// Twin is a mount table in memory. Of what is mounted nothing can be seen, but that something is: the directory is
// not empty, and cannot be removed.
type Twin struct {
	mu     sync.Mutex
	mounts []twinMount
	minor  uint32
	// uses tells of those who use what is mounted at a directory.
	uses func(dir string) []mount.Use
}

var _ mount.Table = (*Twin)(nil)

type twinMount struct {
	mount.Info

	// file is what is mounted; empty for a directory that is shared.
	file string
}

// NewTwin is a table with nothing in it. Whoever uses what is mounted at a directory is told by uses; nil is nobody.
func NewTwin(uses func(dir string) []mount.Use) *Twin {
	if uses == nil {
		uses = func(string) []mount.Use { return nil }
	}
	return &Twin{uses: uses}
}

// Copy is another table with the same in it.
func (t *Twin) Copy(uses func(dir string) []mount.Use) *Twin {
	t.mu.Lock()
	defer t.mu.Unlock()
	other := NewTwin(uses)
	other.mounts, other.minor = slices.Clone(t.mounts), t.minor
	return other
}

// mark is what makes a directory one that cannot be removed.
const mark = ".mounted"

// Mount implements mount.Table.
func (t *Twin) Mount(ctx context.Context, file, dir string) (mount.Info, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fail := func(err error) (mount.Info, error) {
		return mount.Info{}, fmt.Errorf("mount %s at %s: %w", file, dir, err)
	}
	if on, found := t.top(dir); found {
		if on.file != file {
			return fail(fmt.Errorf("%w: %s", mount.ErrOccupied, on.Source))
		}
		return on.Info, nil
	}
	if _, err := os.Stat(file); err != nil {
		return fail(err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // As the mount point of a revision is.
		return fail(err)
	}
	if err := os.WriteFile(filepath.Join(dir, mark), nil, 0o600); err != nil {
		return fail(err)
	}
	t.minor++
	info := mount.Info{Dir: dir, Dev: mount.Dev{Major: 7, Minor: t.minor}, Type: "squashfs", Source: fmt.Sprintf("/dev/loop%d", t.minor)}
	t.mounts = append(t.mounts, twinMount{Info: info, file: file})
	return info, nil
}

// top is the mount that was made at dir last.
func (t *Twin) top(dir string) (twinMount, bool) {
	for _, m := range slices.Backward(t.mounts) {
		if m.Dir == dir {
			return m, true
		}
	}
	return twinMount{}, false
}

// Mounted implements mount.Table.
func (t *Twin) Mounted(dir string) (mount.Info, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m, found := t.top(dir)
	return m.Info, found, nil
}

// Below implements mount.Table.
func (t *Twin) Below(dir string) ([]mount.Info, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.below(dir), nil
}

func (t *Twin) below(dir string) (found []mount.Info) {
	for _, m := range t.mounts {
		if m.Dir == dir || strings.HasPrefix(m.Dir, dir+"/") {
			found = append(found, m.Info)
		}
	}
	return found
}

// Share implements mount.Table.
func (t *Twin) Share(dir string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m, found := t.top(dir); found && m.Shared {
		return nil
	}
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("share %s: %w", dir, err)
	}
	t.mounts = append(t.mounts, twinMount{Info: mount.Info{Dir: dir, Type: "tmpfs", Source: dir, Shared: true}})
	return nil
}

// Unmount implements mount.Table.
func (t *Twin) Unmount(ctx context.Context, dir string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		m, found := t.top(dir)
		if !found {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		if len(t.below(dir)) > t.at(dir) || len(t.uses(dir)) > 0 {
			return fmt.Errorf("unmount %s: %w", dir, mount.ErrBusy)
		}
		if err := t.drop(m); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}

// at is how often something is mounted at dir.
func (t *Twin) at(dir string) (n int) {
	for _, m := range t.mounts {
		if m.Dir == dir {
			n++
		}
	}
	return n
}

// drop takes a mount away, which is the last one of its directory.
func (t *Twin) drop(gone twinMount) error {
	for i, m := range slices.Backward(t.mounts) {
		if m.Dir == gone.Dir {
			t.mounts = slices.Delete(t.mounts, i, i+1)
			break
		}
	}
	if gone.file == "" {
		return nil
	}
	err := os.Remove(filepath.Join(gone.Dir, mark))
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// UnmountTree implements mount.Table.
func (t *Twin) UnmountTree(ctx context.Context, dir string) error {
	below, err := t.Below(dir)
	for _, m := range slices.Backward(below) {
		err = errors.Join(err, t.Unmount(ctx, m.Dir))
	}
	return err
}

// DetachTree implements mount.Table.
func (t *Twin) DetachTree(ctx context.Context, dir string) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range slices.Backward(t.below(dir)) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("detach all below %s: %w", dir, err)
		}
		top, _ := t.top(m.Dir)
		err = errors.Join(err, t.drop(top))
	}
	return err
}

// UsersOf implements mount.Table.
func (t *Twin) UsersOf(_ context.Context, mounts ...mount.Info) (map[mount.Dev][]mount.Use, error) {
	return t.users(mounts, func(mount.Use) bool { return true }), nil
}

// RunnersOf implements mount.Table.
func (t *Twin) RunnersOf(_ context.Context, mounts ...mount.Info) (map[mount.Dev][]mount.Use, error) {
	return t.users(mounts, func(use mount.Use) bool { return use.What == mount.Exe }), nil
}

func (t *Twin) users(mounts []mount.Info, wanted func(mount.Use) bool) map[mount.Dev][]mount.Use {
	users := map[mount.Dev][]mount.Use{}
	for _, m := range mounts {
		for _, use := range t.uses(m.Dir) {
			if wanted(use) {
				users[m.Dev] = append(users[m.Dev], use)
			}
		}
	}
	return users
}

// UsedBy implements mount.Table.
func (t *Twin) UsedBy(p tenure.Process, mounts ...mount.Info) (map[mount.Dev][]mount.What, error) {
	used := map[mount.Dev][]mount.What{}
	for dev, uses := range t.users(mounts, func(use mount.Use) bool { return use.Process == p }) {
		for _, use := range uses {
			used[dev] = append(used[dev], use.What)
		}
	}
	return used, nil
}
