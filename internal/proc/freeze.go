package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Freeze makes every process in the group and below it stand still, and
// returns when they do. What cannot be interrupted (a process in an
// uninterruptible sleep) can make it take for ever: ctx bounds it, and
// the group is thawed when it fails.
func (g Group) Freeze(ctx context.Context) error {
	hold, err := g.Hold(ctx)
	if err != nil {
		return err
	}
	return hold.file.Close()
}

// Hold is that a group stands still.
type Hold struct {
	group Group
	// file is cgroup.freeze, open since before the group stood still: who is out of descriptors
	// meanwhile lets it go on all the same.
	file *os.File
}

// Hold is Freeze, for who lets the processes run again and must not fail to.
func (g Group) Hold(ctx context.Context) (*Hold, error) {
	file, err := os.OpenFile(filepath.Join(g.path, "cgroup.freeze"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("freeze group %s: %w", g.path, goneGroup(err))
	}
	hold := &Hold{group: g, file: file}
	freeze := func() error {
		_, err := file.WriteString("1")
		return goneGroup(err)
	}
	if err := g.await(ctx, "frozen", true, freeze); err != nil {
		return nil, fmt.Errorf("freeze group %s: %w", g.path, errors.Join(err, hold.Thaw()))
	}
	return hold, nil
}

// Thaw is Group.Thaw, and needs nothing that the machine can be short of. It is called once.
func (h *Hold) Thaw() error {
	_, err := h.file.WriteString("0")
	if err = goneGroup(errors.Join(err, h.file.Close())); err != nil && !errors.Is(err, ErrNoGroup) {
		return fmt.Errorf("thaw group %s: %w", h.group.path, err)
	}
	return nil
}

// Thaw lets the processes run again. It does not wait, and a group that is
// gone or not frozen is no error.
func (g Group) Thaw() error {
	if err := g.write("cgroup.freeze", "0"); err != nil && !errors.Is(err, ErrNoGroup) {
		return fmt.Errorf("thaw group %s: %w", g.path, err)
	}
	return nil
}

// Wake is Thaw for a group that hardly ever stands still: to see that takes no lock for which all
// groups of the machine take turns.
func (g Group) Wake() error {
	if still, err := g.read("cgroup.freeze"); err == nil && string(still) == "0" {
		return nil
	}
	return g.Thaw()
}

// await starts to listen to cgroup.events, calls act, and returns when key has
// the wanted value. The value is read before each wait, for the kernel tells a
// change only once, and late when it told another one just before.
func (g Group) await(ctx context.Context, key string, want bool, act func() error) error {
	events, err := g.listen()
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
		return g.poll(ctx, key, want, act)
	}
	if err != nil {
		return err
	}
	defer events.Close() //nolint:errcheck // An inotify descriptor has nothing to lose.
	if act != nil {
		if err := act(); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() {
		_ = events.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	buf := make([]byte, 4096)
	for {
		value, err := g.event(key)
		if err != nil || value == want {
			return err
		}
		if _, err := events.Read(buf); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("wait for cgroup.events: %w", err)
		}
	}
}

// How often poll looks.
const firstGlance, lastGlance = time.Millisecond, 100 * time.Millisecond

// poll is await where nobody can be told of a change, for the user has no inotify watch left.
func (g Group) poll(ctx context.Context, key string, want bool, act func() error) error {
	if act != nil {
		if err := act(); err != nil {
			return err
		}
	}
	for pause := firstGlance; ; pause = min(2*pause, lastGlance) {
		value, err := g.event(key)
		if err != nil || value == want {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// listen opens a stream that becomes readable when cgroup.events changes or
// the group is removed.
func (g Group) listen() (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, Inotify(err)
	}
	if _, err := g.addWatches(fd); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// addWatches has an inotify descriptor tell what becomes of a group. Its file tells
// changes; that the group is removed only the directory above it tells, and that
// can drop a change that was not told yet.
func (g Group) addWatches(fd int) (wds [2]int32, err error) {
	for i, watch := range []struct {
		path string
		mask uint32
	}{
		{filepath.Dir(g.path), unix.IN_DELETE | unix.IN_ONLYDIR},
		{filepath.Join(g.path, "cgroup.events"), unix.IN_MODIFY},
	} {
		wd, err := unix.InotifyAddWatch(fd, watch.path, watch.mask)
		if err != nil {
			if errors.Is(err, unix.ENOSPC) {
				err = Inotify(err)
			}
			return wds, fmt.Errorf("watch group %s: %w", g.path, goneGroup(err))
		}
		wds[i] = int32(wd) //nolint:gosec // The kernel's own 32-bit number.
	}
	return wds, nil
}
