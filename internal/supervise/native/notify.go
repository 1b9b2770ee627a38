package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/proc"
	"tenure/internal/supervise"
	"tenure/internal/supervise/fdstore"
)

// notifySocket is where a unit speaks by sd_notify(3). The holder keeps it too,
// so that what is said while no supervisor runs is heard by the next one.
type notifySocket struct {
	conn *net.UnixConn
	raw  syscall.RawConn
	// mu is held while a datagram is taken out; unheard counts those that were looked at,
	// and that the actor has not come to.
	mu      sync.Mutex
	unheard int
	// looks are those that look at descriptors, or wait for their end.
	looks atomic.Int32
	ears  *ears
	// done is closed when nothing is heard any more.
	done chan struct{}
	// address is NOTIFY_SOCKET, and file what is there if it is a path; they are
	// not known of a socket that was taken back from the holder.
	address string
	file    os.FileInfo
	// refused is that it was said that descriptors cannot be kept.
	refused bool
}

// maxSunPath is the longest path that a socket address has room for (unix(7)).
const maxSunPath = 107

// notifies reports whether the unit is given a socket to speak to.
func (u *unit) notifies() bool {
	return u.rec.Spec.Type == supervise.Notify || u.rec.Spec.Watchdog > 0 || u.rec.Spec.Reload != nil
}

// notifyAddress is NOTIFY_SOCKET as the unit needs it. Where the host's path is
// too long for a socket address it is an abstract one.
func (u *unit) notifyAddress() string {
	path := filepath.Join(u.seenDir(), notifyName)
	if len(path) <= maxSunPath {
		return path
	}
	sum := sha256.Sum256([]byte(path))
	return "@tenure-" + hex.EncodeToString(sum[:8])
}

// openNotify makes the socket for the next launch, unless that of the launch
// before is still where it was: what processes that are gone said is not heard.
func (u *unit) openNotify(ctx context.Context) error {
	if !u.notifies() {
		u.closeNotifyAtRest(ctx)
		return nil
	}
	if u.notifyStays() {
		return nil
	}
	u.closeNotify()
	address := u.notifyAddress()
	if !strings.HasPrefix(address, "@") {
		dir, err := os.Open(u.dir())
		if err != nil {
			return fmt.Errorf("open notify socket: %w", err)
		}
		defer dir.Close() //nolint:errcheck // Only looked at.
		if err := os.Remove(filepath.Join(u.dir(), notifyName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("open notify socket: %w", err)
		}
		address = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), notifyName)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("open notify socket: %w", err)
	}
	if !strings.HasPrefix(address, "@") {
		// Any user that the service becomes may speak; the sender is checked.
		if err := os.Chmod(filepath.Join(u.dir(), notifyName), 0o666); err != nil { //nolint:gosec // See above.
			return errors.Join(fmt.Errorf("open notify socket: %w", err), conn.Close())
		}
	}
	file, err := conn.File()
	if err == nil {
		err = u.s.cfg.Holder.Put(ctx, u.keeper(), fdstore.Notify, u.home, file)
		_ = file.Close()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep notify socket: %w", err), conn.Close())
	}
	if err := u.hear(ctx, conn); err != nil {
		return err
	}
	u.notify.address = u.notifyAddress()
	// When it cannot be seen it is made anew the next time.
	u.notify.file, _ = os.Lstat(filepath.Join(u.dir(), notifyName))
	return nil
}

// notifyStays reports whether the socket can serve the next launch. The unit
// may have done anything to the file.
func (u *unit) notifyStays() bool {
	if u.notify == nil || u.notify.address != u.notifyAddress() {
		return false
	}
	if strings.HasPrefix(u.notify.address, "@") {
		return true
	}
	file, err := os.Lstat(filepath.Join(u.dir(), notifyName))
	return err == nil && u.notify.file != nil && os.SameFile(file, u.notify.file)
}

// openNotifyAgain takes the socket back from the holder, out of what is known to be kept if it
// is there.
func (u *unit) openNotifyAgain(ctx context.Context, known []fdstore.Kept) {
	defer closeKept(known)
	if !u.notifies() || u.rec.Passive || !u.rec.State.Alive() {
		return
	}
	ours := func(k fdstore.Kept) bool { return k.Kind == fdstore.Notify && k.Name == u.home }
	at := slices.IndexFunc(known, ours)
	if at < 0 {
		asked, err := u.s.cfg.Holder.Get(ctx, u.keeper())
		if err != nil {
			u.warn("notify socket cannot be taken back", err)
			return
		}
		defer closeKept(asked)
		known, at = asked, slices.IndexFunc(asked, ours)
	}
	if at >= 0 {
		u.hearFile(ctx, known[at].File)
		return
	}
	if u.rec.Alone || u.rec.Main.PID == 0 {
		return
	}
	// The holder has died as well: who speaks finds another socket at the same place.
	if err := u.openNotify(ctx); err != nil {
		u.warn("notify socket cannot be made again", err)
	}
}

func (u *unit) hearFile(ctx context.Context, file *os.File) {
	packets, err := net.FilePacketConn(file)
	if err != nil {
		u.warn("notify socket cannot be taken back", err)
		return
	}
	conn, ok := packets.(*net.UnixConn)
	if !ok {
		_ = packets.Close()
		return
	}
	if err := u.hear(ctx, conn); err != nil {
		u.warn("notify socket cannot be taken back", err)
	}
}

// hear reads what the unit says until the socket is closed.
func (u *unit) hear(ctx context.Context, conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	var failure error
	if err := raw.Control(func(fd uintptr) {
		failure = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	}); err != nil || failure != nil {
		return errors.Join(err, failure, conn.Close())
	}
	socket := &notifySocket{conn: conn, raw: raw, ears: &u.s.ears, done: make(chan struct{})}
	u.notify = socket
	u.s.wg.Go(func() {
		defer close(socket.done)
		for {
			heard, err := socket.receive(u.sentBy)
			if err != nil {
				return
			}
			if heard.files, err = socket.looked(heard.raw); err != nil {
				_ = u.tell(ctx, func(ctx context.Context) { u.deafen(ctx, socket, err) })
				return
			}
			carriedOut := make(chan struct{})
			if u.tell(ctx, func(ctx context.Context) {
				defer close(carriedOut)
				socket.heard()
				u.hearOne(ctx, socket, heard)
			}) != nil {
				closeFiles(heard.files)
				return
			}
			select {
			case <-carriedOut:
			case <-u.gone:
			case <-ctx.Done():
			}
		}
	})
	return nil
}

// The end of a file may be the word of who serves it, which may be the service itself and does not
// have to answer. So nobody waits for it but goroutines of their own, maxLooks for a socket;
// lookTime is how long the socket waits for one.
const (
	lookTime = 100 * time.Millisecond
	maxLooks = 8
)

// errLook is that too many descriptors were sent that do not end.
var errLook = errors.New("there were descriptors that do not end")

// looked are those of descriptors that can be kept.
func (n *notifySocket) looked(fds []int) (kept []*os.File, err error) {
	var doomed []int
	for _, fd := range fds {
		if harmless(fd) {
			kept = append(kept, os.NewFile(uintptr(fd), "received")) //nolint:gosec // The kernel's own number.
		} else {
			doomed = append(doomed, fd)
		}
	}
	if len(doomed) == 0 {
		return kept, nil
	}
	if n.looks.Add(1) > maxLooks {
		err = errLook
	}
	ended := make(chan struct{})
	go func() {
		defer n.looks.Add(-1)
		defer close(ended)
		for _, fd := range doomed {
			_ = unix.Close(fd)
		}
	}()
	select {
	case <-ended:
	case <-time.After(lookTime):
	}
	return kept, err
}

// deafen ends it that a unit is heard, until it is launched again. Nobody waits for its words.
func (u *unit) deafen(ctx context.Context, socket *notifySocket, why error) {
	if u.notify != socket {
		return
	}
	u.warn("it is not heard any more", why)
	u.closeNotify()
	for word := range u.barriers {
		u.passBarrier(ctx, word)
	}
}

// datagram is what was heard, with its descriptors and the pid of its sender.
type datagram struct {
	notification

	// raw are descriptors as they came. Not even the poller of this process may have them before
	// they were looked at; files are those that it may.
	raw   []int
	files []*os.File
	pid   int
	// taken is that it is in the socket no more.
	taken bool
	// lost is that there was no room for all of its descriptors.
	lost bool
}

// receiveOnce waits for one datagram, and reads it. It stays where it is, unless it has descriptors,
// which would come twice. One that is too long says nothing. Descriptors are taken from those
// who may be heard alone: what is never opened here has no end here.
func (n *notifySocket) receiveOnce(mayBeHeard func(pid int) bool, waits bool) (heard datagram, err error) {
	var into *ear
	var size, controlSize, flags int
	closed := n.raw.Read(func(fd uintptr) bool {
		into = n.ears.get()
		n.mu.Lock()
		defer n.mu.Unlock()
		bare := into.control[:unix.CmsgSpace(unix.SizeofUcred)]
		size, controlSize, flags, _, err = unix.Recvmsg(int(fd), into.data[:], bare, unix.MSG_DONTWAIT|unix.MSG_PEEK)
		if heard.taken = err == nil && flags&unix.MSG_CTRUNC != 0; heard.taken {
			with := into.control[:]
			permitted := mayBeHeard(senderOf(bare[:controlSize]))
			if !permitted {
				with = bare
			} else if waits && !room(fd) {
				err = errNoRoom
				return true
			}
			size, controlSize, flags, _, err = unix.Recvmsg(int(fd), into.data[:], with, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
			heard.lost = permitted && flags&unix.MSG_CTRUNC != 0
		}
		if errors.Is(err, unix.EAGAIN) {
			n.ears.put(into)
			return false
		}
		if err == nil {
			n.unheard++
		}
		return true
	})
	if err := errors.Join(closed, err); err != nil {
		return datagram{}, err
	}
	defer n.ears.put(into)
	data, control := into.data[:], into.control[:]
	heard.pid = senderOf(control[:controlSize])
	messages, _ := unix.ParseSocketControlMessage(control[:controlSize])
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			heard.raw = append(heard.raw, fds...)
		}
	}
	if flags&unix.MSG_TRUNC != 0 {
		return datagram{raw: heard.raw, taken: heard.taken, pid: heard.pid, lost: heard.lost}, nil
	}
	heard.notification = parseNotification(data[:size])
	return heard, nil
}

// heard is told when the actor comes to a datagram.
func (n *notifySocket) heard() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unheard--
}

// silent reports whether everything that was sent so far has been heard.
func (n *notifySocket) silent() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	empty := false
	err := n.raw.Control(func(fd uintptr) {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) //nolint:gosec // A descriptor fits.
		empty = ready == 0 && err == nil
	})
	return err == nil && empty && n.unheard == 0
}

// notified carries out what a process of the unit says. What anybody else says is
// not heard.
func (u *unit) notified(ctx context.Context, heard datagram) {
	defer closeFiles(heard.files)
	if heard.Word != "" && heard.pid == os.Getpid() {
		u.passBarrier(ctx, heard.Word)
		return
	}
	n := heard.notification
	if !wasOf(heard.pid, u.rec.Main) && !u.owns(heard.pid) {
		if n.MainPID != 0 && u.reloadedBy(heard.pid) {
			u.changeMain(n.MainPID)
			u.forward(datagram{notification: notification{MainPID: u.rec.Main.PID}})
		}
		return
	}
	if heard.lost {
		u.s.cfg.Logger.Error("descriptors that a service has sent are lost", slog.Any("unit", u.id), slog.Any("error", supervise.Short(unix.EMFILE)))
	}
	heard.MainPID = u.saidMain(n.MainPID)
	defer u.forward(heard)
	u.store(ctx, n, heard.files)
	if n.HasStatus {
		u.rec.Text = n.Status
	}
	if n.ExtendTimeout > 0 {
		u.extend(n.ExtendTimeout)
	}
	if n.WatchdogEvery > 0 {
		u.rec.Watchdog = n.WatchdogEvery
	}
	switch {
	case n.Trigger:
		u.watchdogMissed(ctx)
		return
	case n.Stopping && (u.rec.State == supervise.Running || u.rec.State == supervise.Reloading):
		u.endByItself()
		return
	case n.Ready && u.rec.State == supervise.Starting && u.rec.Spec.Type == supervise.Notify:
		u.becomeReady()
		return
	case n.Reloading && u.rec.State == supervise.Running:
		u.state(supervise.Reloading)
	case n.Ready && u.rec.State == supervise.Reloading && u.rec.Aux == "":
		u.endReload(nil)
	case n.Watchdog:
		u.feedWatchdog()
		return
	}
	u.save()
}

// sentBy reports whether a process may be heard, as owns; anybody may ask.
func (u *unit) sentBy(pid int) bool {
	status := u.status.Load()
	return wasOf(pid, status.Main) || u.s.isIn(pid, status.Unit)
}

// wasOf reports whether a pid is, or was, that of a main process, which may have ended meanwhile, and nobody else's by now.
func wasOf(pid int, main tenure.Process) bool {
	if pid != main.PID || pid == 0 {
		return false
	}
	info, err := proc.Read(pid)
	return errors.Is(err, proc.ErrGone) || err == nil && info.Process == main
}

// reloadedBy reports whether a process is the unit's reload command: it may say
// which process is the main one now. The command may have ended meanwhile, and nobody
// else has its pid yet.
func (u *unit) reloadedBy(pid int) bool {
	if u.rec.Aux == "" || u.rec.AuxKind != auxReload || pid <= 0 {
		return false
	}
	if pid == u.rec.AuxMain.PID {
		return true
	}
	group, err := u.s.cfg.Hierarchy.GroupOf(pid)
	return err == nil && group.Path() == u.rec.Aux
}

// owns reports whether a process is in one of the unit's groups.
func (u *unit) owns(pid int) bool { return u.s.isIn(pid, u.id) }

func (s *Supervisor) isIn(pid int, unit tenure.UnitID) bool {
	if pid <= 0 {
		return false
	}
	group, err := s.cfg.Hierarchy.GroupOf(pid)
	if err != nil {
		return false
	}
	owner, ok := s.owner(group.Path())
	return ok && owner == unit
}

// saidMain makes the process with a pid the main one, unless there was none named. It returns the pid, or 0 where it was
// refused: nobody else is to believe it then, and the host takes from us what it would not from the service.
func (u *unit) saidMain(pid int) int {
	if pid != 0 && pid != u.rec.Main.PID {
		u.changeMain(pid)
	}
	if pid != u.rec.Main.PID {
		return 0
	}
	return pid
}

// changeMain makes another process of the unit the main one. Whoever has the pid is held
// before it is seen whose it is, so that nobody else can have got it in between.
func (u *unit) changeMain(pid int) {
	handle, err := proc.OpenPID(pid)
	if err != nil {
		return
	}
	if !u.owns(pid) || handle.Signal(0) != nil {
		handle.Close()
		return
	}
	u.holdMain(handle)
	u.save()
	u.event(supervise.Event{Kind: supervise.EventMain, Processes: []tenure.Process{handle.Process()}})
}

// extend moves the end of what the unit is doing, as EXTEND_TIMEOUT_USEC asks. A stop
// does not take longer than its limit.
func (u *unit) extend(asked time.Duration) {
	for _, name := range []alarm{alarmStart, alarmStop} {
		by := asked
		if e := u.rec.Ending; name == alarmStop && e != nil && e.Limit > 0 {
			by = min(by, e.Limit+e.Told.left())
		}
		if at, set := u.rec.Deadline[name]; set && at.left() < by {
			u.setAlarm(name, by)
			if name == alarmStop && u.rec.Ending != nil {
				u.rec.Ending.Extended = true
			}
		}
	}
}

// store keeps descriptors for the unit's next life, or drops them.
func (u *unit) store(ctx context.Context, n notification, files []*os.File) {
	name := n.Name
	if name == "" {
		name = "stored"
	}
	var err error
	switch {
	case u.rec.Draining: // It has no next life.
	case n.Remove && n.Name != "":
		err = u.s.cfg.Holder.Remove(ctx, u.id, fdstore.Stored, n.Name)
		u.unkeep(fdstore.Stored, n.Name)
		u.save()
	case n.Store:
		if !u.rec.Stored { // Before the holder has them.
			u.rec.Stored = true
			u.save()
		}
		for _, file := range files {
			err = errors.Join(err, u.keep(ctx, fdstore.Stored, name, file))
		}
		u.save()
	}
	if err != nil && u.notify != nil && !u.notify.refused {
		u.notify.refused = true // Who sends many is told once.
		u.warn("descriptors cannot be kept", err)
	}
}

// feedWatchdog starts the watchdog's time anew.
func (u *unit) feedWatchdog() {
	every := u.rec.Spec.Watchdog
	if every > 0 && u.rec.Watchdog > 0 {
		every = u.rec.Watchdog
	}
	if every > 0 && u.rec.Ready && u.rec.Ending == nil && !u.rec.Alone {
		u.setAlarm(alarmWatchdog, every)
	}
}

// watchdogMissed ends a unit that has not given a sign of life.
func (u *unit) watchdogMissed(ctx context.Context) {
	if u.rec.State == supervise.Running || u.rec.State == supervise.Reloading {
		u.endBy(ctx, supervise.CauseWatchdog)
	}
}

// closeNotify stops hearing; the holder goes on keeping the socket.
func (u *unit) closeNotify() {
	if u.notify != nil {
		_ = u.notify.conn.Close() // Nothing is written to it.
		u.notify = nil
	}
}

// closeNotifyAtRest closes the socket of a unit that does not run.
func (u *unit) closeNotifyAtRest(ctx context.Context) {
	if u.notify == nil {
		return
	}
	u.closeNotify()
	if err := u.s.cfg.Holder.Remove(context.WithoutCancel(ctx), u.keeper(), fdstore.Notify, u.home); err != nil {
		u.warn("notify socket cannot be dropped", err)
	}
}
