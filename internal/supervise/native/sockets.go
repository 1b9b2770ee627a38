package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
)

// openSockets opens the declared sockets that are not open yet. Old is the Spec
// before: a socket that it declares alike is the same socket, with what waits in it.
func (u *unit) openSockets(ctx context.Context, old *supervise.Spec) error {
	if err := u.openByHost(ctx, old); err != nil {
		return err
	}
	if len(u.rec.Spec.Sockets) == 0 && len(old.Sockets) == 0 {
		return nil
	}
	kept, err := u.s.cfg.Holder.Get(ctx, u.id)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, k := range kept {
		have[k.Name] = have[k.Name] || k.Kind == fdstore.Listen
		_ = k.File.Close()
	}
	wanted := map[string]bool{}
	for _, socket := range u.held() {
		wanted[socket.Name] = true
		if have[socket.Name] && declaredAlike(old, socket) {
			continue
		}
		if err := u.openToKeep(ctx, socket); err != nil {
			return err
		}
	}
	for name := range have {
		if have[name] && !wanted[name] {
			if err := u.s.cfg.Holder.Remove(ctx, u.id, fdstore.Listen, name); err != nil {
				return err
			}
			u.unkeep(fdstore.Listen, name)
		}
	}
	return nil
}

func declaredAlike(spec *supervise.Spec, socket supervise.Socket) bool {
	return slices.ContainsFunc(spec.Sockets, func(s supervise.Socket) bool { return s.Name == socket.Name && alike(s, socket) })
}

// openToKeep opens a declared socket and has the holder keep it.
func (u *unit) openToKeep(ctx context.Context, socket supervise.Socket) error {
	file, err := openSocket(socket)
	if err != nil {
		return fmt.Errorf("open socket %s: %w", socket.Name, err)
	}
	defer file.Close() //nolint:errcheck // The holder has its own.
	err = u.keep(ctx, fdstore.Listen, socket.Name, file)
	u.save()
	return err
}

func openSocket(socket supervise.Socket) (*os.File, error) {
	switch socket.Network {
	case "tcp":
		address := socket.Address
		if !strings.Contains(address, ":") {
			address = ":" + address
		}
		listener, err := net.Listen("tcp", address) //nolint:noctx // Binding does not wait.
		if err != nil {
			return nil, err
		}
		return listenerFile(listener)
	case "unix-abstract":
		listener, err := net.Listen("unix", "@"+socket.Address) //nolint:noctx // Binding does not wait.
		if err != nil {
			return nil, err
		}
		return listenerFile(listener)
	case "unix":
		return openSocketFile(socket)
	default:
		return nil, fmt.Errorf("network %q: %w", socket.Network, errors.ErrUnsupported)
	}
}

// listenerFile is the descriptor of a listener, blocking, as services expect.
func listenerFile(listener net.Listener) (*os.File, error) {
	defer listener.Close() //nolint:errcheck // The copy goes on.
	filer, ok := listener.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, errors.ErrUnsupported
	}
	file, err := filer.File()
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(int(file.Fd()), false); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// openSocketFile makes a socket file. The service may write to the directories
// on the way, so no symbolic link is followed.
func openSocketFile(socket supervise.Socket) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, filepath.Dir(socket.Address), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open directory of %s: %w", socket.Address, err)
	}
	defer unix.Close(fd) //nolint:errcheck // Only looked at.
	name := filepath.Base(socket.Address)
	if err := unix.Unlinkat(fd, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("remove stale %s: %w", socket.Address, err)
	}
	short := fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	mode := fs.FileMode(socket.Mode)
	if mode == 0 {
		mode = 0o666
	}
	if err := chmodSocket(fd, name, mode); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listenerFile(listener)
}

// chmodSocket changes the mode of a socket file, and of nothing that was put in its
// place meanwhile.
func chmodSocket(dir int, name string, mode fs.FileMode) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket file: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // Only looked at.
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("stat socket file: %w", err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s was replaced by something else: %w", name, fs.ErrInvalid)
	}
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), uint32(mode.Perm())); err != nil {
		return fmt.Errorf("change mode of socket file: %w", err)
	}
	return nil
}

// closeSockets closes the declared sockets and forgets what the service stored.
func (u *unit) closeSockets(ctx context.Context) {
	if u.overlaps() {
		u.closeOwn(ctx)
		return
	}
	u.rec.Holding = false
	u.closeByHost()
	ctx = context.WithoutCancel(ctx)
	kinds := []fdstore.Kind{}
	if len(u.rec.Spec.Sockets) > 0 {
		kinds = append(kinds, fdstore.Listen)
	}
	if u.notifies() {
		kinds = append(kinds, fdstore.Stored)
	}
	for _, kind := range kinds {
		u.unkeep(kind, "")
		if err := u.s.cfg.Holder.Remove(ctx, u.id, kind); err != nil {
			u.warn("sockets cannot be closed", err)
		}
	}
	for _, socket := range u.rec.Spec.Sockets {
		if socket.Network == "unix" {
			removeSocketFile(socket.Address)
		}
	}
}

// removeSocketFile removes a socket file; like making it, it follows no link.
func removeSocketFile(path string) {
	fd, err := unix.Openat2(unix.AT_FDCWD, filepath.Dir(path), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return
	}
	defer unix.Close(fd) //nolint:errcheck // Only looked at.
	var stat unix.Stat_t
	if unix.Fstatat(fd, filepath.Base(path), &stat, unix.AT_SYMLINK_NOFOLLOW) == nil && stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
		_ = unix.Unlinkat(fd, filepath.Base(path), 0) // A stale one is replaced later.
	}
}

// listen waits for the first connection, and starts the unit then. The sockets
// are watched by an epoll instance, which leaves their flags, shared with the
// service, alone.
func (u *unit) listen(ctx context.Context) {
	u.stopListening()
	kept, err := u.s.cfg.Holder.Get(ctx, u.id)
	if err != nil {
		u.warn("sockets cannot be watched", err)
		return
	}
	var files []*os.File
	for _, k := range kept {
		if k.Kind == fdstore.Listen {
			files = append(files, k.File)
		} else {
			_ = k.File.Close()
		}
	}
	ready, err := anyReadable(files)
	if err != nil {
		closeFiles(files)
		u.warn("sockets cannot be watched", err)
		return
	}
	stop := sync.OnceFunc(func() {
		_ = ready.Close()
		closeFiles(files)
	})
	u.listening = stop
	u.s.wg.Go(func() {
		if !awaitReadable(ready) {
			return
		}
		_ = u.tell(ctx, func(ctx context.Context) {
			if u.rec.State == supervise.Listening {
				u.connected(ctx)
			}
		})
	})
}

// connected is told of the first connection. A service that has just ended
// without taking it is started again no faster than one that crashes.
func (u *unit) connected(ctx context.Context) {
	delay := restartDelay(u.rec.Spec.Restart, u.rec.Streak)
	wait := min(delay, delay-time.Since(u.rec.Started)) // It may have been started later than now, if the clock was set.
	if wait <= 0 {
		u.rec.Streak = 0
		u.launchByItself(ctx)
		return
	}
	u.stopListening()
	u.rec.Streak++
	u.setAlarm(alarmBackoff, wait)
	u.state(supervise.Backoff)
}

func (u *unit) stopListening() {
	if u.listening != nil {
		u.listening()
		u.listening = nil
	}
}

// anyReadable is a file that can be read from, for the poller, as soon as one of
// files can.
func anyReadable(files []*os.File) (*os.File, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	for _, file := range files {
		fd := int(file.Fd())
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil { //nolint:gosec // A descriptor.
			return nil, errors.Join(fmt.Errorf("epoll: %w", err), unix.Close(epoll))
		}
	}
	if err := unix.SetNonblock(epoll, true); err != nil {
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), unix.Close(epoll))
	}
	return os.NewFile(uintptr(epoll), "epoll"), nil //nolint:gosec // A descriptor.
}

// awaitReadable reports false when the file was closed.
func awaitReadable(epoll *os.File) bool {
	raw, err := epoll.SyscallConn()
	if err != nil {
		return false
	}
	found := false
	err = raw.Read(func(fd uintptr) bool {
		events := make([]unix.EpollEvent, 1)
		n, err := unix.EpollWait(int(fd), events, 0)
		found = err == nil && n > 0
		return found || (err != nil && !errors.Is(err, unix.EINTR))
	})
	return err == nil && found
}
