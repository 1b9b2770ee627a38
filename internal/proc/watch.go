package proc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Watcher tells when groups change: when they become empty, populated, frozen.
// It serves any number of groups with one descriptor and one goroutine.
type Watcher struct {
	events *os.File
	done   chan struct{}

	mu sync.Mutex
	// watches has the watches of each watch descriptor of inotify. A group that
	// is watched twice, and a directory with several such groups, has one.
	watches map[int32][]*Watch
	closed  bool
}

// Watch is the interest of one caller in one group.
type Watch struct {
	watcher *Watcher
	wds     [2]int32
	// name is the group's in the directory above it.
	name   string
	c      chan struct{}
	closed bool
}

// Watch starts a watcher, which ends with ctx.
func (h *Hierarchy) Watch(ctx context.Context) (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch groups: %w", Inotify(err))
	}
	w := &Watcher{
		events:  os.NewFile(uintptr(fd), "inotify"),
		done:    make(chan struct{}),
		watches: make(map[int32][]*Watch),
	}
	stop := context.AfterFunc(ctx, func() { _ = w.events.Close() })
	go func() {
		defer close(w.done)
		defer stop()
		w.run()
	}()
	return w, nil
}

// Inotify says of an error of inotify(7) what to do about it, if the numbers of
// the kernel do not: they are those of a full disk and of descriptors.
func Inotify(err error) error {
	switch {
	case errors.Is(err, unix.EMFILE):
		return fmt.Errorf("no inotify instance is left (%w): raise fs.inotify.max_user_instances (sysctl), or the limit of file descriptors", err)
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("no inotify watch is left (%w): raise fs.inotify.max_user_watches (sysctl)", err)
	}
	return fmt.Errorf("inotify: %w", err)
}

// Done is closed when the watcher has ended and released everything.
func (w *Watcher) Done() <-chan struct{} { return w.done }

// Add watches a group. A group that does not exist is an error of kind
// ErrNoGroup.
func (w *Watcher) Add(g Group) (*Watch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fmt.Errorf("watch group %s: %w", g.path, fs.ErrClosed)
	}
	watch := &Watch{watcher: w, name: filepath.Base(g.path), c: make(chan struct{}, 1)}
	err := control(w.events, func(fd int) (err error) {
		watch.wds, err = g.addWatches(fd)
		return err
	})
	for _, wd := range watch.wds {
		w.watches[wd] = append(w.watches[wd], watch)
	}
	if err != nil {
		watch.close()
		return nil, err
	}
	watch.c <- struct{}{}
	return watch, nil
}

// C has an element when the group may have changed since the last one was
// taken, or was removed; it has one from the beginning, so that who reads the state after each
// misses nothing. It is closed when the watch or its watcher ends.
func (w *Watch) C() <-chan struct{} { return w.c }

// Close ends the watch. It may be called more than once.
func (w *Watch) Close() {
	w.watcher.mu.Lock()
	defer w.watcher.mu.Unlock()
	w.close()
}

// close is Close for who holds the watcher.
func (w *Watch) close() {
	if w.closed {
		return
	}
	w.closed = true
	close(w.c)
	owner := w.watcher
	for _, wd := range w.wds {
		owner.watches[wd] = slices.DeleteFunc(owner.watches[wd], func(other *Watch) bool { return other == w })
		if len(owner.watches[wd]) > 0 {
			continue
		}
		delete(owner.watches, wd)
		_ = control(owner.events, func(fd int) error {
			_, err := unix.InotifyRmWatch(fd, uint32(wd)) //nolint:gosec // The kernel's own 32-bit number.
			return err
		})
	}
}

// run passes events on until the descriptor is closed.
func (w *Watcher) run() {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.events.Read(buf)
		if err != nil {
			w.end()
			return
		}
		w.mu.Lock()
		for event := buf[:n]; len(event) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(event))      //nolint:gosec // The kernel's own 32-bit number.
			mask := binary.NativeEndian.Uint32(event[4:])       // struct inotify_event of inotify(7)
			size := int(binary.NativeEndian.Uint32(event[12:])) // of the name that follows
			name := string(bytes.TrimRight(event[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], "\x00"))
			event = event[unix.SizeofInotifyEvent+size:]
			w.dispatch(wd, mask, name)
		}
		w.mu.Unlock()
	}
}

// dispatch wakes the watches of a descriptor that an event is about, or all
// when events were lost. name is what was removed, empty for a change.
func (w *Watcher) dispatch(wd int32, mask uint32, name string) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		for _, watches := range w.watches {
			for _, watch := range watches {
				watch.wake()
			}
		}
		return
	}
	for _, watch := range w.watches[wd] {
		if name == "" || name == watch.name {
			watch.wake()
		}
	}
}

func (w *Watch) wake() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

func (w *Watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	_ = w.events.Close()
	for _, watches := range w.watches {
		for _, watch := range watches {
			if !watch.closed {
				watch.closed = true
				close(watch.c)
			}
		}
	}
	clear(w.watches)
}

// control calls f with the descriptor of file while it is kept open.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return fs.ErrClosed // The only reason that there is.
	}
	return inner
}
