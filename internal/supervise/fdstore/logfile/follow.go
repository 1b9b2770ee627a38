package logfile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// watcher tells which logs have changed, by one inotify for all of them.
type watcher struct {
	file *os.File
	fd   int
	root int
	logs map[int]*cursor // By watch descriptor.
	dirs map[string]*cursor
	buf  []byte
}

const (
	// The deletion of a unit's directory is seen from outside: the directory itself does not tell
	// while the reader has a file in it open.
	rootEvents = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_ONLYDIR
	unitEvents = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_ONLYDIR
)

// newWatcher begins to watch for changes. It makes the directory of the logs, so that there
// is something to watch.
func newWatcher(dir string, cursors []*cursor) (*watcher, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("follow logs: %w", err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("follow logs: %w", err)
	}
	w := &watcher{
		file: os.NewFile(uintptr(fd), "inotify"), fd: fd,
		logs: map[int]*cursor{}, dirs: map[string]*cursor{}, buf: make([]byte, 16<<10),
	}
	if w.root, err = unix.InotifyAddWatch(fd, dir, rootEvents); err != nil {
		return nil, fmt.Errorf("follow logs in %s: %w", dir, errors.Join(err, w.file.Close()))
	}
	for _, c := range cursors {
		w.dirs[DirName(c.unit)] = c
		if err := w.add(c); err != nil {
			return nil, errors.Join(err, w.file.Close())
		}
	}
	return w, nil
}

// add watches the directory of a unit if it exists; otherwise root tells when it does.
func (w *watcher) add(c *cursor) error {
	wd, err := unix.InotifyAddWatch(w.fd, c.dir, unitEvents)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("follow log of %s: %w", c.unit, err)
	}
	w.logs[wd] = c
	return nil
}

// wait returns the logs that may have changed; it waits until there is one or ctx ends.
func (w *watcher) wait(ctx context.Context) ([]*cursor, error) {
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	n, err := w.file.Read(w.buf)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("follow logs: %w", err)
	}
	changed := map[*cursor]bool{}
	for events := w.buf[:n]; len(events) >= unix.SizeofInotifyEvent; {
		wd := int(int32(binary.NativeEndian.Uint32(events))) //nolint:gosec // A watch descriptor is an int32.
		mask := binary.NativeEndian.Uint32(events[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:min(size, len(events))]), "\x00")
		events = events[min(size, len(events)):]
		if err := w.event(wd, mask, name, changed); err != nil {
			return nil, err
		}
	}
	cursors := make([]*cursor, 0, len(changed))
	for c := range changed {
		cursors = append(cursors, c)
	}
	return cursors, nil
}

// event adds to changed what an event is about.
func (w *watcher) event(wd int, mask uint32, name string, changed map[*cursor]bool) error {
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		for _, c := range w.dirs {
			changed[c] = true
		}
	case wd == w.root && w.dirs[name] != nil:
		c := w.dirs[name]
		changed[c] = true
		if mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0 {
			c.restart = true
			return nil
		}
		return w.add(c)
	case mask&unix.IN_IGNORED != 0:
		delete(w.logs, wd)
	case w.logs[wd] != nil:
		changed[w.logs[wd]] = true
	}
	return nil
}

func (w *watcher) close() { _ = w.file.Close() }
